"""One rule says what data sets and checkpoints may say of an environment."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.errors import UserError
from worldmodel.interface.world import Environment
from worldmodel.storage.parsed import parsed


@pytest.mark.parametrize("env_id", ["DoomCollect-v0", "clips:2024", "my films", "Fahrt über Köln"])
def test_names_of_environments_and_of_folders_are_taken(env_id: str):
    Environment(env_id, {"nested": {"env_id": "module:Name-v0", "sizes": [1, 2.5, None]}}, 8.75)
    assert parsed(Environment, {"env_id": env_id, "env_kwargs": {}, "fps": 1000}).controls == {}


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "fps", "complaint"),
    [
        ("", {}, 10, "env_id: '' is not a printable name"),
        ("a" * 201, {}, 10, "of 1 to 200 characters"),
        (7, {}, 10, "env_id should be a valid string, not 7"),
        ("a\x1b[31m", {}, 10, "not a printable name"),
        ("a\ud800", {}, 10, "not a printable name"),
        ("a", [], 10, "env_kwargs should be a valid object"),
        ("a", {"x": float("nan")}, 10, "env_kwargs can't be written as JSON"),
        ("a", {"x": {1, 2}}, 10, "env_kwargs can't be written as JSON"),
        ("a", {"x": "\ud800"}, 10, "half of a surrogate pair"),
        ("a", {"x": "a" * 2**16}, 10, "at most 65536 bytes"),
        ("a", {}, 0, "fps must be from 0.01"),
        ("a", {}, -1.0, "fps must be from 0.01"),
        ("a", {}, float("nan"), "fps must be from 0.01"),
        ("a", {}, 2000, "to 1000, not 2000"),
        ("a", {}, True, "fps should be a valid number, not True"),
        ("a", {}, "10", "fps should be a valid number, not '10'"),
    ],
)
def test_what_no_reader_takes_is_refused(env_id, env_kwargs, fps, complaint: str):
    with pytest.raises(UserError, match=complaint):
        parsed(Environment, {"env_id": env_id, "env_kwargs": env_kwargs, "fps": fps})


def test_nesting_is_bounded():
    deep: dict = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(UserError, match="nested too deeply"):
        Environment("a", deep, 10.0)


@given(st.text(), st.dictionaries(st.text(), st.floats() | st.text()), st.floats())
def test_what_is_taken_survives_being_written(env_id: str, env_kwargs: dict, fps: float):
    try:
        Environment(env_id, env_kwargs, fps)
    except UserError:
        return
    written = json.dumps([env_id, env_kwargs, fps]).encode()
    assert json.loads(written) == [env_id, env_kwargs, fps]
