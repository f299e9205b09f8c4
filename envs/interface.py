"""Convert between Gymnasium environments and the descriptions in `worldmodel.interface`.

Optional attributes with which an environment describes itself:

    action_meanings  a name for each choice of a Discrete action, or each component of another
    action_choices   for each component of another, names of its values: see `ActionSpec.choices`
    variable_names   the entries of `info` to record
    pose             the entries that are the player's pose: a `PoseSpec`, or its fields, as in
                     {"position": ("x", "y"), "heading": "angle", "full_turn": 360}; with
                     "new_levels": True where every episode has a level of its own
    controls         keys and mouse for the actions: see `worldmodel.interface.controls`

Atari's `get_action_meanings()` and Gymnasium's `get_keys_to_action()` work as well.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.errors import UserError, one_line
from worldmodel.interface.actions import ActionSpec, Number
from worldmodel.interface.controls import MOST_BINDINGS, MOST_KEYS_HELD, Controls, is_key
from worldmodel.interface.pose import NO_POSE, PoseSpec

DEFAULT_FPS = 30.0  # as in Gymnasium
# Key codes of pygame 1, which Gymnasium's environments still use.
OLD_ARROWS = {273: "up", 274: "down", 275: "right", 276: "left"}


@dataclass(frozen=True)
class FlatActions:
    """Actions of an environment as flat numbers from 0.

    Attributes:
        own: the environment's own action space.
        spec: describes the flat actions.
    """

    own: gymnasium.Space[Any]
    spec: ActionSpec

    def to_own(self, action: Any) -> Any:
        """Convert a flat action to the environment's."""
        own, numbers = self.own, np.asarray(action).reshape(self.own.shape or ())
        if not isinstance(own, spaces.Box):
            return (numbers + getattr(own, "start", 0)).astype(own.dtype)[()]
        if np.issubdtype(own.dtype, np.integer):
            numbers = np.rint(numbers)
        # A bound rounded to float32 may exceed the original.
        return np.clip(numbers.astype(own.dtype), own.low, own.high)

    def from_own(self, action: Any) -> Any:
        """Convert an action of the environment to a flat one, clipped to its bounds."""
        if isinstance(self.own, spaces.Box):
            numbers = np.asarray(action, self.spec.dtype).reshape(self.spec.shape)
            return np.clip(numbers, *np.asarray((self.spec.low, self.spec.high), np.float32))
        flat = np.asarray(action, np.int64) - getattr(self.own, "start", 0)
        return flat.reshape(self.spec.shape)[()]


def flat_actions(own: gymnasium.Space[Any], *, limit: float | None = None) -> FlatActions:
    """Describe an action space in flat form.

    Args:
        limit: replaces a Box's infinite bounds by -limit and limit.

    Raises:
        UserError: it is neither Discrete, MultiDiscrete, MultiBinary nor Box, or a Box with
            infinite or equal bounds.
    """
    if isinstance(own, spaces.Box):
        return FlatActions(own, _flat_box(own, limit))
    if isinstance(own, spaces.Discrete):
        return FlatActions(own, ActionSpec("discrete", (int(own.n),)))
    if isinstance(own, spaces.MultiDiscrete | spaces.MultiBinary):
        sizes = own.nvec if isinstance(own, spaces.MultiDiscrete) else np.full(own.shape, 2)
        return FlatActions(own, ActionSpec("multi_discrete", tuple(sizes.reshape(-1).tolist())))
    raise UserError(
        f"actions in {one_line(own)} cannot be recorded: a Discrete, MultiDiscrete, MultiBinary "
        "or Box space is needed"
    )


def _flat_box(own: spaces.Box, limit: float | None) -> ActionSpec:
    ends = np.stack([own.low.reshape(-1), own.high.reshape(-1)]).astype(np.float64)
    if limit is not None:
        ends = np.where(np.isinf(ends), np.sign(ends) * limit, ends)
    with np.errstate(over="ignore"):
        low, high = ends.astype(np.float32)
        span = high - low
    if not np.isfinite(span).all():
        raise UserError(
            f"actions in {one_line(own)} have no bounds: choose some, for "
            "example --action-limit 1 for -1 to 1"
        )
    if len(span) == 0 or span.min() <= 0:
        raise UserError(f"actions in {one_line(own)} have a number with equal bounds")
    return ActionSpec("box", low=tuple(low.tolist()), high=tuple(high.tolist()))


def space_of(actions: ActionSpec) -> gymnasium.Space:
    """The Gymnasium space of a description."""
    if actions.kind == "discrete":
        return spaces.Discrete(actions.sizes[0])
    if actions.kind == "multi_discrete":
        return spaces.MultiDiscrete(list(actions.sizes))
    return spaces.Box(np.asarray(actions.low, np.float32), np.asarray(actions.high, np.float32))


