"""Keys for worlds that define none."""

from worldmodel.interface.actions import ActionSpec, Number
from worldmodel.interface.controls import Controls

# For choices and buttons with these names, in upper or lower case.
NAMED_KEYS = {
    "left": ("left", "a"),
    "right": ("right", "d"),
    "forward": ("up", "w"),
    "backward": ("down", "s"),
    "up": ("up", "w"),
    "down": ("down", "s"),
}
TURNS = ("left", "right")
DIGITS = "123456789"
# For more of a component and for less, in order of the components; the letters of a pair lie above
# each other.
PAIRS = (
    (("right", "d"), ("left", "a")),
    (("up", "w"), ("down", "s")),
    (("e",), ("c",)),
    (("t",), ("g",)),
    (("u",), ("j",)),
    (("i",), ("k",)),
    (("f",), ("v",)),
)


def default_controls(actions: ActionSpec) -> Controls:
    """Keys for any action space, as far as there are keys.

    Choices and buttons called left, right, forward, backward, up and down get the arrow keys and
    WASD; others get the digits 1 to 9, in order. Among discrete actions a turn beats all others, so
    that you can steer while you hold the walking key.

    Otherwise the first component is on the left and right keys, the second on up and down, and so
    on: they set a real number to its bounds, an index to 1 and 2. Digits set higher indices.
    """
    buttons = [c.name.lower() for c in actions.components if c.is_button]
    taken = {key for name in buttons for key in NAMED_KEYS.get(name, ())}
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
        for name, value in named:
            keys = [key for key in NAMED_KEYS.get(name.lower(), ()) if key not in chosen]
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
