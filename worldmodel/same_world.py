"""A checkpoint and a data set must be of the same world."""

from worldmodel.configs import VideoGPTConfig, WorldModelConfig
from worldmodel.data import DataError, EpisodeReader


def check_same_world(
    config: WorldModelConfig | VideoGPTConfig, reader: EpisodeReader, checkpoint: str
) -> None:
    """Raises DataError where frames, actions, or variables or classes differ.

    Args:
        checkpoint: its name, for the message.
    """
    info = reader.info
    if isinstance(config, VideoGPTConfig):
        shape = config.tokenizer.clip_shape[1:]
        others = ("classes", config.class_names, info.class_names)
    else:
        shape = config.tokenizer.frame_shape
        others = ("variables", config.variable_names, info.variable_names)
    for what, learned, recorded in (
        ("frames", shape, info.frame_shape),
        ("actions", config.actions, info.actions),
        others,
    ):
        if learned != recorded:
            raise DataError(
                f"{checkpoint} has learned other {what} than {reader.folder} holds: "
                f"{learned} against {recorded}"
            )
