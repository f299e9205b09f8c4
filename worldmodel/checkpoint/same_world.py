"""A checkpoint and a data set must be of the same world."""

from worldmodel.checkpoint import Checkpoint, VideoGPTCheckpoint
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.videogpt.configs import VideoGPTConfig


def check_same_world(
    checkpoint: Checkpoint | VideoGPTCheckpoint,
    reader: EpisodeReader,
    name: str,
    *,
    same_environment: bool,
) -> None:
    """Raises UserError where frames, actions, or variables or classes differ.

    Args:
        name: of the checkpoint, for the message.
        same_environment: whether its id and arguments must be the same, too. What was learned in
            one can be measured in its like.
    """
    config, info = checkpoint.model.config, reader.info
    if isinstance(config, VideoGPTConfig):
        shape = config.tokenizer.clip_shape[1:]
        others = (("classes", config.class_names, info.class_names),)
    else:
        shape = config.tokenizer.frame_shape
        others = (("variables", config.variable_names, info.variable_names),)
    environments = (
        "environment",
        (checkpoint.world.env_id, checkpoint.world.env_kwargs),
        (info.env_id, info.env_kwargs),
    )
    if isinstance(config, WorldModelConfig) and config.pose and info.pose:
        others = (*others, ("pose", config.pose, info.pose))
    for what, learned, recorded in (
        ("frames", shape, info.frame_shape),
        ("actions", config.actions, info.actions),
        *others,
        *([environments] if same_environment else []),
    ):
        if learned != recorded:
            raise UserError(
                f"{name} has learned other {what} than {reader.folder} holds: "
                f"{learned} against {recorded}"
            )
