"""Which keys and mouse motions set which numbers of an action.

An environment defines them in an attribute `controls`, data sets and checkpoints store them, and
`python -m play --keys FILE` replaces them, all as JSON:

    {
      "idle": [0, 0, 5],
      "keys": [
        {"keys": ["w"], "sets": {"0": 1}, "name": "forward"},
        {"keys": ["left shift", "w"], "sets": {"0": 2}},
        {"keys": ["mouse 1"], "sets": {"1": 1}}
      ],
      "mouse": {"x": {"component": 2, "per_pixel": 0.1}}
    }

`idle` is the action when nothing is pressed: an integer for a Discrete space, whose one component
is "0", otherwise a list. An entry of `keys` applies while all its keys are down. If two set the
same component, the one with more keys wins, else the one pressed last. `name` describes it. Keys
have pygame's names, mouse buttons are "mouse 1" to "mouse 3". The mouse's motion since the last
step, in pixels to the right (x) and down (y), times `per_pixel`, is added to a component.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, Strict, model_validator

from worldmodel.errors import UserError
from worldmodel.interface.actions import MOST_SHOWN, Action, ActionSpec, Component, Number
from worldmodel.storage.parsed import parsed

MOST_BINDINGS = 100
MOST_KEYS_HELD = 4
LARGEST_PER_PIXEL = 1e6
# pygame's names of keys, but for single characters; and the mouse's buttons.
NAMED_KEY = re.compile(
    r"up|down|left|right|space|return|enter|backspace|delete|insert|home|end|page (up|down)|"
    r"(left|right) (shift|ctrl|alt|meta)|alt gr|tab|escape|caps lock|numlock|scroll lock|"
    r"print screen|break|menu|clear|help|f([1-9]|1[0-5])|\[[0-9./*+-]\]|mouse [123]"
)
# Default keys of choices and buttons with these names, in upper or lower case.
DEFAULT_KEYS = {
    "left": ("left", "a"),
    "right": ("right", "d"),
    "forward": ("up", "w"),
    "backward": ("down", "s"),
    "up": ("up", "w"),
    "down": ("down", "s"),
}
ARROWS = tuple(DEFAULT_KEYS[name] for name in ("left", "right", "up", "down"))
TURNS = ("left", "right")
DIGITS = "123456789"
# Default keys to raise and to lower a component, in order of the components; the letters of a pair
# are above each other on a keyboard.
PAIRS = (
    (("right", "d"), ("left", "a")),
    (("up", "w"), ("down", "s")),
    (("e",), ("c",)),
    (("t",), ("g",)),
    (("u",), ("j",)),
    (("i",), ("k",)),
    (("f",), ("v",)),
)


def is_key(name: str) -> bool:
    """Whether controls can name this key."""
    is_character = len(name) == 1 and name.isprintable() and name == name.lower()
    return is_character or NAMED_KEY.fullmatch(name) is not None


def _checked_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    for key in keys:
        if not is_key(key):
            raise ValueError(
                f"{key[:40]!r} is no key; keys go by pygame's names, such as 'a', 'up', 'left "
                "shift', 'page up', and mouse buttons are 'mouse 1' to 'mouse 3'"
            )
    if len(set(keys)) < len(keys):
        raise ValueError("it names a key twice")
    return keys


def _checked_name(name: str) -> str:
    if len(name) > MOST_SHOWN or not name.isprintable():
        raise ValueError(f"it must be printable text of at most {MOST_SHOWN} characters")
    return name


class Binding(BaseModel, frozen=True, extra="forbid"):
    """Keys that set components while all of them are down.

    Attributes:
        keys: in the order in which the help shows them.
        sets: number of a component -> its value.
        name: what they do; may be empty.
    """

    keys: Annotated[
        tuple[str, ...],
        Field(min_length=1, max_length=MOST_KEYS_HELD),
        AfterValidator(_checked_keys),
    ]
    sets: Annotated[dict[int, Any], Field(min_length=1)]
    name: Annotated[str, AfterValidator(_checked_name)] = ""


class MouseAxis(BaseModel, frozen=True, extra="forbid"):
    """A component that a direction of the mouse's motion is added to."""

    component: Annotated[int, Strict()]
    per_pixel: Annotated[FiniteFloat, Strict(), Field(ge=-LARGEST_PER_PIXEL, le=LARGEST_PER_PIXEL)]