def actions_of(env: gymnasium.Env[Any, Any], *, limit: float | None = None) -> FlatActions:
    """Describe an environment's actions, with their names.

    Args:
        limit: as for `flat_actions`.

    Raises:
        UserError: as `flat_actions`.
    """
    flat, given = flat_actions(env.action_space, limit=limit), env.unwrapped
    if hasattr(given, "get_action_meanings"):
        meanings = given.get_action_meanings()  # pyright: ignore[reportAttributeAccessIssue]
    else:
        meanings = getattr(given, "action_meanings", ())
    choices = getattr(given, "action_choices", ())
    spec = flat.spec
    # Names that don't fit the space are ignored.
    with contextlib.suppress(UserError):
        spec = replace(spec, meanings=tuple(map(str, meanings)))
    with contextlib.suppress(UserError):
        spec = replace(spec, choices=tuple(tuple(map(str, names)) for names in choices))
    return replace(flat, spec=spec)


def action_spec(env: gymnasium.Env[Any, Any]) -> ActionSpec:
    """Describe an environment's actions if they are already flat.

    Raises:
        UserError: they are not, so they can't be recorded.
    """
    actions = actions_of(env)
    if space_of(actions.spec) != actions.own:
        raise UserError(
            f"actions in {one_line(actions.own)} cannot be recorded as they are: a Discrete or "
            "flat MultiDiscrete space from 0, or a flat bounded Box of float32 is needed. "
            "Pixels-v0 converts any space"
        )
    return actions.spec


def variable_names(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    """The entries of `info` to record."""
    return tuple(getattr(env.unwrapped, "variable_names", ()))


def pose_of(env: gymnasium.Env[Any, Any]) -> PoseSpec:
    """The numbers in an environment's `info` that are its player's pose, if it has one.

    Raises:
        UserError: its attribute `pose` is malformed.
    """
    given = getattr(env.unwrapped, "pose", NO_POSE)
    if isinstance(given, PoseSpec):
        return given
    try:
        return PoseSpec.from_json(given)
    except UserError as error:
        raise UserError(
            f"the environment's attribute pose: {error}. It must name numbers in info, such as "
            '{"position": ["x", "y"], "heading": "angle"}'
        ) from None


def fps_of(env: gymnasium.Env[Any, Any]) -> float:
    """Steps per second of an environment."""
    return float(env.metadata.get("render_fps") or DEFAULT_FPS)


def controls_of(env: gymnasium.Env[Any, Any], actions: FlatActions) -> Controls | None:
    """An environment's own controls; None if it defines none.

    Raises:
        UserError: they don't fit its actions.
    """
    given = getattr(env.unwrapped, "controls", None)
    if given is None and env.has_wrapper_attr("get_keys_to_action"):
        given = _translated(env.get_wrapper_attr("get_keys_to_action")(), actions)
    if not given:
        return None
    try:
        return Controls.from_json(given, actions.spec)
    except UserError as error:
        raise UserError(f"the controls of this world: {error}") from None


def _translated(keys_to_action: Mapping[Any, Any], actions: FlatActions) -> dict[str, Any]:
    """Convert the controls of `gymnasium.utils.play`: keys as a string of characters, or as one or
    a tuple of characters and codes; the environment's own actions.

    Combinations with unnamed keys are left out.
    """
    spec = actions.spec
    chosen: dict[frozenset[str], tuple[Number, ...]] = {}
    for keys, action in keys_to_action.items():
        names = _key_names(keys)
        if names is not None and len(names) <= MOST_KEYS_HELD:
            chosen[names] = spec.numbers(actions.from_own(action))
    idle = chosen.pop(frozenset(), spec.numbers(spec.idle))
    bindings = []
    for names, wanted in chosen.items():
        # A combination sets all components: gas and brake together may mean no gas.
        sets = {i: value for i, value in enumerate(wanted) if len(names) > 1 or value != idle[i]}
        if sets:
            bindings.append({"keys": sorted(names), "sets": sets})
    return {"idle": spec.plain(idle), "keys": bindings[:MOST_BINDINGS]}


def _key_names(keys: Any) -> frozenset[str] | None:
    """Names of the keys of a combination; None if one has no name."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    each = (keys,) if isinstance(keys, int) else tuple(keys)
    codes = [key if isinstance(key, int) else ord(key.lower()) for key in each]
    names = [OLD_ARROWS.get(code) or pygame.key.name(code) for code in codes]
    return frozenset(names) if all(map(is_key, names)) else None
