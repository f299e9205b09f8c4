"""Keys and mouse to actions and commands, in every kind of action space."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.interface import FlatActions, actions_of
from play.commands import COMMAND_KEYS, YIELDING_KEYS, command_of, help_lines, meaning_lines
from play.worker import HeldKeys
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.controls import DEFAULT_KEYS, DIGITS, PAIRS, Controls, default_controls

DOOM = ("noop", "left", "right", "forward")
# As in a fight: forward or back, a step aside, attack, sprint, and a turn in eleven degrees.
FIGHT = gymnasium.spaces.MultiDiscrete([3, 3, 2, 2, 11])
FIGHT_MEANINGS = ("move", "strafe", "attack", "sprint", "turn")
FIGHT_CONTROLS: dict[str, Any] = {
    "idle": [0, 0, 0, 0, 5],
    "keys": [
        {"keys": ["w"], "sets": {"0": 1}, "name": "forward"},
        {"keys": ["s"], "sets": {"0": 2}, "name": "back"},
        {"keys": ["a"], "sets": {"1": 1}},
        {"keys": ["d"], "sets": {"1": 2}},
        {"keys": ["space"], "sets": {"2": 1}},
        {"keys": ["mouse 1"], "sets": {"2": 1}},
        {"keys": ["left shift"], "sets": {"3": 1}},
        {"keys": ["left"], "sets": {"4": 3}},
        {"keys": ["right"], "sets": {"4": 7}},
        {"keys": ["left shift", "left"], "sets": {"4": 0}},
    ],
    "mouse": {"x": {"component": 4, "per_pixel": 0.1}},
}


def actions_in(space: gymnasium.Space[Any], meanings: Sequence[str] = ()) -> FlatActions:
    env = SimpleNamespace(
        action_space=space, unwrapped=SimpleNamespace(action_meanings=tuple(meanings))
    )
    return actions_of(env)  # pyright: ignore[reportArgumentType]


def controls_in(
    space: gymnasium.Space[Any],
    meanings: Sequence[str] = (),
    written: dict[str, Any] | None = None,
) -> Controls:
    actions = actions_in(space, meanings).spec
    return default_controls(actions) if written is None else Controls.from_json(written, actions)


def discrete(*meanings: str) -> Controls:
    return controls_in(gymnasium.spaces.Discrete(len(meanings)), meanings)


FIGHTER = controls_in(FIGHT, FIGHT_MEANINGS, FIGHT_CONTROLS)


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
    assert discrete(*DOOM).resolve(keys) == DOOM.index(action)


@given(
    st.permutations(["noop", "left", "right", "forward", "backward", "jump", "attack"]),
    st.lists(
        st.sampled_from(["left", "a", "right", "d", "up", "w", "down", "s", "1", "2", "3", "x"]),
        unique=True,
    ),
)
def test_a_turn_goes_before_walking_and_the_latest_key_wins(
    meanings: list[str], keys: list[str]
) -> None:
    others = iter("12")
    key_names = {
        meaning: DEFAULT_KEYS.get(meaning) or (next(others),)
        for meaning in meanings
        if meaning != "noop"
    }
    pressed = [m for key in keys for m, names in key_names.items() if key in names]
    turns = [meaning for meaning in pressed if meaning in ("left", "right")]
    expected = (turns or pressed or ["noop"])[-1]
    assert meanings[int(discrete(*meanings).resolve(keys))] == expected  # type: ignore[arg-type]


def test_actions_without_an_arrow_get_digits() -> None:
    controls = discrete("jump", "left", "noop", "attack")
    assert controls.resolve(("1",)) == 0
    assert controls.resolve(("2",)) == 3
    assert controls.resolve(()) == 2
    assert controls_in(gymnasium.spaces.Discrete(2)).resolve(()) == 0
    # Names that don't go with the space are as good as none.
    assert controls_in(gymnasium.spaces.Discrete(2), DOOM).words(1) == "action 1"


@pytest.mark.parametrize(
    ("keys", "motion", "action"),
    [
        ((), (0, 0), (0, 0, 0, 0, 5)),
        (("w", "space", "d"), (0, 0), (1, 2, 1, 0, 5)),
        (("w", "s"), (0, 0), (2, 0, 0, 0, 5)),
        (("s", "w"), (0, 0), (1, 0, 0, 0, 5)),
        (("left",), (0, 0), (0, 0, 0, 0, 3)),
        (("left", "right"), (0, 0), (0, 0, 0, 0, 7)),
        # Both keys together win over either alone, whichever was pressed last.
        (("left shift", "left", "right"), (0, 0), (0, 0, 0, 1, 0)),
        ((), (20, 0), (0, 0, 0, 0, 7)),
        ((), (-24, 99), (0, 0, 0, 0, 3)),
        (("right",), (-20, 0), (0, 0, 0, 0, 5)),
        (("mouse 1",), (10_000, 0), (0, 0, 1, 0, 10)),
        ((), (-10_000, 0), (0, 0, 0, 0, 0)),
    ],
)
def test_keys_held_together_and_the_mouse_make_one_action(
    keys: tuple[str, ...], motion: tuple[int, int], action: tuple[int, ...]
) -> None:
    assert FIGHTER.resolve(keys, motion) == action


SPACES = st.one_of(
    st.integers(1, 12).map(lambda n: gymnasium.spaces.Discrete(n)),
    st.lists(st.integers(1, 12), min_size=1, max_size=9).map(gymnasium.spaces.MultiDiscrete),
    st.lists(
        st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(0.25, 1e6, width=32)),
        min_size=1,
        max_size=9,
    ).map(
        lambda bounds: gymnasium.spaces.Box(
            np.asarray([low for low, _ in bounds], np.float32),
            np.asarray([low + span for low, span in bounds], np.float32),
        )
    ),
    st.integers(1, 4).map(lambda n: gymnasium.spaces.Box(-3, 200, (n,), np.int16)),
)
KEYS = sorted({key for pair in PAIRS for keys in pair for key in keys} | set(DIGITS))


@settings(deadline=None)
@given(SPACES, st.lists(st.sampled_from(KEYS), unique=True))
def test_every_space_has_keys_and_every_key_gives_an_action(
    space: gymnasium.Space[Any], keys: list[str]
) -> None:
    flat, controls = actions_in(space), controls_in(space)
    actions, rng = flat.spec, np.random.default_rng(0)
    drawn = actions.plain(actions.sample(rng))
    for chosen in (controls.idle, controls.resolve(keys), drawn):
        assert actions.contains(chosen)
        assert space.contains(flat.to_own(chosen))
        if space.dtype != np.int16:  # of these only whole numbers are actions
            assert actions.plain(flat.from_own(flat.to_own(chosen))) == chosen
        assert controls.words(chosen)
    shown = {key for keys, _ in help_lines(controls) for key in keys.split(" / ")}
    for key in KEYS:
        assert (controls.resolve((key,)) == controls.idle) or key in shown
    assert Controls.from_json(json.loads(json.dumps(controls.to_json())), actions) == controls


@st.composite
def bindings(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Keys of a fight, one or two at a time, no two of them the same for one component."""
    seen, entries = set(), []
    for _ in range(draw(st.integers(0, 8))):
        keys = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True))
        component = draw(st.integers(0, 4))
        if (frozenset(keys), component) not in seen:
            seen.add((frozenset(keys), component))
            value = draw(st.integers(0, int(FIGHT.nvec[component]) - 1))
            entries.append({"keys": keys, "sets": {str(component): value}})
    return entries


