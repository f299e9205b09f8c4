"""Sessions on disk: the same again, and nothing taken on trust."""

import contextlib
import json
import os
import resource
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from played import played_episode, write_session
from test_play_pilot import ToyWorld

from play.pilot import Moment, Pilot, mark_of
from play.recording import Recording
from play.session import (
    MAX_FILE_BYTES,
    Session,
    SessionFile,
    read_session,
)
from play.worlds import UnopenedWorld
from worldmodel.errors import UserError
from worldmodel.interface.sampling import SamplingOptions

SESSION = Session(
    env_id="VideoGPTDream-v0",
    checkpoint="dream-doom",
    sampling=SamplingOptions(temperature=0.9, guidance=0.5),
    frame_size=(64, 48),
    episodes=(played_episode(2**40, 3, 0, 3, 1), played_episode(5, 0)),
)


def entries_of(tmp_path: Path) -> list[Any]:
    write_session(tmp_path / "good.json", SESSION)
    return json.loads((tmp_path / "good.json").read_text())


def test_a_session_comes_back_as_written(tmp_path: Path) -> None:
    write_session(tmp_path / "s.json", SESSION)
    assert read_session(tmp_path / "s.json") == SESSION
    assert SESSION.num_frames == 5
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    episode = played_episode(0, 0, *map(tuple, numbers.tolist()))
    write_session(tmp_path / "s.json", replace(SESSION, episodes=(episode,)))
    again = read_session(tmp_path / "s.json").episodes[0].actions
    np.testing.assert_array_equal(np.asarray(again, np.float32), numbers)


def test_half_a_session_is_a_shorter_session(tmp_path: Path) -> None:
    """Cut off anywhere, as a crash or a full disk leaves it."""
    write_session(tmp_path / "whole.json", SESSION)
    content = (tmp_path / "whole.json").read_bytes()
    all_actions = [episode.actions for episode in SESSION.episodes]
    first = content.index(b"00000000") + len(b'00000000"},\n')
    seen = []
    for length in range(first, len(content)):
        (tmp_path / "half.json").write_bytes(content[:length])
        half = read_session(tmp_path / "half.json")
        for episode, actions in zip(half.episodes, all_actions, strict=False):
            assert episode.actions == actions[: len(episode.actions)]
            assert len(episode.marks) == len(episode.actions) + 1
        assert replace(half, episodes=SESSION.episodes) == SESSION
        seen.append(half.num_frames)
    assert seen == sorted(seen)
    assert set(seen) == {1, 2, 3, 4, 5}


def test_a_session_stands_in_the_file_as_it_is_played(tmp_path: Path) -> None:
    moments: list[Moment] = []
    pilot = Pilot(ToyWorld(), seed=1, watch=moments.append)
    file = SessionFile(tmp_path / "s.json", UnopenedWorld("x"), overwrite=False)
    for step in range(4):
        file.add(moments[-1])
        session = read_session(tmp_path / "s.json")
        assert session.episodes[0].actions == (2,) * step
        pilot.step(2)
    file.finish()
    assert json.loads((tmp_path / "s.json").read_text())[0]["version"] == 4


