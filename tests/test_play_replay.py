"""Sessions on disk: the same again, and nothing taken on trust."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from play.replay import PlayedEpisode, Session, SessionLog, read_session, write_session
from worldmodel.errors import UserError

SESSION = Session(
    env_id="VideoGPTDream-v0",
    checkpoint="dream-doom",
    temperature=0.9,
    top_k=None,
    guidance=0.5,
    frame_size=(64, 48),
    episodes=(PlayedEpisode(seed=2**40, start=3, actions=(0, 3, 1)), PlayedEpisode(5, 0, ())),
    frames_sha256="0" * 64,
)


def as_json(tmp_path: Path) -> dict[str, Any]:
    write_session(tmp_path / "good.json", SESSION)
    return json.loads((tmp_path / "good.json").read_text())


def test_a_session_comes_back_as_written(tmp_path: Path) -> None:
    write_session(tmp_path / "s.json", SESSION)
    assert read_session(tmp_path / "s.json") == SESSION
    assert SESSION.num_frames == 5
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    episode = PlayedEpisode(0, 0, tuple(map(tuple, numbers.tolist())))
    write_session(tmp_path / "s.json", replace(SESSION, episodes=(episode,)))
    again = read_session(tmp_path / "s.json").episodes[0].actions
    np.testing.assert_array_equal(np.asarray(again, np.float32), numbers)


@pytest.mark.parametrize("version", [1, 2])
def test_a_session_of_before_there_was_guidance_is_read(tmp_path: Path, version: int) -> None:
    older = {**as_json(tmp_path), "version": version}
    del older["guidance"]
    (tmp_path / "old.json").write_text(json.dumps(older))
    assert read_session(tmp_path / "old.json") == replace(SESSION, guidance=None)
    (tmp_path / "odd.json").write_text(json.dumps({**older, "guidance": 1.0}))
    with pytest.raises(UserError, match="unknown entry 'guidance'"):
        read_session(tmp_path / "odd.json")
    (tmp_path / "new.json").write_text(json.dumps({**older, "version": 3}))
    with pytest.raises(UserError, match="lacks guidance"):
        read_session(tmp_path / "new.json")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    path.write_text("old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write_session(path, SESSION)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["s.json"]


def test_the_log_hashes_every_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    digests = set()
    for changed in (None, 0, 1, 2):
        seen = frames.copy()
        if changed is not None:
            seen[changed, 0, 0, 0] ^= 1
        log = SessionLog()
        log.begin(seed=1, start=None, frame=seen[0])
        log.step(2, seen[1])
        log.step(0, seen[2])
        session = log.session(env_id="x", checkpoint=None)
        assert session.episodes == (PlayedEpisode(1, None, (2, 0)),)
        assert session.frame_size == (4, 6)
        assert session.num_frames == log.num_frames == 3
        digests.add(session.frames_sha256)
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "zip"}, "format"),
        ({"version": 4}, "version 4"),
        ({"version": True}, "version"),
        ({"env_id": 3}, "env_id"),
        ({"env_id": "\x1b[2J"}, "printable"),
        ({"checkpoint": "x" * 5000}, "checkpoint"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e9}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"guidance": -0.1}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"top_k": 1.5}, "top_k"),
        ({"frame_size": [64]}, "frame_size"),
        ({"frame_size": [64, 10**9]}, "frame_size"),
        ({"frames_sha256": "zz"}, "frames_sha256"),
        ({"episodes": []}, "episodes"),
        ({"episodes": {}}, "episodes"),
        ({"episodes": [3]}, "episode 0"),
        ({"episodes": [{"seed": 0, "start": 0}]}, "lacks actions"),
        ({"episodes": [{"seed": -1, "start": 0, "actions": []}]}, "seed"),
        ({"episodes": [{"seed": 2**63, "start": 0, "actions": []}]}, "seed"),
        ({"episodes": [{"seed": 0, "start": "0", "actions": []}]}, "start"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": "0123"}]}, "actions"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [0, True]}]}, "an action"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [-1]}]}, "an action"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [[]]}]}, "at most 1000"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [[0] * 1001]}]}, "at most 1000"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [[[0]]]}]}, "an action must be a finite"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [[True]]}]}, "must be a finite"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [[10**400]]}]}, "must be a finite"),
        ({"episodes": [{"seed": 0, "start": 0, "actions": [[float("nan")]]}]}, "must be a finite"),
        ({"version": 1, "episodes": [{"seed": 0, "start": 0, "actions": [[0]]}]}, "an integer"),
        ({"run": "rm -rf"}, "unknown entry 'run'"),
    ],
)
def test_a_hostile_session_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.json"
    session = {**as_json(tmp_path), **change}
    if session["version"] == 1:
        del session["guidance"]
    path.write_text(json.dumps(session))
    with pytest.raises(UserError, match=message) as refused:
        read_session(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b"null", b'{"format": 1}'],
)
def test_what_is_no_session_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a session"):
        read_session(path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_session(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(UserError, match="larger than 64 MiB"):
        read_session(tmp_path / "huge.json")
