"""The environment that a data set or a checkpoint is of: one rule for both, so that what has been
recorded can be trained on, and what has been trained can be read."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Strict

from worldmodel.errors import UserError
from worldmodel.interface.checks import check_json, check_names

MAX_FPS = 1000
MIN_FPS = 0.01  # one step in 100 seconds
MOST_JSON_BYTES = 2**16  # of arguments, or of controls: hundreds of keys


@dataclass(frozen=True)
class Environment:
    """The environment that a data set was recorded in, or that a checkpoint has learned.

    Attributes:
        env_id: Gymnasium's name of it, or the name of another source: printable, of 1 to 200
            characters. A colon is allowed: a folder of videos may be called "clips:2024". In
            "module:Name-v0" it would make Gymnasium import a module: `envs.making` refuses that.
        env_kwargs: its arguments, JSON of at most 64 KiB.
        fps: steps a second of its own time, from 0.01 to 1000.
        controls: which keys choose the actions, for people who play: JSON of at most 64 KiB that
            `worldmodel.interface.controls` reads; empty: the default ones.

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
