"""The environment of a data set or a checkpoint, and rules for its names and JSON.

One rule for both, so that what has been recorded can be trained on, and what has been trained can
be loaded.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Strict

from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import parse_json

MAX_FPS = 1000
MIN_FPS = 0.01  # one step in 100 seconds
MOST_JSON_BYTES = 2**16  # of arguments, or of controls: hundreds of keys
MOST_NAME = 200  # characters


def check_names(what: str, names: Sequence[str]) -> None:
    """Raises UserError unless the names are different and printable, of 1 to 200 characters."""
    for name in names:
        if not 0 < len(name) <= MOST_NAME or not name.isprintable():
            raise UserError(
                f"{what}: {one_line(repr(name), most=80)} is not a printable name of 1 to "
                f"{MOST_NAME} characters"
            )
    if len(set(names)) < len(names):
        raise UserError(f"{what} must be different names, not {', '.join(names)}")


def check_json(what: str, data: dict[str, Any], *, most_bytes: int) -> None:
    """Raises UserError unless `data` can be written as JSON of at most `most_bytes` and read again:
    finite numbers and Unicode text, not nested too deeply."""
    try:
        text = json.dumps(data, allow_nan=False)
        parse_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{what} can't be written as JSON: {reason}") from None
    if len(text) > most_bytes:
        raise UserError(f"{what} must be at most {most_bytes} bytes as JSON, not {len(text)}")


@dataclass(frozen=True)
class Environment:
    """The environment that a data set was recorded in, or that a checkpoint has learned.

    Attributes:
        env_id: its Gymnasium id, or the name of another source: printable, of 1 to 200 characters.
            A colon is allowed: a folder of videos may be called "clips:2024". In "module:Name-v0"
            it would make Gymnasium import a module: `envs.making` refuses that.
        env_kwargs: its arguments, JSON of at most 64 KiB.
        fps: steps per second of its own time, from 0.01 to 1000.
        controls: keys for people who play: JSON of at most 64 KiB, see
            `worldmodel.interface.controls`; empty: the default ones.

    Raises:
        UserError: one of them is invalid; the message says which, and why.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    fps: Annotated[float, Strict()]
    controls: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names("env_id", [self.env_id])
        check_json("env_kwargs", self.env_kwargs, most_bytes=MOST_JSON_BYTES)
        check_json("controls", self.controls, most_bytes=MOST_JSON_BYTES)
        if not MIN_FPS <= self.fps <= MAX_FPS:
            raise UserError(f"fps must be from {MIN_FPS} to {MAX_FPS}, not {self.fps}")
