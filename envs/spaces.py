"""Action spaces and poses: Gymnasium's, and worldmodel's own description of them."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.errors import UserError, one_line
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec

ROUNDING = 1e-6  # of a Box's range: as far outside as arithmetic in float32 may carry an action


def pose_of(env: gymnasium.Env[Any, Any]) -> PoseSpec:
    """What an environment's attribute `pose` says: a `PoseSpec`, or what makes one, as in
    {"position": ("x", "y"), "heading": "angle", "full_turn": 360}; no pose where it has none.

    Raises:
        ValueError: it says something else.
    """
    said = getattr(env.unwrapped, "pose", NO_POSE)
    if isinstance(said, PoseSpec):
        return said
    try:
        return PoseSpec.from_json({"heading": None, "full_turn": 360.0, **said})
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"its attribute pose is {one_line(repr(said), most=80)}, not such as "
            '{"position": ("x", "y"), "heading": "angle", "full_turn": 360}'
        ) from None


def pose_in(env: gymnasium.Env[Any, Any], info: dict[str, Any]) -> np.ndarray | None:
    """The pose (P,) that an info tells; None where it tells none, or not a whole one."""
    names = pose_of(env).names
    if not names or not all(isinstance(info.get(name), int | float | np.number) for name in names):
        return None
    pose = np.array([float(info[name]) for name in names])
    return pose if np.isfinite(pose).all() else None


def without_pose(env: gymnasium.Env[Any, Any], info: dict[str, Any]) -> dict[str, Any]:
    """An environment's info without the numbers that only tell where the player is."""
    variables = getattr(env.unwrapped, "variable_names", ())
    hidden = {"pose", *pose_of(env).names} - set(variables)
    return {name: value for name, value in info.items() if name not in hidden}


def space_of(actions: ActionSpec) -> gymnasium.Space:
    """The Gymnasium space that a description stands for."""
    if actions.kind == "discrete":
        return spaces.Discrete(actions.sizes[0])
    if actions.kind == "multi_discrete":
        return spaces.MultiDiscrete(list(actions.sizes))
    return spaces.Box(np.asarray(actions.low, np.float32), np.asarray(actions.high, np.float32))


def checked_action(action: Any, space: gymnasium.Space[Any]) -> np.ndarray:
    """A copy of an action in the space's own type.

    Other types are taken where nothing but precision is lost: float64 for float32, as NumPy and
    Gymnasium's wrappers give it, or any integer for an index, but never 0.5 for an index.

    Args:
        space: a Discrete, MultiDiscrete or Box.

    Raises:
        UserError: it is outside the space.
    """
    refused = UserError(f"action {action!r} is outside {space}")
    try:
        given = np.asarray(action)
    except ValueError:  # a ragged list
        raise refused from None
    dtype = np.dtype(space.dtype)
    if given.shape != space.shape or not np.can_cast(given.dtype, dtype, "same_kind"):
        raise refused
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is outside
        own = np.array(given, dtype)
    if isinstance(space, spaces.Box) and dtype.kind == "f":
        slack = ROUNDING * (space.high - space.low)
        if not ((own >= space.low - slack) & (own <= space.high + slack)).all():
            raise refused
        return np.clip(own, space.low, space.high)
    if (own != given).any() or not space.contains(own if own.ndim else own[()]):
        raise refused
    return own
