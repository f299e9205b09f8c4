"""Controls from strangers and files: taken only if every entry makes sense."""

import json
import math
import os
from pathlib import Path
from typing import Any

import gymnasium
import pygame
import pytest
from test_play_keymap import FIGHT, FIGHT_CONTROLS, actions_of, keymap_of

import envs  # noqa: F401  registers the environments
import play.controls
from play.controls import Announced, checked_controls, read_keys_file
from worldmodel.errors import UserError

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
        ({"keys": {}}, "keys must be a list of at most 100"),
        ({"keys": [{"keys": ["w"], "sets": {"0": 1}}] * 101}, "keys must be a list of at most 100"),
        ({"keys": [3]}, r"keys\[0\] must be an object of keys, sets, name"),
        ({"keys": [{"keys": ["w"]}]}, r"keys\[0\] lacks sets"),
        (w(does="run"), r"keys\[0\] has an unknown entry 'does'"),
        (w(keys="w"), r"keys\[0\]: keys must be a list of 1 to 4 names"),
        (w(keys=[]), r"keys\[0\]: keys must be a list of 1 to 4 names"),
        (w(keys=["w", "w"]), r"keys\[0\] names a key twice"),
        (w(keys=["pageup"]), r"keys\[0\]: 'pageup' is no key; keys go by pygame's names"),
        (w(keys=["W"]), "'W' is no key"),
        (w(keys=["mouse 4"]), "'mouse 4' is no key"),
        (w(keys=[7]), "'7' is no key"),
        (w(keys=[["w"]]), "is no key"),
        (w(keys=["\n"]), "is no key"),
        (w(keys=["q"]), r"keys\[0\]: the key 'q' is taken by the command 'quit'"),
        (w(keys=["left shift", "tab"]), "'tab' is taken by the command 'real'"),
        (w(sets={}), r"keys\[0\]: sets must be an object"),
        (w(sets=[["0", 1]]), r"keys\[0\]: sets must be an object"),
        (w(sets={"5": 1}), r"keys\[0\]: sets: '5' is no component; they are '0' to '4'"),
        (w(sets={"00": 1}), "'00' is no component"),
        (w(sets={"0": 3}), r"keys\[0\]: sets '0' must be an integer from 0 to 2"),
        (w(sets={"0": "1"}), "sets '0' must be an integer"),
        (w(name=""), r"keys\[0\]: name must be printable text of at most 24"),
        (w(name="\x1b[2J"), "name must be printable"),
        (
            {"keys": [w()["keys"][0], {"keys": ["w"], "sets": {"1": 1, "0": 2}}]},
            r"keys\[1\] sets component 0 with the keys of keys\[0\]",
        ),
        ({"mouse": []}, "mouse must be an object"),
        ({"mouse": {"z": {}}}, "mouse has an unknown entry 'z'"),
        ({"mouse": {"x": {"component": 4}}}, "mouse x lacks per_pixel"),
        ({"mouse": {"x": {"component": "4", "per_pixel": 1}}}, "mouse x: component must be an"),
        ({"mouse": {"x": {"component": 5, "per_pixel": 1}}}, "component must be .* from 0 to 4"),
        ({"mouse": {"y": {"component": 4, "per_pixel": math.nan}}}, "mouse y: per_pixel must be a"),
        ({"mouse": {"y": {"component": 4, "per_pixel": 10**400}}}, "per_pixel must be a finite"),
        ({"mouse": {"y": {"component": 4, "per_pixel": 1e300}}}, "per_pixel must be at most"),
        ({"sound": "on"}, "the controls has an unknown entry 'sound'"),
    ],
)
def test_what_makes_no_sense_is_named(change: dict[str, Any], message: str) -> None:
    announced = Announced("a stranger's", {**FIGHT_CONTROLS, **change})
    with pytest.raises(UserError, match=message) as refused:
        checked_controls(announced, actions_of(FIGHT))
    assert str(refused.value).startswith("a stranger's: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [None, [], "wasd", {}, {"keys": []}, {"idle": [0, 0]}])
def test_what_is_no_controls_is_refused(data: Any) -> None:
    with pytest.raises(UserError, match=r"the controls (must be an object|lacks)"):
        checked_controls(Announced("here", data), actions_of(BOX))


@pytest.mark.parametrize("value", [1.5, -2, math.inf, math.nan, "1", None, True])
def test_a_value_outside_a_box_is_refused(value: Any) -> None:
    data = {"idle": [0, 0], "keys": [{"keys": ["w"], "sets": {"1": value}}]}
    with pytest.raises(UserError, match=r"keys\[0\]: sets '1' must be"):
        checked_controls(Announced("here", data), actions_of(BOX))


def test_discrete_actions_have_one_component() -> None:
    space = gymnasium.spaces.Discrete(5)
    # As Gymnasium's get_keys_to_action has it.
    controls = {
        "idle": 0,
        "keys": [
            {"keys": ["w"], "sets": {"0": 2}},
            {"keys": ["d"], "sets": {"0": 3}},
            {"keys": ["w", "d"], "sets": {"0": 4}},
        ],
    }
    keymap = keymap_of(space, (), controls)
    assert [keymap.resolve(keys) for keys in ((), "w", "d", "wd", "dw")] == [0, 2, 3, 4, 4]
    with pytest.raises(UserError, match="idle must be an integer from 0 to 4"):
        keymap_of(space, (), {**controls, "idle": [0]})


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
            keymap_of(BOX, (), controls)
        except UserError as error:
            if "is no key" in str(error):
                refused.add(name)
    assert refused <= {"sys req", "power", "euro", "equals"}


def test_the_documented_example_is_one() -> None:
    space = gymnasium.spaces.MultiDiscrete([3, 2, 11])
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for text, end in (
        (readme.partition("```json")[2], "```"),
        (play.controls.__doc__, "\n\n`idle`"),
    ):
        example = "{" + str(text).partition("{")[2].partition(end)[0]
        keymap = keymap_of(space, ("walk", "attack", "turn"), json.loads(example))
        assert keymap.resolve(("w", "left shift", "mouse 1"), (20, 0)) == (2, 1, 7)


def test_a_file_is_read_and_named_in_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text(json.dumps(FIGHT_CONTROLS))
    assert checked_controls(read_keys_file(path), actions_of(FIGHT)).idle == (0, 0, 0, 0, 5)
    with pytest.raises(UserError, match=r"--keys .*my\.json: idle must be a list of 2"):
        checked_controls(read_keys_file(path), actions_of(BOX))


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
        read_keys_file(path)
    assert "my.json" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        read_keys_file(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_keys_file(tmp_path / "pipe.json")


def test_the_robot_is_steered_as_it_is_seen() -> None:
    env = gymnasium.make("RobotPushing-v0")
    robot: Any = env.unwrapped
    keymap = keymap_of(env.action_space, robot.action_meanings, robot.controls)
    env.close()
    assert keymap.resolve(("right", "w", "e", "space")) == (1, 1, 1, 1)
    assert keymap.resolve(("a", "down", "page down")) == (-1, -1, -1, -1)
    right, away, up, closed = keymap.resolve(("mouse 1",), (10, -20))  # type: ignore[misc]
    assert 0 < right < away < 1
    assert (up, closed) == (0, 1)
    assert keymap.words(keymap.resolve(("left", "space"))) == "left, close"
