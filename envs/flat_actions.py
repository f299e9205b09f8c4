"""Action spaces of any environment as one of the three that episodes can hold."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.errors import UserError, one_line


@dataclass(frozen=True)
class FlatActions:
    """An environment's own action space, and the same actions as flat numbers from 0.

    Attributes:
        own: the space as the environment has it.
        flat: a Discrete from 0, a flat MultiDiscrete from 0, or a flat bounded Box of float32.
    """

    own: gymnasium.Space[Any]
    flat: spaces.Discrete | spaces.MultiDiscrete | spaces.Box

    def to_own(self, action: Any) -> Any:
        """The environment's action for a flat one."""
        own = self.own
        if isinstance(own, spaces.Discrete):
            return own.start + own.dtype.type(action)
        shaped = np.asarray(action).reshape(own.shape or ())
        if isinstance(own, spaces.MultiDiscrete):
            return (shaped + own.start).astype(own.dtype)
        if not isinstance(own, spaces.Box):
            return shaped.astype(own.dtype)
        if np.issubdtype(own.dtype, np.integer):
            shaped = np.rint(shaped)
        # A bound in float32 may lie outside the one that it was rounded from.
        return np.clip(shaped.astype(own.dtype), own.low, own.high)

    def from_own(self, action: Any) -> Any:
        """The flat action for one of the environment's; what a limit cuts off becomes the limit."""
        own = self.own
        if isinstance(own, spaces.Discrete):
            return np.int64(action - own.start)
        if isinstance(self.flat, spaces.Box):
            numbers = np.asarray(action, np.float32).reshape(self.flat.shape)
            return np.clip(numbers, self.flat.low, self.flat.high)
        start = own.start if isinstance(own, spaces.MultiDiscrete) else 0
        return (np.asarray(action, np.int64) - start).reshape(-1)


def flat_actions(own: gymnasium.Space[Any], *, limit: float | None = None) -> FlatActions:
    """The flat form of an environment's action space.

    Args:
        limit: takes the place of a Box's bounds that are infinite, as -limit and limit.

    Raises:
        UserError: it is neither Discrete, MultiDiscrete, MultiBinary nor Box, or a Box with
            a bound that is infinite or leaves no room.
    """
    if isinstance(own, spaces.Discrete):
        return FlatActions(own, spaces.Discrete(int(own.n)))
    if isinstance(own, spaces.MultiDiscrete):
        return FlatActions(own, spaces.MultiDiscrete(own.nvec.reshape(-1)))
    if isinstance(own, spaces.MultiBinary):
        return FlatActions(own, spaces.MultiDiscrete([2] * int(np.prod(own.shape))))
    if isinstance(own, spaces.Box):
        return FlatActions(own, _flat_box(own, limit))
    raise UserError(
        f"actions in {one_line(own)} cannot be recorded: a Discrete, MultiDiscrete, MultiBinary "
        "or Box space is needed"
    )


def _flat_box(own: spaces.Box, limit: float | None) -> spaces.Box:
    ends = [end.reshape(-1).astype(np.float64) for end in (own.low, own.high)]
    if limit is not None:
        infinite = (np.where(np.isinf(end), np.sign(end) * limit, end) for end in ends)
        ends = list(infinite)
    with np.errstate(over="ignore"):
        low, high = (end.astype(np.float32) for end in ends)
        span = high - low
    if not np.isfinite(span).all():
        raise UserError(
            f"actions in {one_line(own)} have no bounds: choose some for what has none, as "
            "--action-limit 1 for -1 to 1"
        )
    if len(span) == 0 or span.min() <= 0:
        raise UserError(f"actions in {one_line(own)} leave no choice in a number")
    return spaces.Box(low, high)
