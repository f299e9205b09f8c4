"""Where a player is: which numbers tell it, and how it moves in the player's own frame."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_NAME = 200  # characters
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
    """

    position: tuple[str, ...] = ()
    heading: str | None = None
    full_turn: float = 360.0

    def __post_init__(self) -> None:
        """Raises ValueError for what is no pose."""
        if len(self.position) > 3 or len(set(self.names)) < len(self.names):
            raise ValueError(f"a pose has 1 to 3 coordinates of different names, not {self.names}")
        for name in self.names:
            if not 0 < len(name) <= MOST_NAME or not name.isprintable():
                raise ValueError(f"{name!r} is no printable name of a coordinate")
        if self.heading is not None and len(self.position) != 2:
            raise ValueError("a heading goes with a position of two coordinates")
        if not LEAST_TURN <= abs(self.full_turn) <= 1 / LEAST_TURN:  # NaN neither
            raise ValueError(
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

    def radians(self, poses: np.ndarray) -> np.ndarray:
        """Headings of poses (..., P), counterclockwise, (...)."""
        return np.asarray(poses[..., -1] * (2 * math.pi / self.full_turn))

    def to_json(self) -> dict[str, Any]:
        return {
            "position": list(self.position),
            "heading": self.heading,
            "full_turn": self.full_turn,
        }

    @classmethod
    def from_json(cls, data: Any) -> "PoseSpec":
        """Raises ValueError, KeyError or TypeError when `data` is not what `to_json` wrote."""
        heading = data["heading"]
        return cls(
            position=tuple(str(name) for name in data["position"]),
            heading=None if heading is None else str(heading),
            full_turn=float(data["full_turn"]),
        )


NO_POSE = PoseSpec()
