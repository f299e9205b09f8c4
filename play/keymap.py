"""Which key does what: steering, commands, and the help text made from both.

Keys go by pygame's names for them ("left", "a", "space"), so nothing here needs a window.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Command = Literal[
    "pause", "step", "restart", "another", "policy", "faster", "slower", "real", "help", "quit"
]

STEERING_KEYS = {
    "left": ("left", "a"),
    "right": ("right", "d"),
    "forward": ("up", "w"),
    "backward": ("down", "s"),
}
TURNS = ("left", "right")


@dataclass(frozen=True)
class CommandKey:
    """Keys that give one command; `shown` is how the help writes them."""

    command: Command
    keys: tuple[str, ...]
    shown: str
    description: str


COMMAND_KEYS = (
    CommandKey("pause", ("p", "space"), "p / space", "pause and go on"),
    CommandKey("step", (".", "[.]"), ".", "one step, then pause"),
    CommandKey("restart", ("r",), "r", "restart from the same moment"),
    CommandKey("another", ("n",), "n", "another start"),
    CommandKey("policy", ("m",), "m", "hand over to the policy, and back"),
    # "=" is where "+" lies without shift on many keyboards
    CommandKey("faster", ("+", "=", "[+]"), "+", "faster"),
    CommandKey("slower", ("-", "[-]"), "-", "slower"),
    CommandKey("real", ("tab",), "tab", "dream and real engine side by side"),
    CommandKey("help", ("h",), "h", "show or hide the keys"),
    CommandKey("quit", ("q", "escape"), "q / escape", "quit"),
)


def command_of(key: str) -> Command | None:
    """The command that a key gives, or None."""
    return next((entry.command for entry in COMMAND_KEYS if key in entry.keys), None)


class KeyMap:
    """Keys to actions, for a discrete action space.

    Actions called left, right, forward and backward get the arrow keys and WASD; other
    actions get the digits 1 to 9, in order. Without a key down the action is "noop", or
    action 0 where there is no "noop".

    Args:
        action_meanings: the name of each action, in order.
    """

    def __init__(self, action_meanings: Sequence[str]) -> None:
        self.action_meanings = tuple(action_meanings)
        idle = "noop" if "noop" in self.action_meanings else self.action_meanings[0]
        self.idle_action = self.action_meanings.index(idle)
        digits = iter("123456789")
        self.keys_of_action: dict[int, tuple[str, ...]] = {}
        for action, meaning in enumerate(self.action_meanings):
            if meaning in STEERING_KEYS:
                self.keys_of_action[action] = STEERING_KEYS[meaning]
            elif action != self.idle_action and (digit := next(digits, None)):
                self.keys_of_action[action] = (digit,)
        self._action_of_key = {
            key: action for action, keys in self.keys_of_action.items() for key in keys
        }

    def resolve(self, keys: Sequence[str]) -> int:
        """The one action for the keys that are down, oldest first.

        A turn goes before walking, so that one can steer with the walking key held; of
        several turns, or several other actions, the latest key wins.
        """
        actions = [self._action_of_key[key] for key in keys if key in self._action_of_key]
        turns = [action for action in actions if self.action_meanings[action] in TURNS]
        return (turns or actions or [self.idle_action])[-1]


class HeldKeys:
    """The keys that are down, shared by the thread that sees them and the one that steps.

    A key tapped and released between two steps still counts for the next one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pressed: list[str] = []  # down now, or since the last take; oldest first
        self._down: set[str] = set()
        self._unseen: set[str] = set()  # pressed since the last take

    def press(self, key: str) -> None:
        with self._lock:
            self._pressed = [*(other for other in self._pressed if other != key), key]
            self._down.add(key)
            self._unseen.add(key)

    def release(self, key: str) -> None:
        with self._lock:
            self._down.discard(key)
            self._forget_released()

    def release_all(self) -> None:
        with self._lock:
            self._pressed, self._down, self._unseen = [], set(), set()

    def take(self) -> tuple[str, ...]:
        """Keys down now or tapped since the last call, oldest first."""
        with self._lock:
            taken = tuple(self._pressed)
            self._unseen = set()
            self._forget_released()
            return taken

    def _forget_released(self) -> None:
        self._pressed = [key for key in self._pressed if key in self._down | self._unseen]


def help_lines(action_meanings: Sequence[str]) -> list[tuple[str, str]]:
    """(keys, what they do): an environment's actions first, then every command."""
    keymap = KeyMap(action_meanings)
    steering = [
        (" / ".join(keys), keymap.action_meanings[action])
        for action, keys in keymap.keys_of_action.items()
    ]
    return steering + [(entry.shown, entry.description) for entry in COMMAND_KEYS]
