"""A checkpoint and a data set must be of the same world."""

from worldmodel.checkpoint import Checkpoint
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError


def check_same_world(
    checkpoint: Checkpoint,
    reader: EpisodeReader,
    name: str,
    *,
    same_environment: bool,
) -> None:
    """Raises UserError where frames, actions, variables or pose differ.

    Args:
        name: of the checkpoint, for the message.
        same_environment: whether its id and arguments must be the same, too. What was learned in
            one can be measured in its like.
    """
    config, info = checkpoint.model.config, reader.info
    pairs: list[tuple[str, object, object]] = [
        ("frames", config.tokenizer.frame_shape, info.frame_shape),
        ("actions", config.actions, info.actions),
        ("variables", config.variable_names, info.variable_names),
    ]
    if config.pose and info.pose:
        pairs.append(("pose", config.pose, info.pose))
    if same_environment:
        world = checkpoint.world
        pairs.append(
            ("environment", (world.env_id, world.env_kwargs), (info.env_id, info.env_kwargs))
        )
    check_same(pairs, reader, name)


def check_same(pairs: list[tuple[str, object, object]], reader: EpisodeReader, name: str) -> None:
    """Raises UserError where what a checkpoint has learned isn't what the data hold.

    Args:
        pairs: what it is, learned, recorded.
        name: of the checkpoint, for the message.
    """
    for what, learned, recorded in pairs:
        if learned != recorded:
            raise UserError(
                f"{name} has learned other {what} than {reader.folder} holds: "
                f"{learned} against {recorded}"
            )
