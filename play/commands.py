"""Keys: those that steer, and those for commands such as pause, restart and quit."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium

from envs.interface import FlatActions, controls_of
from worldmodel.errors import UserError
from worldmodel.interface.controls import Controls, default_controls

Command = Literal[
    "pause",
    "step",
    "restart",
    "another",
    "policy",
    "faster",
    "slower",
    "real",
    "map",
    "full screen",
    "pixels",
    "help",
    "quit",
]


@dataclass(frozen=True)
class CommandKey:
    """The keys of one command; `shown` is their text in the help."""

    command: Command
    keys: tuple[str, ...]
    shown: str
    description: str


COMMAND_KEYS = (
    CommandKey("pause", ("p", "space"), "p / space", "pause and resume"),
    CommandKey("step", (".", "[.]"), ".", "one step, then pause"),
    CommandKey("restart", ("r",), "r", "restart from the same moment"),
    CommandKey("another", ("n",), "n", "another start"),
    CommandKey("policy", ("m",), "m", "let the policy steer, and take over again"),
    # On many keyboards, "=" is the key of "+"
    CommandKey("faster", ("+", "=", "[+]"), "+", "faster"),
    CommandKey("slower", ("-", "[-]"), "-", "slower"),
    CommandKey("real", ("tab",), "tab", "show the real game beside the dream"),
    CommandKey("map", ("o",), "o", "show or hide the map"),
    CommandKey("full screen", ("f11", "f"), "f11 / f", "full screen, and back"),
    CommandKey("pixels", ("z",), "z", "sharp pixels, or smooth ones"),
    CommandKey("help", ("h",), "h", "show or hide the keys"),
    CommandKey("quit", ("q", "escape"), "q / escape", "quit"),
)
DIRECTIONS = {"left": "a", "right": "d", "up": "w", "down": "s"}  # arrow key -> letter instead
# Command keys that a world may steer with, because p pauses as well, and f11 fills the screen.
YIELDING_KEYS = frozenset({"space", "f"})


def controls_for(env: gymnasium.Env, actions: FlatActions, keys: Any = None) -> Controls:
    """The controls of a --keys file, else the environment's own, else default ones.

    Args:
        keys: the JSON of the file; None: there is no file.

    Raises:
        UserError: they don't fit the actions, or steer with a command's key.
    """
    try:
        if keys is not None:
            controls = Controls.from_json(keys, actions.spec)
        else:
            controls = controls_of(env, actions) or default_controls(actions.spec)
        for number, binding in enumerate(controls.keys):
            for key in set(binding.keys) - YIELDING_KEYS:
                if command := command_of(key):
                    raise UserError(
                        f"keys[{number}]: the key {key!r} is taken by the command {command!r}"
                    )
    except UserError as error:
        hint = f"--keys: {error}" if keys is not None else f"{error}; use others with --keys FILE"
        raise UserError(hint) from None
    return controls


def command_of(key: str, controls: Controls | None = None) -> Command | None:
    """The command of a key, or None.

    Args:
        controls: of the world, which may steer with `YIELDING_KEYS`.
    """
    if controls is not None and key in controls.key_names:
        return None
    return next((entry.command for entry in COMMAND_KEYS if key in entry.keys), None)


def help_lines(controls: Controls) -> list[tuple[str, str]]:
    """(keys, what they do): first the actions, then all commands."""
    return controls.help_lines() + command_lines(controls)


def meaning_lines(controls: Controls, numbers: Collection[str]) -> list[tuple[str, str]]:
    """(word, what it means) of what a player might not know.

    Args:
        numbers: names of those that are shown.
    """
    lines = []
    if controls.actions.kind == "discrete" and len(controls.keys) > 1:
        lines.append(("two keys", "the one pressed last counts"))
    lines.append(("return", "all rewards of this episode"))
    if "surprise" in numbers:
        lines.append(("surprise", "how unlikely the dream found its last frame"))
    return lines


def command_lines(
    controls: Controls, entries: Sequence[CommandKey] = COMMAND_KEYS
) -> list[tuple[str, str]]:
    """(keys, what they do) of commands, without keys that steer here; with mouse steering, how it
    is turned on."""
    lines = []
    if controls.uses_mouse:
        lines.append(("click", "the mouse steers, until escape"))
    for entry in entries:
        free = [key for key in entry.shown.split(" / ") if key not in controls.key_names]
        lines.append((" / ".join(free), entry.description))
    return lines


@dataclass(frozen=True)
class Layout:
    """What the controls put on a stick and on buttons.

    Attributes:
        stick: direction (left, right, up, down) -> the key that it holds down.
        buttons: (key, what it does), of the other single keys; those that do the same as an earlier
            one are left out.
    """

    stick: dict[str, str]
    buttons: tuple[tuple[str, str], ...]


def layout_of(controls: Controls) -> Layout:
    """The layout for a gamepad, or for the screen of a phone."""
    stick = {
        direction: key
        for direction, letter in DIRECTIONS.items()
        for key in [next((k for k in (direction, letter) if k in controls.key_names), None)]
        if key is not None
    }
    single = [binding for binding in controls.keys if len(binding.keys) == 1]
    seen = [binding.sets for binding in single if binding.keys[0] in stick.values()]
    words = {keys: what for keys, what in controls.help_lines()}
    buttons = []
    for binding in single:
        (key,) = binding.keys
        if binding.sets in seen or key.startswith("mouse"):
            continue
        seen.append(binding.sets)
        named = [what for keys, what in words.items() if key in keys.split(" / ")]
        buttons.append((key, named[0] if named else key))
    return Layout(stick, tuple(buttons))
