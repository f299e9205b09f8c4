"""Which keys and which motion of the mouse set which numbers of an action.

An environment says so in an attribute `controls`, a file in `--keys FILE`, both as JSON:

    {
      "idle": [0, 0, 5],
      "keys": [
        {"keys": ["w"], "sets": {"0": 1}, "name": "forward"},
        {"keys": ["left shift", "w"], "sets": {"0": 2}},
        {"keys": ["mouse 1"], "sets": {"1": 1}}
      ],
      "mouse": {"x": {"component": 2, "per_pixel": 0.1}}
    }

`idle` is the action when nothing is down: an integer for a Discrete space, whose one component
is "0", otherwise a list. An entry of `keys` applies while all its keys are down. Of two that set
the same component the one of more keys wins, else the one pressed last. `name` says what it
does. Keys go by pygame's names, mouse buttons are "mouse 1" to "mouse 3". What the mouse moved
since the last step, in pixels to the right (x) and down (y), times `per_pixel` is added to a
component.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from play.actions import Actions, Number
from play.checks import check_entries, finite, integer, text
from play.commands import YIELDING_KEY, command_of
from worldmodel.errors import UserError
from worldmodel.storage.files import read_json

MAX_FILE_BYTES = 2**16
MAX_BINDINGS = 100
MAX_KEYS_HELD = 4
MAX_NAME = 24
MAX_PER_PIXEL = 1e6
# pygame's names of keys, but for single letters; and the mouse's buttons.
NAMED_KEY = re.compile(
    r"up|down|left|right|space|return|enter|backspace|delete|insert|home|end|page (up|down)|"
    r"(left|right) (shift|ctrl|alt|meta)|alt gr|tab|escape|caps lock|numlock|scroll lock|"
    r"print screen|break|menu|clear|help|f([1-9]|1[0-5])|\[[0-9./*+-]\]|mouse [123]"
)


@dataclass(frozen=True)
class Binding:
    """Keys that set components while all of them are down.

    Attributes:
        keys: in the order in which the help shows them.
        sets: (number of a component, its value).
        rank: of bindings that apply and set one component, the one of the highest rank wins.
        name: what they do; empty where nobody says.
    """

    keys: tuple[str, ...]
    sets: tuple[tuple[int, Number], ...]
    rank: int
    name: str = ""


@dataclass(frozen=True)
class MouseAxis:
    """A direction of the mouse, and the component that its motion is added to."""

    component: int
    per_pixel: Number


@dataclass(frozen=True)
class Controls:
    """How keys and mouse make actions.

    Attributes:
        idle: every component's value when nothing is down.
        mouse_x, mouse_y: to the right, and down.
    """

    idle: tuple[Number, ...]
    bindings: tuple[Binding, ...]
    mouse_x: MouseAxis | None = None
    mouse_y: MouseAxis | None = None


@dataclass(frozen=True)
class Announced:
    """Controls as somebody wrote them, not checked yet.

    Attributes:
        source: where they stand, for messages.
        data: what stands there.
    """

    source: str
    data: Any


def read_keys_file(path: Path) -> Announced:
    """What a file for --keys says.

    Raises:
        UserError: it is missing, no regular file, too large, or no JSON.
    """
    return Announced(f"--keys {path}", read_json(path, most_bytes=MAX_FILE_BYTES))


def checked_controls(announced: Announced, actions: Actions) -> Controls:
    """Announced controls, once every entry is found to make sense.

    Raises:
        UserError: one doesn't; names it, and what was expected.
    """
    try:
        return _controls_from(announced.data, actions)
    except ValueError as error:
        raise UserError(f"{announced.source}: {error}") from error


def _controls_from(data: Any, actions: Actions) -> Controls:
    check_entries(data, ("idle", "keys"), "the controls", optional=("mouse",))
    idle = _idle_from(data["idle"], actions)
    entries = data["keys"]
    if not isinstance(entries, list | tuple) or len(entries) > MAX_BINDINGS:
        raise ValueError(f"keys must be a list of at most {MAX_BINDINGS} objects")
    bindings = tuple(_binding_from(entry, n, actions) for n, entry in enumerate(entries))
    seen: dict[tuple[frozenset[str], int], int] = {}
    for number, binding in enumerate(bindings):
        for component, _ in binding.sets:
            first = seen.setdefault((frozenset(binding.keys), component), number)
            if first != number:
                raise ValueError(
                    f"keys[{number}] sets component {component} with the keys of keys[{first}]"
                )
    mouse = data.get("mouse", {})
    check_entries(mouse, (), "mouse", optional=("x", "y"))
    return Controls(
        idle=idle,
        bindings=bindings,
        mouse_x=_axis_from(mouse, "x", actions),
        mouse_y=_axis_from(mouse, "y", actions),
    )


def _idle_from(data: Any, actions: Actions) -> tuple[Number, ...]:
    if actions.is_discrete:
        return (_value(data, "idle", 0, actions),)
    if not isinstance(data, list | tuple) or len(data) != len(actions.components):
        raise ValueError(f"idle must be a list of {len(actions.components)} numbers")
    return tuple(_value(value, f"idle[{n}]", n, actions) for n, value in enumerate(data))


def _binding_from(data: Any, number: int, actions: Actions) -> Binding:
    where = f"keys[{number}]"
    check_entries(data, ("keys", "sets"), where, optional=("name",))
    keys = data["keys"]
    if not isinstance(keys, list | tuple) or not 1 <= len(keys) <= MAX_KEYS_HELD:
        raise ValueError(f"{where}: keys must be a list of 1 to {MAX_KEYS_HELD} names")
    for key in keys:
        _check_key(key, where)
    if len(set(keys)) < len(keys):
        raise ValueError(f"{where} names a key twice")
    if not isinstance(data["sets"], Mapping) or not data["sets"]:
        raise ValueError(f"{where}: sets must be an object of components and their values")
    sets = []
    for name, value in data["sets"].items():
        component = _component(name, where, actions)
        sets.append((component, _value(value, f"{where}: sets {name!r}", component, actions)))
    shown = text(data["name"], f"{where}: name", most=MAX_NAME) if "name" in data else ""
    return Binding(tuple(keys), tuple(sets), rank=len(keys), name=shown)


def _check_key(key: Any, where: str) -> None:
    if not isinstance(key, str) or not _is_key(key):
        raise ValueError(
            f"{where}: {str(key)[:40]!r} is no key; keys go by pygame's names, such as 'a', 'up', "
            "'left shift', 'page up', and mouse buttons are 'mouse 1' to 'mouse 3'"
        )
    command = command_of(key)
    if command is not None and key != YIELDING_KEY:
        raise ValueError(f"{where}: the key {key!r} is taken by the command {command!r}")


def _is_key(name: str) -> bool:
    is_letter = len(name) == 1 and name.isprintable() and name == name.lower()
    return is_letter or NAMED_KEY.fullmatch(name) is not None


def _component(name: Any, where: str, actions: Actions) -> int:
    """The number of a component that a name of "0" or more stands for."""
    names = [str(number) for number in range(len(actions.components))]
    if name not in names:
        raise ValueError(
            f"{where}: sets: {str(name)[:40]!r} is no component; they are '0' to {names[-1]!r}"
        )
    return names.index(name)


def _value(data: Any, where: str, number: int, actions: Actions) -> Number:
    component = actions.components[number]
    if component.is_integer:
        return integer(data, where, int(component.low), int(component.high))
    value = finite(data, where)
    if not component.low <= value <= component.high:
        raise ValueError(f"{where} must be from {component.low:g} to {component.high:g}")
    return component.nearest(value)


def _axis_from(mouse: dict[str, Any], axis: str, actions: Actions) -> MouseAxis | None:
    if axis not in mouse:
        return None
    where = f"mouse {axis}"
    check_entries(mouse[axis], ("component", "per_pixel"), where)
    last = len(actions.components) - 1
    component = integer(mouse[axis]["component"], f"{where}: component", 0, last)
    per_pixel = finite(mouse[axis]["per_pixel"], f"{where}: per_pixel")
    if abs(per_pixel) > MAX_PER_PIXEL:
        raise ValueError(f"{where}: per_pixel must be at most {MAX_PER_PIXEL:g} in size")
    return MouseAxis(component, per_pixel)
