"""Keys that command the window: to pause, to restart, to quit."""

from dataclasses import dataclass
from typing import Literal

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
    "help",
    "quit",
]


@dataclass(frozen=True)
class CommandKey:
    """Keys that give one command; `shown` is how the help writes them."""

    command: Command
    keys: tuple[str, ...]
    shown: str
    description: str


COMMAND_KEYS = (
    CommandKey("pause", ("p", "space"), "p / space", "pause and resume"),
    CommandKey("step", (".", "[.]"), ".", "one step, then pause"),
    CommandKey("restart", ("r",), "r", "restart from the same moment"),
    CommandKey("another", ("n",), "n", "another start"),
    CommandKey("policy", ("m",), "m", "hand over to the policy, and back"),
    # "=" is where "+" lies without shift on many keyboards
    CommandKey("faster", ("+", "=", "[+]"), "+", "faster"),
    CommandKey("slower", ("-", "[-]"), "-", "slower"),
    CommandKey("real", ("tab",), "tab", "show the real game beside the dream"),
    CommandKey("map", ("o",), "o", "show or hide the map"),
    CommandKey("help", ("h",), "h", "show or hide the keys"),
    CommandKey("quit", ("q", "escape"), "q / escape", "quit"),
)
# The one command key that a world may steer with: p pauses as well.
YIELDING_KEY = "space"


def command_of(key: str) -> Command | None:
    """The command that a key gives where no world steers with it, or None."""
    return next((entry.command for entry in COMMAND_KEYS if key in entry.keys), None)
