"""Keys for environments that announce none."""

from collections.abc import Iterator

from play.actions import Actions, Component, Number
from play.controls import Binding, Controls

STEERING_KEYS = {
    "left": ("left", "a"),
    "right": ("right", "d"),
    "forward": ("up", "w"),
    "backward": ("down", "s"),
}
# Of buttons that are held together, as a gamepad's.
BUTTON_KEYS = {**STEERING_KEYS, "up": ("up", "w"), "down": ("down", "s")}
KeyPair = tuple[tuple[str, ...], tuple[str, ...]]  # for more of a component, and for less
TURNS = ("left", "right")
DIGITS = "123456789"
# In order of the components; the letters of a pair lie above each other.
PAIRS: tuple[KeyPair, ...] = (
    (("right", "d"), ("left", "a")),
    (("up", "w"), ("down", "s")),
    (("e",), ("c",)),
    (("t",), ("g",)),
    (("u",), ("j",)),
    (("i",), ("k",)),
    (("f",), ("v",)),
)


def default_controls(actions: Actions) -> Controls:
    """Keys for any action space; components and choices beyond the keys that there are have none.

    Discrete: actions called left, right, forward and backward get the arrow keys and WASD, other
    ones the digits 1 to 9, in order. Without a key down the action is "noop", or action 0 where
    there is no "noop". A turn goes before walking, so that one can steer with the walking key
    held.

    Otherwise the first component is on the left and right keys, the second on up and down, and so
    on: a real number goes to its bounds, and to 0 or what is nearest without a key; an index is 0
    without a key, and becomes 1 and 2. Digits go to indices that are only on or off and to the
    choices above 2.
    """
    if actions.is_discrete:
        return _for_discrete(actions)
    buttons = [c.name.lower() for c in actions.components if _is_button(c)]
    taken = {key for name in buttons for key in BUTTON_KEYS.get(name, ())}
    pairs = (pair for pair in PAIRS if not taken & {*pair[0], *pair[1]})
    digits = iter(DIGITS)
    bindings: list[Binding] = []
    for number, component in enumerate(actions.components):
        if not actions.is_box:
            bindings += _for_index(number, component, pairs, digits)
        elif pair := next(pairs, None):
            bindings += _pair(number, pair, (component.high, component.low))
    idle = tuple(component.nearest(0) for component in actions.components)
    return Controls(idle, tuple(bindings))


def _is_button(component: Component) -> bool:
    return component.is_integer and (component.low, component.high) == (0, 1)


def _for_discrete(actions: Actions) -> Controls:
    names = actions.meanings
    idle = names.index("noop") if "noop" in names else 0
    digits = iter(DIGITS)
    bindings: list[Binding] = []
    for action, name in enumerate(names):
        if name in STEERING_KEYS:
            rank = 2 if name in TURNS else 1
            bindings += [Binding((key,), ((0, action),), rank) for key in STEERING_KEYS[name]]
        elif action != idle and (digit := next(digits, None)):
            bindings.append(Binding((digit,), ((0, action),), rank=1))
    return Controls((idle,), tuple(bindings))


def _for_index(
    number: int, component: Component, pairs: Iterator[KeyPair], digits: Iterator[str]
) -> list[Binding]:
    if _is_button(component):
        keys = BUTTON_KEYS.get(component.name.lower()) or tuple(next(digits, ""))
        return [Binding((key,), ((number, 1),), rank=1) for key in keys]
    bindings: list[Binding] = []
    if component.high >= 2 and (pair := next(pairs, None)):
        bindings += _pair(number, pair, (1, 2))
    for value in range(3, int(component.high) + 1):
        if digit := next(digits, None):
            bindings.append(Binding((digit,), ((number, value),), rank=1))
    return bindings


def _pair(number: int, pair: KeyPair, values: tuple[Number, Number]) -> list[Binding]:
    return [
        Binding((key,), ((number, value),), rank=1)
        for keys, value in zip(pair, values, strict=True)
        for key in keys
    ]
