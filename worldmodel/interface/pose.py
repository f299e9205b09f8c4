"""Where a player is: the numbers that make up a pose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from worldmodel.errors import UserError
from worldmodel.interface.world import check_names
from worldmodel.storage.parsed import parsed

LEAST_TURN = 1e-6


@dataclass(frozen=True)
class PoseSpec:
    """The numbers in an environment's `info` that make up the player's pose.

    Attributes:
        position: names of 1 to 3 coordinates; () in worlds without a pose.
        heading: name of the direction that the player looks in, counterclockwise from the first
            coordinate's axis towards the second's; None: there is none.
        full_turn: how much the heading grows in a full turn: 360 in degrees, 2 pi in radians,
            negative where it grows clockwise.
        new_levels: whether every episode has a level of its own, as where levels are generated. A
            dream then learns from poses how players move, but not what is where.

    Raises:
        UserError: these can't be a pose.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    position: tuple[str, ...] = ()
    heading: str | None = None
    full_turn: float = 360.0
    new_levels: bool = False

    def __post_init__(self) -> None:
        check_names("pose", self.names)
        if len(self.position) > 3:
            raise UserError(f"a pose has 1 to 3 coordinates, not {', '.join(self.position)}")
        if self.heading is not None and len(self.position) != 2:
            raise UserError("a heading goes with a position of two coordinates")
        if not LEAST_TURN <= abs(self.full_turn) <= 1 / LEAST_TURN:  # NaN neither
            raise UserError(
                f"full_turn must be from {LEAST_TURN:g} to {1 / LEAST_TURN:g}, or as much below 0, "
                f"not {self.full_turn}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all numbers, the heading last."""
        return self.position if self.heading is None else (*self.position, self.heading)

    def __len__(self) -> int:
        """P, the size of a pose; 0 in worlds without one."""
        return len(self.names)

    def read(self, info: Mapping[str, Any]) -> np.ndarray | None:
        """The pose (P,) in an environment's info; None if part of it is missing."""
        numbers = [info.get(name) for name in self.names]
        if not numbers or not all(isinstance(n, int | float | np.number) for n in numbers):
            return None
        pose = np.asarray(numbers, np.float64)
        return pose if np.isfinite(pose).all() else None

    def radians(self, poses: np.ndarray) -> np.ndarray:
        """Headings (...) of poses (..., P), in radians, counterclockwise."""
        return np.asarray(poses[..., -1] * (2 * math.pi / self.full_turn))

    @classmethod
    def from_json(cls, data: Any) -> "PoseSpec":
        """Read what `dataclasses.asdict` gives. Raises UserError for anything else."""
        return parsed(cls, data)


NO_POSE = PoseSpec()
