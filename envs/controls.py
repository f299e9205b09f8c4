"""What keys do in an environment, as JSON that `play` reads and data sets keep.

    {"idle": action, "keys": [{"keys": ["up", "space"], "sets": {"0": 1}}, ...]}

A binding counts while all its keys are down, by pygame's names for them, and sets components of
the idle action; a Discrete action is component "0". Of several that set the same one the later
counts, so combinations of keys stand behind the keys alone.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.flat_actions import FlatActions

# Gymnasium names keys by pygame's codes: printable ones are characters, the others stand here.
KEY_NAMES = {
    8: "backspace",
    9: "tab",
    13: "return",
    27: "escape",
    32: "space",
    # Those of pygame 1, which environments of Gymnasium still use.
    273: "up",
    274: "down",
    275: "right",
    276: "left",
    1073741903: "right",
    1073741904: "left",
    1073741905: "down",
    1073741906: "up",
    1073742048: "left ctrl",
    1073742049: "left shift",
    1073742052: "right ctrl",
    1073742053: "right shift",
}


def controls_of(env: gymnasium.Env[Any, Any], actions: FlatActions) -> dict[str, Any] | None:
    """An environment's own `controls`; else those that its `get_keys_to_action` says; else None.

    Args:
        actions: the environment's, whose flat form the controls set.
    """
    if hasattr(env.unwrapped, "controls"):
        return env.unwrapped.controls  # pyright: ignore[reportAttributeAccessIssue]
    if not env.has_wrapper_attr("get_keys_to_action"):
        return None
    return translated(env.get_wrapper_attr("get_keys_to_action")(), actions)


def translated(keys_to_action: Mapping[Any, Any], actions: FlatActions) -> dict[str, Any]:
    """Controls from what `gymnasium.utils.play` takes: keys as a string of characters, or as
    one or a tuple of characters and codes; actions of the environment's own.

    Keys without a name here are left out, with what they do.
    """
    combinations = {
        names: _components(actions.from_own(action))
        for keys, action in keys_to_action.items()
        if (names := _key_names(keys)) is not None
    }
    idle = combinations.pop((), _at_rest(actions))
    bindings = []
    for keys, wanted in sorted(combinations.items(), key=lambda item: len(item[0])):
        # Several keys say all of an action: gas and brake together may well be no gas.
        sets = {
            str(i): value for i, value in enumerate(wanted) if len(keys) > 1 or value != idle[i]
        }
        bindings.append({"keys": list(keys), "sets": sets})
    is_one = isinstance(actions.flat, spaces.Discrete)
    return {"idle": idle[0] if is_one else idle, "keys": bindings}


def _key_names(keys: Any) -> tuple[str, ...] | None:
    """Names of the keys of a combination; None where one has no name here."""
    each = (keys,) if isinstance(keys, int) else tuple(keys)
    names = [_key_name(key if isinstance(key, int) else ord(key)) for key in each]
    return None if None in names else tuple(name for name in names if name is not None)


def _key_name(code: int) -> str | None:
    if code in KEY_NAMES:
        return KEY_NAMES[code]
    return chr(code).lower() if 33 <= code <= 126 else None


def _at_rest(actions: FlatActions) -> list[Any]:
    """What Gymnasium takes for nothing pressed, where that isn't said: action 0."""
    flat = actions.flat
    if isinstance(flat, spaces.Box):
        return _components(np.clip(np.zeros_like(flat.low), flat.low, flat.high))
    return [0] * len(_components(flat.sample()))


def _components(flat_action: Any) -> list[Any]:
    return np.asarray(flat_action).reshape(-1).tolist()