def test_two_do_not_write_one_session(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_session(path, SESSION)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"exists already.*--overwrite"):
        SessionFile(path, UnopenedWorld("x"), overwrite=False)
    first = SessionFile(path, UnopenedWorld("x"), overwrite=True)
    with pytest.raises(UserError, match="in use by another process"):
        SessionFile(path, UnopenedWorld("x"), overwrite=True)
    first.finish()
    assert path.read_bytes() == before  # nothing was seen
    SessionFile(tmp_path / "new.json", UnopenedWorld("x"), overwrite=False).finish()
    assert not (tmp_path / "new.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("may not mount here")
    try:
        moments: list[Moment] = []
        pilot = Pilot(ToyWorld(10**6), seed=1, watch=moments.append)
        recording = Recording(tmp_path / "w.mp4", UnopenedWorld("x"), size=64, fps=10.0)
        with pytest.raises(UserError, match="No space left on device"):
            play_on(pilot, moments, recording.add)
        with contextlib.suppress(UserError):
            recording.finish()
        num_seen = len(moments)
        session = read_session(tmp_path / "w.json")
        assert num_seen - 2 <= session.num_frames <= num_seen
        assert (
            session.episodes[0].actions
            == tuple(step % 4 for step in range(num_seen))[: session.num_frames - 1]
        )
        with av.open(str(tmp_path / "w.mp4")) as film:
            assert len(list(film.decode(video=0))) > 10
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_session_ends_where_it_could_not_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("play.session.MAX_VALUES", 100)
    moments: list[Moment] = []
    pilot = Pilot(ToyWorld(), seed=1, watch=moments.append)
    file = SessionFile(tmp_path / "s.json", UnopenedWorld("x"), overwrite=False)
    with pytest.raises(UserError, match="is full"):
        play_on(pilot, moments, file.add)
    file.finish()
    monkeypatch.setattr("play.session.MAX_VALUES", 100)
    assert 20 < read_session(tmp_path / "s.json").num_frames == len(moments) - 1


def play_on(pilot: Pilot, moments: list[Moment], write: Callable[[Moment], None]) -> None:
    """Play until writing fails."""
    while True:
        write(moments[-1])
        pilot.step(moments[-1].step_number % 4)


def test_a_mark_is_of_every_byte() -> None:
    seen = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    marks = {mark_of(seen)}
    for at in np.ndindex(*seen.shape):
        changed = seen.copy()
        changed[at] ^= 1
        marks.add(mark_of(changed))
    assert len(marks) == 1 + seen.size
    assert mark_of(seen[:, ::-1]) != mark_of(seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "zip"}, "format"),
        ({"version": 5}, "another version of this program: 5, not 4"),
        ({"version": 3}, "another version of this program: 3, not 4"),
        ({"version": "4"}, "version"),
        ({"env_id": 3}, "env_id"),
        ({"env_id": "\x1b[2J"}, "printable"),
        ({"checkpoint": "x" * 5000}, "checkpoint"),
        ({"temperature": -1e-9}, "temperature"),
        ({"temperature": "warm"}, "sampling.temperature should be a valid number"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"guidance": -0.1}, "guidance"),
        ({"frame_size": [64]}, "frame_size"),
        ({"frame_size": [64, 10**9]}, "frame_size"),
        ({"run": "rm -rf"}, "unknown entry run"),
    ],
)
def test_a_hostile_head_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    head, *others = entries_of(tmp_path)
    refuse(tmp_path, [{**head, **change}, *others], message)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "at least one episode"),
        ([3], "an object that starts an episode, .* not 3"),
        ([[0, "00000000"]], "an object that starts an episode"),
        (
            [{"seed": 0, "start": 0}],
            r"episodes\[0\]\.marks\[0\] should be a valid string, not None",
        ),
        ([{"seed": 0, "start": 0, "mark": "zz"}], r"marks\[0\] should match pattern .*, not 'zz'"),
        ([{"seed": -1, "start": 0, "mark": "0" * 8}], "seed"),
        ([{"seed": 2**63, "start": 0, "mark": "0" * 8}], "seed"),
        ([{"seed": 0, "start": "0", "mark": "0" * 8}], "start"),
        ([{"seed": 0, "start": 0, "mark": "0" * 8, "run": 1}], r"unknown entry episodes\[0\]\.run"),
    ],
)
def test_a_hostile_episode_is_refused(tmp_path: Path, entries: list[Any], message: str) -> None:
    refuse(tmp_path, [entries_of(tmp_path)[0], *entries], message)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (3, "an array of an action and a mark, not 3"),
        ([3], "an array of an action and a mark"),
        ([3, "0" * 8, 1], "an array of an action and a mark"),
        ([3, 7], r"episodes\[1\]\.marks\[1\] should be a valid string, not 7"),
        ([True, "0" * 8], r"episodes\[1\]\.actions\[0\]: an action must be"),
        ([-1, "0" * 8], "an action"),
        (["0", "0" * 8], "an action"),
        ([[], "0" * 8], "at most 1000"),
        ([[0] * 1001, "0" * 8], "at most 1000"),
        ([[[0]], "0" * 8], "an action must be"),
        ([[True], "0" * 8], "an action must be"),
    ],
)
def test_a_hostile_step_is_refused(tmp_path: Path, step: Any, message: str) -> None:
    refuse(tmp_path, [*entries_of(tmp_path), step], message)


def refuse(tmp_path: Path, entries: list[Any], message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=message) as refused:
        read_session(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b"1" * 10_000,
        b"null",
        b'{"format": 1}',
        b"[\n",
        b"[\n{},\n",
        b"[NaN]",
        b"[" + b"9" * 400 + b"]",
    ],
)
def test_what_is_no_session_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a session"):
        read_session(path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_session(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(UserError, match="larger than 67108864 bytes"):
        read_session(tmp_path / "huge.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_session(tmp_path / "pipe.json")


def test_millions_of_actions_take_no_memory(tmp_path: Path) -> None:
    """They are counted before any becomes an object: 16 million took 2.9 GiB."""
    lists = b"[0]," * (MAX_FILE_BYTES // 4 - 100)
    (tmp_path / "s.json").write_bytes(b'{"episodes": [' + lists + b"0]}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="more than 3000000 values"):
        read_session(tmp_path / "s.json")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
