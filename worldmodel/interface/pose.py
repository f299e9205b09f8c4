"""Where a player is: which numbers tell it, and how it moves in the player's own frame."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from worldmodel.errors import UserError
from worldmodel.interface.checks import check_names
from worldmodel.storage.parsed import parsed

LEAST_TURN = 1e-6


@dataclass(frozen=True)
class PoseSpec:
    """The numbers in an environment's `info` that tell where the player is.

    Attributes:
        position: names of 1 to 3 coordinates; () where no pose is told.
        heading: name of the direction that the player looks in, counterclockwise from the first
            coordinate's axis towards the second's; None: it has none.
        full_turn: what the heading grows by in a full turn: 360 in degrees, 2 pi in radians,
            negative where it grows clockwise.

    Raises:
        UserError: these are no pose.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    position: tuple[str, ...] = ()
    heading: str | None = None
    full_turn: float = 360.0

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
        """Of all its numbers, the heading last."""
        return self.position if self.heading is None else (*self.position, self.heading)

    def __len__(self) -> int:
        """P, how many numbers tell a pose; 0: none is told."""
        return len(self.names)

    def read(self, info: Mapping[str, Any]) -> np.ndarray | None:
        """The pose (P,) in an environment's info; None where part of it is missing."""
        numbers = [info.get(name) for name in self.names]
        if not numbers or not all(isinstance(n, int | float | np.number) for n in numbers):
            return None
        pose = np.asarray(numbers, np.float64)
        return pose if np.isfinite(pose).all() else None

    def radians(self, poses: np.ndarray) -> np.ndarray:
        """Headings of poses (..., P), counterclockwise, (...)."""
        return np.asarray(poses[..., -1] * (2 * math.pi / self.full_turn))

    @classmethod
    def from_json(cls, data: Any) -> "PoseSpec":
        """Raises UserError when `data` is not what `dataclasses.asdict` gives."""
        return parsed(cls, data)


NO_POSE = PoseSpec()