class Mouse(BaseModel, frozen=True, extra="forbid"):
    """What the mouse's motion does, to the right (x) and down (y)."""

    x: MouseAxis | None = None
    y: MouseAxis | None = None


class Controls(BaseModel, frozen=True, extra="forbid"):
    """How a person's keys and mouse become actions, and actions words.

    Attributes:
        actions: the action space.
        idle: the action when nothing is pressed.
        keys: the bindings, in the order in which the help shows them.
        mouse: what its motion does.
    """

    actions: ActionSpec = Field(exclude=True)
    idle: Annotated[int, Strict()] | tuple[Any, ...]
    keys: Annotated[tuple[Binding, ...], Field(max_length=MOST_BINDINGS)]
    mouse: Mouse = Mouse()

    @classmethod
    def from_json(cls, data: Any, actions: ActionSpec) -> "Controls":
        """Controls from JSON.

        Raises:
            UserError: an entry is malformed or doesn't fit the actions; the message names it.
        """
        if not isinstance(data, dict):
            raise UserError("controls must be an object of idle, keys and mouse")
        return parsed(cls, {**data, "actions": actions})

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @model_validator(mode="after")
    def _check(self) -> "Controls":
        """Raises UserError for what doesn't fit the actions."""
        is_one = self.actions.kind == "discrete"
        idle, count = (self.idle,) if is_one else self.idle, len(self.actions.components)
        if not isinstance(idle, tuple) or len(idle) != count:
            raise UserError(f"idle must be a list of {count} numbers")
        values = [("idle" if is_one else f"idle[{n}]", n, value) for n, value in enumerate(idle)]
        seen: dict[tuple[frozenset[str], int], int] = {}
        for i, binding in enumerate(self.keys):
            for number, value in binding.sets.items():
                values.append((f"keys[{i}].sets[{number}]", number, value))
                first = seen.setdefault((frozenset(binding.keys), number), i)
                if first != i:
                    raise UserError(
                        f"keys[{i}] sets component {number} with the keys of keys[{first}]"
                    )
        for where, number, value in values:
            self._component(number, where).check(value, where)
        for where, axis in (("mouse.x", self.mouse.x), ("mouse.y", self.mouse.y)):
            if axis is not None:
                self._component(axis.component, where)
        return self

    def _component(self, number: int, where: str) -> Component:
        """Raises UserError where there is no such."""
        components = self.actions.components
        if not 0 <= number < len(components):
            raise UserError(
                f"{where}: there is no component {number}; they are 0 to {len(components) - 1}"
            )
        return components[number]

    @property
    def uses_mouse(self) -> bool:
        """Whether the mouse's motion steers."""
        return self.mouse != Mouse()

    @property
    def key_names(self) -> set[str]:
        """Every key that steers."""
        return {key for binding in self.keys for key in binding.keys}

    def resolve(self, keys: Sequence[str], motion: tuple[int, int] = (0, 0)) -> Action:
        """The action for the keys that are down, oldest first, and the mouse's motion.

        Args:
            motion: pixels to the right and down since the last step.
        """
        pressed_at = {key: number for number, key in enumerate(keys)}
        applying = [binding for binding in self.keys if pressed_at.keys() >= set(binding.keys)]
        # Later ones overwrite earlier ones: those with more keys come last, then the newest.
        applying.sort(
            key=lambda b: (len(b.keys), sorted((pressed_at[key] for key in b.keys), reverse=True))
        )
        values = list(self.actions.numbers(self.idle))
        for binding in applying:
            for component, value in binding.sets.items():
                values[component] = value
        for axis, pixels in zip((self.mouse.x, self.mouse.y), motion, strict=True):
            if axis is not None:
                moved = values[axis.component] + axis.per_pixel * pixels
                values[axis.component] = self.actions.components[axis.component].nearest(moved)
        return self.actions.plain(values)

    def words(self, action: Action) -> str:
        """An action as people read it: its components that aren't idle."""
        if isinstance(action, int):
            return self._value_in_words(0, action)
        parts = [
            self._value_in_words(number, value)
            for number, (value, idle) in enumerate(
                zip(action, self.actions.numbers(self.idle), strict=True)
            )
            if value != idle
        ]
        return ", ".join(parts) or "idle"

    def help_lines(self) -> list[tuple[str, str]]:
        """(keys or mouse motion, what it does).

        Combinations that do the same as one of their keys alone are left out: they only decide
        which of two keys wins.
        """
        alone = {(b.keys[0], *b.sets.items()) for b in self.keys if len(b.keys) == 1}
        lines: dict[str, list[str]] = {}
        for binding in self.keys:
            if len(binding.keys) > 1 and any(
                (k, *binding.sets.items()) in alone for k in binding.keys
            ):
                continue
            words = binding.name or ", ".join(
                self._value_in_words(*pair) for pair in binding.sets.items()
            )
            lines.setdefault(words, []).append(" + ".join(binding.keys))
        shown = [(" / ".join(keys), words) for words, keys in lines.items()]
        axes = (("left / right", self.mouse.x), ("up / down", self.mouse.y))
        return shown + [
            (f"mouse {motion}", self._axis_in_words(axis))
            for motion, axis in axes
            if axis is not None
        ]

    def _axis_in_words(self, axis: MouseAxis) -> str:
        component = self.actions.components[axis.component]
        return (
            component.name
            if component.is_integer
            else " / ".join(component.names) or component.name
        )

    def _value_in_words(self, number: int, value: Number) -> str:
        """A component's value by the name of the binding that sets it, else by its own name."""
        component = self.actions.components[number]
        for binding in self.keys:
            sets = binding.sets
            alone = binding.name and sets.keys() == {number}
            if alone and component.nearest(sets[number]) == value:
                return binding.name
        return component.words(value, self.actions.numbers(self.idle)[number])


