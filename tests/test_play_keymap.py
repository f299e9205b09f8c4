"""Keys to actions and commands."""

import pytest

from play.keymap import COMMAND_KEYS, HeldKeys, KeyMap, command_of, help_lines

DOOM = ("noop", "left", "right", "forward")


@pytest.mark.parametrize(
    ("keys", "action"),
    [
        ((), "noop"),
        (("left",), "left"),
        (("a",), "left"),
        (("right",), "right"),
        (("d",), "right"),
        (("up",), "forward"),
        (("w",), "forward"),
        (("down",), "noop"),  # Doom's four actions have no way back
        (("up", "left"), "left"),
        (("left", "up"), "left"),
        (("left", "right"), "right"),
        (("right", "up", "a"), "left"),
        (("x", "up"), "forward"),
    ],
)
def test_keys_give_the_action(keys: tuple[str, ...], action: str) -> None:
    assert KeyMap(DOOM).resolve(keys) == DOOM.index(action)


def test_actions_without_an_arrow_get_digits() -> None:
    keymap = KeyMap(("jump", "left", "noop", "attack"))
    assert keymap.resolve(("1",)) == 0
    assert keymap.resolve(("2",)) == 3
    assert keymap.resolve(()) == 2
    assert KeyMap(("action 0", "action 1")).resolve(()) == 0


def test_a_tap_between_two_steps_counts_once() -> None:
    keys = HeldKeys()
    keys.press("up")
    keys.press("left")
    keys.release("left")
    assert keys.take() == ("up", "left")
    assert keys.take() == ("up",)
    keys.release("up")
    assert keys.take() == ()


def test_the_latest_press_is_last() -> None:
    keys = HeldKeys()
    for key in ("left", "right", "left"):
        keys.press(key)
    assert keys.take() == ("right", "left")
    keys.release("left")
    assert keys.take() == ("right",)
    keys.release_all()
    assert keys.take() == ()


def test_no_key_does_two_things() -> None:
    steering = [key for keys in KeyMap(DOOM).keys_of_action.values() for key in keys]
    keys = steering + [key for entry in COMMAND_KEYS for key in entry.keys]
    assert len(set(keys)) == len(keys)
    assert all(command_of(key) is None for key in steering)


def test_the_help_names_every_key() -> None:
    lines = help_lines(DOOM)
    shown = {key for keys, _ in lines for key in keys.split(" / ")}
    assert {"left", "right", "up", "w", "a", "d"} <= shown
    for entry in COMMAND_KEYS:
        assert entry.keys[0] in shown
        assert command_of(entry.keys[0]) == entry.command