@given(bindings(), st.permutations("abcde"), st.integers(0, 5))
def test_more_keys_win_over_fewer_and_then_the_latest(
    entries: list[dict[str, Any]], order: list[str], num_down: int
) -> None:
    down = order[:num_down]
    idle = [0, 0, 0, 0, 5]
    expected = list(idle)
    for component in range(5):
        # Another way to the same: from the longest to the shortest, from the latest key back.
        for size in (3, 2, 1):
            groups = itertools.combinations(reversed(down), size)
            found = [
                entry["sets"][str(component)]
                for group in groups
                for entry in entries
                if set(entry["keys"]) == set(group) and str(component) in entry["sets"]
            ]
            if found:
                expected[component] = found[0]
                break
    controls = controls_in(FIGHT, (), {"idle": idle, "keys": entries})
    assert controls.resolve(down) == tuple(expected)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_the_mouse_is_clipped_to_the_space_and_exact_in_its_type(right: int, down: int) -> None:
    written = {
        "idle": [0.25, -1],
        "keys": [],
        "mouse": {
            "x": {"component": 0, "per_pixel": 0.1},
            "y": {"component": 1, "per_pixel": -0.03},
        },
    }
    space = gymnasium.spaces.Box(-1, 1, (2,))
    action = controls_in(space, (), written).resolve((), (right, down))
    expected = np.asarray([0.25 + 0.1 * right, -1 - 0.03 * down], np.float32).clip(-1, 1)
    assert action == tuple(expected.tolist())


def test_an_action_is_told_in_words() -> None:
    assert FIGHTER.words((1, 0, 1, 0, 9)) == "forward, attack, turn +4"
    assert FIGHTER.words((0, 2, 0, 1, 4)) == "strafe +2, sprint, turn -1"
    assert FIGHTER.words((0, 0, 0, 0, 5)) == "idle"
    assert discrete(*DOOM).words(0) == "noop"
    box = controls_in(gymnasium.spaces.Box(-1, 1, (2,)), ("dx", "\x00" + "y" * 99))
    assert box.words((0.5, 0.0)) == "dx +0.50"
    assert box.words((0.0, -1.0)) == "?" + "y" * 23 + " -1.00"