def default_controls(actions: ActionSpec) -> Controls:
    """Keys for any action space, as far as there are keys.

    Choices and buttons called left, right, forward, backward, up and down get the arrow keys and
    WASD; others get the digits 1 to 9, in order. Where no choice of a discrete action has such a
    name, the first four get the arrow keys; a noop gets none. Among discrete actions a turn beats
    all others, so that you can steer while you hold the walking key.

    Otherwise the first component is on the left and right keys, the second on up and down, and so
    on: they set a real number to its bounds, an index to 1 and 2. Digits set higher indices.
    """
    buttons = [c.name.lower() for c in actions.components if c.is_button]
    taken = {key for name in buttons for key in DEFAULT_KEYS.get(name, ())}
    pairs = (pair for pair in PAIRS if taken.isdisjoint((*pair[0], *pair[1])))
    digits = iter(DIGITS)
    chosen: dict[str, tuple[int, Number]] = {}  # key -> the component that it sets, and to what
    for number, component in enumerate(actions.components):
        named: list[tuple[str, Number]] = []  # values that get keys by their name, or a digit
        if actions.kind == "discrete":
            named = [(name, choice) for choice, name in enumerate(component.names)]
        elif component.is_button:
            named = [(component.name, 1)]
        elif not component.is_integer or component.high >= 2:
            ends = (1, 2) if component.is_integer else (component.high, component.low)
            for keys, value in zip(next(pairs, ()), ends, strict=False):
                chosen |= dict.fromkeys(keys, (number, value))
            if component.is_integer:
                named = [("", value) for value in range(3, int(component.high) + 1)]
        is_named = any(name.lower() in DEFAULT_KEYS for name, _ in named)
        arrows = iter(() if is_named or actions.kind != "discrete" else ARROWS)
        for name, value in named:
            keys = [key for key in DEFAULT_KEYS.get(name.lower(), ()) if key not in chosen]
            does_something = value != actions.idle or (
                name.lower() != "noop" and len(named) <= len(ARROWS)
            )
            if not keys and does_something:
                keys = list(next(arrows, ()))
            if not keys and value != actions.idle:
                keys = list(next(digits, ""))
            chosen |= dict.fromkeys(keys, (number, value))
    bindings = [((key,), *setting) for key, setting in chosen.items()]
    if actions.kind == "discrete":
        names = actions.components[0].names
        turns = [key for key, (_, choice) in chosen.items() if names[int(choice)].lower() in TURNS]
        others = [key for key in chosen if key not in turns]
        bindings += [((turn, key), *chosen[turn]) for turn in turns for key in others]
    return Controls.from_json(
        {
            "idle": actions.idle,
            "keys": [{"keys": keys, "sets": {number: value}} for keys, number, value in bindings],
        },
        actions,
    )
