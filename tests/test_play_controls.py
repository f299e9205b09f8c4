"""Controls from strangers and files: taken only if every entry makes sense."""

import json
import math
import os
from pathlib import Path
from typing import Any

import gymnasium
import pygame
import pytest
from test_play_keymap import FIGHT, FIGHT_CONTROLS, actions_in, controls_in

import envs  # noqa: F401  registers the environments
import worldmodel.interface.controls
from envs.doom.scenarios import SCENARIOS
from play.command import MAX_KEYS_BYTES
from play.commands import controls_for
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.controls import Controls, default_controls
from worldmodel.storage.files import read_json

BOX = gymnasium.spaces.Box(-1, 1, (2,))


def w(**changes: Any) -> dict[str, Any]:
    """One key's entry among the controls of a fight, changed."""
    return {"keys": [{"keys": ["w"], "sets": {"0": 1}, **changes}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"idle": 0}, "idle must be a list of 5 numbers"),
        ({"idle": [0, 0, 0, 0]}, "idle must be a list of 5 numbers"),
        ({"idle": [0, 0, 0, 0, 11]}, r"idle\[4\] must be an integer from 0 to 10"),
        ({"idle": [0, 0, 0, 0, 5.0]}, r"idle\[4\] must be an integer"),
        ({"idle": [True, 0, 0, 0, 5]}, r"idle\[0\] must be an integer"),
        ({"keys": {}}, "keys should be a valid list, not {}"),
        (
            {"keys": [{"keys": ["w"], "sets": {"0": 1}}] * 101},
            "keys should have at most 100 items, not 101",
        ),
        ({"keys": [3]}, r"keys\[0\] should be a valid object, not 3"),
        ({"keys": [{"keys": ["w"]}]}, r"it lacks keys\[0\]\.sets"),
        (w(does="run"), r"unknown entry keys\[0\]\.does"),
        (w(keys="w"), r"keys\[0\]\.keys should be a valid list, not 'w'"),
        (w(keys=[]), r"keys\[0\]\.keys should have at least 1 item, not 0"),
        (w(keys=["w", "w"]), r"keys\[0\]\.keys: it names a key twice"),
        (w(keys=["pageup"]), r"keys\[0\]\.keys: 'pageup' is no key; keys go by pygame's names"),
        (w(keys=["W"]), "'W' is no key"),
        (w(keys=["mouse 4"]), "'mouse 4' is no key"),
        (w(keys=[7]), r"keys\[0\]\.keys\[0\] should be a valid string, not 7"),
        (w(keys=[["w"]]), "should be a valid string"),
        (w(keys=["\n"]), "is no key"),
        (w(keys=["q"]), r"keys\[0\]: the key 'q' is taken by the command 'quit'"),
        (w(keys=["left shift", "tab"]), "'tab' is taken by the command 'real'"),
        (w(sets={}), r"keys\[0\]\.sets should have at least 1 item, not 0"),
        (w(sets=[["0", 1]]), r"keys\[0\]\.sets should be a valid object"),
        (w(sets={"5": 1}), r"keys\[0\]\.sets\[5\]: there is no component 5; they are 0 to 4"),
        (w(sets={"walk": 1}), r"keys\[0\]\.sets\.walk.* should be a valid integer"),
        (w(sets={"0": 3}), r"keys\[0\]\.sets\[0\] must be an integer from 0 to 2, not 3"),
        (w(sets={"0": "1"}), r"sets\[0\] must be an integer"),
        (w(name="n" * 25), r"keys\[0\]\.name: it must be printable text of at most 24"),
        (w(name="\x1b[2J"), "name: it must be printable"),
        (
            {"keys": [w()["keys"][0], {"keys": ["w"], "sets": {"1": 1, "0": 2}}]},
            r"keys\[1\] sets component 0 with the keys of keys\[0\]",
        ),
        ({"mouse": []}, "mouse should be a valid object"),
        ({"mouse": {"z": {}}}, r"unknown entry mouse\.z"),
        ({"mouse": {"x": {"component": 4}}}, r"it lacks mouse\.x\.per_pixel"),
        (
            {"mouse": {"x": {"component": "4", "per_pixel": 1}}},
            r"mouse\.x\.component should be a valid integer",
        ),
        (
            {"mouse": {"x": {"component": 5, "per_pixel": 1}}},
            r"mouse\.x: there is no component 5; they are 0 to 4",
        ),
        (
            {"mouse": {"y": {"component": 4, "per_pixel": math.nan}}},
            r"mouse\.y\.per_pixel should be a finite number, not nan",
        ),
        (
            {"mouse": {"y": {"component": 4, "per_pixel": 10**400}}},
            "per_pixel should be a valid number",
        ),
        (
            {"mouse": {"y": {"component": 4, "per_pixel": 1e300}}},
            "per_pixel should be less than or equal to 1000000, not",
        ),
        ({"sound": "on"}, "unknown entry sound"),
    ],
)
def test_what_makes_no_sense_is_named(change: dict[str, Any], message: str) -> None:
    env, keys = gymnasium.Env(), {**FIGHT_CONTROLS, **change}
    with pytest.raises(UserError, match=message) as refused:
        controls_for(env, actions_in(FIGHT), keys)
    assert str(refused.value).startswith("--keys: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [None, [], "wasd", {}, {"keys": []}, {"idle": [0, 0]}])
def test_what_is_no_controls_is_refused(data: Any) -> None:
    with pytest.raises(UserError, match=r"(controls must be an object|it lacks)"):
        Controls.from_json(data, actions_in(BOX).spec)


@pytest.mark.parametrize("value", [1.5, -2, math.inf, math.nan, "1", None, True])
def test_a_value_outside_a_box_is_refused(value: Any) -> None:
    data = {"idle": [0, 0], "keys": [{"keys": ["w"], "sets": {"1": value}}]}
    with pytest.raises(UserError, match=r"keys\[0\]\.sets\[1\] must be a number from -1 to 1, not"):
        Controls.from_json(data, actions_in(BOX).spec)


def test_discrete_actions_have_one_component() -> None:
    space = gymnasium.spaces.Discrete(5)
    # As Gymnasium's get_keys_to_action has it.
    written = {
        "idle": 0,
        "keys": [
            {"keys": ["w"], "sets": {"0": 2}},
            {"keys": ["d"], "sets": {"0": 3}},
            {"keys": ["w", "d"], "sets": {"0": 4}},
        ],
    }
    controls = controls_in(space, (), written)
    assert [controls.resolve(keys) for keys in ((), "w", "d", "wd", "dw")] == [0, 2, 3, 4, 4]
    with pytest.raises(UserError, match="idle must be an integer from 0 to 4"):
        controls_in(space, (), {**written, "idle": [0]})


def test_keys_go_by_the_names_that_pygame_gives() -> None:
    names = {
        pygame.key.name(getattr(pygame, constant))
        for constant in dir(pygame)
        if constant.startswith("K_")
    }
    typeable = {name for name in names if name and name == name.lower()}
    refused = set()
    for name in typeable:
        controls = {"idle": [0, 0], "keys": [{"keys": [name], "sets": {"0": 1}}]}
        try:
            controls_in(BOX, (), controls)
        except UserError as error:
            if "is no key" in str(error):
                refused.add(name)
    assert refused <= {"sys req", "power", "euro", "equals"}


def test_the_documented_example_is_one() -> None:
    space = gymnasium.spaces.MultiDiscrete([3, 2, 11])
    tutorial = (Path(__file__).parents[1] / "docs/tutorial.md").read_text()
    for text, end in (
        (tutorial.partition("```json")[2], "```"),
        (worldmodel.interface.controls.__doc__, "\n\n`idle`"),
    ):
        example = "{" + str(text).partition("{")[2].partition(end)[0]
        controls = controls_in(space, ("walk", "attack", "turn"), json.loads(example))
        assert controls.resolve(("w", "left shift", "mouse 1"), (20, 0)) == (2, 1, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[" * 60_000, "nested too deeply"),
        (b" " * 70_000, "larger than 65536 bytes"),
    ],
)
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_json(path, most_bytes=MAX_KEYS_BYTES)
    assert "my.json" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json", most_bytes=MAX_KEYS_BYTES)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_json(tmp_path / "pipe.json", most_bytes=MAX_KEYS_BYTES)


def test_the_robot_is_steered_as_it_is_seen() -> None:
    env = gymnasium.make("RobotPushing-v0")
    robot: Any = env.unwrapped
    controls = controls_in(env.action_space, robot.action_meanings, robot.controls)
    env.close()
    assert controls.resolve(("right", "w", "e", "space")) == (1, 1, 1, 1)
    assert controls.resolve(("a", "down", "page down")) == (-1, -1, -1, -1)
    right, away, up, closed = controls.resolve(("mouse 1",), (10, -20))  # type: ignore[misc]
    assert 0 < right < away < 1
    assert (up, closed) == (0, 1)
    assert controls.words(controls.resolve(("left", "space"))) == "left, close"


def test_every_action_of_a_fight_has_a_name() -> None:
    battle = SCENARIOS["battle2"]
    actions = ActionSpec(
        "multi_discrete",
        tuple(len(factor.choices) for factor in battle.factors),
        meanings=tuple(factor.name for factor in battle.factors),
        choices=tuple(tuple(factor.choices) for factor in battle.factors),
    )
    controls = Controls.from_json(battle.controls, actions)
    assert controls.words((2, 2, 1, 1, 0)) == "backward, strafe left, attack, sprint, turn left 10"
    assert controls.words((0, 0, 0, 0, 7)) == "turn right"  # as its key is called
    assert default_controls(actions).words((1, 0, 0, 0, 0)) == "forward"