def test_names_that_do_not_fit_the_space_are_ignored() -> None:
    env: Any = SimpleNamespace(action_space=gymnasium.spaces.MultiDiscrete([2, 3]))
    env.unwrapped = SimpleNamespace(
        action_meanings=("fire", "walk"),
        action_choices=(("hold", "fire"), ("stay", "forward", "backward")),
    )
    named = actions_of(env).spec
    assert default_controls(named).words((1, 2)) == "fire, backward"
    env.unwrapped.action_choices = (("hold",), ("stay", "forward", "backward"))
    env.unwrapped.action_meanings = ("fire",)
    assert actions_of(env).spec == replace(named, meanings=())
    assert default_controls(actions_of(env).spec).words((1, 2)) == "action 0, action 1 +2"


def test_space_steers_where_a_world_says_so_and_pauses_elsewhere() -> None:
    assert command_of("space", FIGHTER) is None
    assert command_of("p", FIGHTER) == "pause"
    assert command_of("w", FIGHTER) is None
    assert command_of("space", discrete(*DOOM)) == "pause"
    assert command_of("space") == "pause"


def test_buttons_by_name_keep_their_arrows() -> None:
    names = ("B", "LEFT", "RIGHT", "UP", "A")
    controls = controls_in(gymnasium.spaces.MultiDiscrete([2, 2, 2, 2, 2]), names)
    assert controls.resolve(("1", "left", "w")) == (1, 1, 0, 1, 0)
    assert controls.resolve(("2", "d")) == (0, 0, 1, 0, 1)
    assert controls.words((1, 1, 0, 0, 0)) == "B, LEFT"


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


def test_motion_adds_up_until_it_is_taken() -> None:
    keys = HeldKeys()
    keys.move(3, -1)
    keys.move(2, 0)
    assert keys.take_motion() == (5, -1)
    assert keys.take_motion() == (0, 0)
    keys.move(3, -1)
    keys.release_all()
    assert keys.take_motion() == (0, 0)


@pytest.mark.parametrize(
    ("actions", "keys"),
    [
        (ActionSpec("discrete", (2,)), {"left": 0, "d": 1}),  # CartPole
        (ActionSpec("discrete", (4,)), {"left": 0, "right": 1, "up": 2, "s": 3}),
        (ActionSpec("discrete", (6,)), {"a": 1, "right": 2, "up": 3, "down": 4, "1": 5}),
        (ActionSpec("discrete", (3,), meanings=("NOOP", "FIRE", "JUMP")), {"left": 1, "d": 2}),
    ],
)
def test_choices_without_known_names_get_the_arrows(actions: ActionSpec, keys) -> None:
    controls = default_controls(actions)
    assert {key: controls.resolve([key]) for key in keys} == keys
    assert controls.resolve([]) == actions.idle


def test_no_key_does_two_things() -> None:
    commands = [key for entry in COMMAND_KEYS for key in entry.keys]
    assert len(set(commands)) == len(commands)
    for keys in (*DEFAULT_KEYS.values(), KEYS):
        assert all(command_of(key) is None for key in set(keys) - YIELDING_KEYS)


@pytest.mark.parametrize("controls", [discrete(*DOOM), FIGHTER])
def test_the_help_names_every_key(controls: Controls) -> None:
    lines = [keys for keys, _ in help_lines(controls)]
    if controls is FIGHTER:
        lines.remove("mouse left / right")
    shown = [key for keys in lines for key in keys.split(" / ")]
    assert len(set(shown)) == len(shown)
    for entry in COMMAND_KEYS:
        assert entry.keys[0] in shown
    if controls is FIGHTER:
        assert {"w", "mouse 1", "left shift + left", "click", "space"} <= set(shown)
    else:
        assert {"left", "right", "up", "w", "a", "d", "space"} <= set(shown)


def test_words_that_a_player_might_not_know_are_explained() -> None:
    walk = controls_in(gymnasium.spaces.Discrete(4))
    words = dict(meaning_lines(walk, ("health", "surprise")))
    assert set(words) == {"two keys", "return", "surprise"}
    together = walk.resolve((walk.keys[0].keys[0], walk.keys[1].keys[0]))
    assert words["two keys"] == "the one pressed last counts"
    assert together == walk.resolve((walk.keys[1].keys[0],))
    arm = controls_in(gymnasium.spaces.Box(-1, 1, (2,)))
    assert set(dict(meaning_lines(arm, ()))) == {"return"}
