"""`python -m worldmodel.data`: verify and merge."""

import re
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from conftest import one_line_error, unprivileged
from data_samples import INFO, array_of, assert_same_episode, sample_episode, write_samples
from PIL import Image

from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.data.__main__ import main
from worldmodel.data.episodes import UNFINISHED
from worldmodel.data.merge import merge
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec


def _run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["worldmodel.data", *map(str, arguments)])
    main()


def test_a_sound_set_is_described(tmp_path, monkeypatch, capsys):
    write_samples(tmp_path, range(10))
    _run(monkeypatch, "verify", tmp_path)
    said = capsys.readouterr().out
    for expected in (
        "Sample-v0",
        "episodes     10: 8 train, 1 validation, 1 test",
        "10 terminated, 0 truncated",
        "policy: 5 episodes of 3 to 8 steps",
        "random: 5 episodes of 3 to 9 steps",
        "noop ",
        "health: -",
        "no problem found",
    ):
        assert expected in said
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.size == (10 * (6 + 2) - 2, 10 * (8 + 2) - 2)


def test_an_episode_that_ends_both_ways_is_counted_once(tmp_path):
    with EpisodeWriter(tmp_path, INFO) as writer:
        episodes = [sample_episode(i) for i in range(3)]
        episodes[0].truncated[-1] = True
        episodes[1].terminated[-1] = False
        for episode in episodes:
            writer.append(episode)
    assert "ends         2 terminated, 0 truncated, 1 cut by the recorder" in verify(tmp_path).lines


def _set_row(column, value, row=1):
    def damage(file: h5py.File) -> None:
        index = array_of(file, "index")[:]
        index[column][row] = value
        array_of(file, "index")[:] = index

    return damage


def _set(name, at, value):
    def damage(file: h5py.File) -> None:
        array_of(file, name)[at] = value

    return damage


def _corrupt_a_chunk(file: h5py.File) -> None:
    array_of(file, "frames").id.write_direct_chunk((4, 0, 0, 0), b"no gzip stream")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set("action", 4, 17), "an action is outside"),
        (_set("reward", 4, np.nan), "reward holds a value that is not finite"),
        (_set("variables", 5, np.inf), "variables holds a value that is not finite"),
        (_set("terminated", 3, True), "terminated is set before the last step"),
        (_set("truncated", 4, True), "truncated is set before the last step"),
        (_set_row("episode_id", 0), "episode 0 is stored 2 times"),
        (_set_row("episode_start", 1), "overlaps the one before it"),
        (_set_row("frame_start", 2), "overlaps the one before it"),
        (_set_row("episode_length", 0), "empty or negative"),
        (_set_row("episode_start", -1), "empty or negative"),
        (_set_row("policy", b""), "not a printable name"),
        (_set_row("frame_start", 10**6), "points behind the end"),
        (_corrupt_a_chunk, "'frames' cannot be unpacked"),
    ],
)
def test_each_planted_fault_is_found(tmp_path, monkeypatch, capsys, damage, message):
    write_samples(tmp_path, range(8))
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        damage(file)
    problems = verify(tmp_path).problems
    assert message in problems[0]
    assert all("episode 1" in problem for problem in problems[1:])  # what follows from it
    with pytest.raises(SystemExit, match="1"):
        _run(monkeypatch, "verify", tmp_path)
    assert f"problem: {problems[0]}" in capsys.readouterr().out


def test_every_problem_gets_a_line(tmp_path):
    write_samples(tmp_path, range(12))
    (tmp_path / "shard-00001.h5").write_bytes(b"not HDF5")
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        array_of(file, "reward")[:] = np.nan
    report = verify(tmp_path)
    assert len(report.problems) == 4 + 1
    assert any("4: 3 train" in line or line.startswith("episodes     4:") for line in report.lines)


def test_an_unfinished_shard_is_named(tmp_path):
    write_samples(tmp_path, range(8))
    (tmp_path / "shard-00001.h5").rename(tmp_path / "shard-00001.h5.tmp")
    report = verify(tmp_path)
    assert report.problems == []
    assert "1 files were not read, the first shard-00001.h5.tmp" in report.lines[0]


def test_a_shard_that_may_not_be_read_is_not_called_damaged(tmp_path):
    write_samples(tmp_path, range(4))
    shard = tmp_path / "shard-00000.h5"
    shard.chmod(0)
    with unprivileged(tmp_path):
        (problem,) = verify(tmp_path).problems
    shard.chmod(0o644)
    assert "permissions forbid it" in problem
    assert "delete" not in problem


def test_a_folder_that_may_not_be_entered_is_named(tmp_path):
    write_samples(tmp_path / "set", range(4))
    (tmp_path / "set").chmod(0)
    with unprivileged(tmp_path), pytest.raises(UserError, match="may not be entered"):
        EpisodeReader(tmp_path / "set")
    (tmp_path / "set").chmod(0o755)


def test_merge_takes_no_half_imported_set(tmp_path):
    for name in ("a", "b"):
        write_samples(tmp_path / name, range(4))
    (tmp_path / "b" / UNFINISHED).touch()
    with pytest.raises(UserError, match=r"the import of .*b still runs or was stopped"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_that_may_only_be_read_is_described_without_a_picture(tmp_path):
    write_samples(tmp_path, range(4))
    (tmp_path / "contact-sheet.png").mkdir()  # no picture can be written there, even by root
    report = verify(tmp_path)
    assert report.problems == []
    assert report.lines[-1].startswith("not drawn ")


def test_errors_are_one_line(tmp_path, monkeypatch):
    said = one_line_error(lambda: _run(monkeypatch, "verify", tmp_path / "nothing"))
    assert re.search(r"does not exist.*collect\.vizdoom", said)


def test_merge_keeps_every_episode_and_its_provenance(tmp_path, monkeypatch, capsys):
    left = write_samples(tmp_path / "left", range(6))
    with EpisodeWriter(tmp_path / "right", INFO) as writer:
        for i in (4, 5, 6, 7):  # 4 and 5 clash with others of the left set, in content too
            writer.append(replace(sample_episode(100 + i), episode_id=i))
        writer.append(replace(sample_episode(2, 5), episode_id=8))  # left's number 2 once more
    _run(monkeypatch, "merge", left, tmp_path / "right", "--out", tmp_path / "both")
    assert "holds 10 episodes; 1 repeated ones were left out" in capsys.readouterr().out

    both = EpisodeReader(tmp_path / "both")
    assert both.index["episode_id"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    for i in range(6):
        assert_same_episode(both.episode(i), EpisodeReader(left).episode(i))
    for i, old_id in ((6, 6), (7, 7), (8, 4), (9, 5)):
        stored = replace(both.episode(i), episode_id=100 + old_id)
        assert_same_episode(stored, sample_episode(100 + old_id))
    merged = both.info.policies["merged"]
    assert [part["folder"] for part in merged] == ["left", "right"]
    assert merged[0]["policies"] == INFO.policies
    assert verify(tmp_path / "both").problems == []


def test_a_merge_goes_on_where_it_stopped(tmp_path, monkeypatch):
    folders = [
        write_samples(tmp_path / "a", range(6)),
        write_samples(tmp_path / "b", range(20, 26)),
    ]
    merge(folders, tmp_path / "whole")

    append, calls = EpisodeWriter.append, []

    def append_until_killed(self, episode):
        calls.append(episode)
        if len(calls) > 7:
            raise KeyboardInterrupt
        append(self, episode)

    monkeypatch.setattr(EpisodeWriter, "append", append_until_killed)
    with pytest.raises(KeyboardInterrupt):
        merge(folders, tmp_path / "parts")
    monkeypatch.undo()
    assert len(EpisodeReader(tmp_path / "parts")) == 7
    assert merge(folders, tmp_path / "parts") == (12, 0)
    whole, parts = EpisodeReader(tmp_path / "whole"), EpisodeReader(tmp_path / "parts")
    for i in range(12):
        assert_same_episode(parts.episode(i), whole.episode(i))


def test_merge_refuses(tmp_path):
    a, b = write_samples(tmp_path / "a", range(2)), write_samples(tmp_path / "b", range(2, 4))
    info = replace(INFO, actions=ActionSpec("discrete", (9,)))
    with EpisodeWriter(tmp_path / "c", info) as writer:
        writer.append(sample_episode(0, info=info))
    out = tmp_path / "out"
    with pytest.raises(UserError, match="cannot be joined: actions"):
        merge([a, tmp_path / "c"], out)
    with pytest.raises(UserError, match="two data sets or more"):
        merge([a], out)
    with pytest.raises(UserError, match="one of the sets to merge"):
        merge([a, b], a)
    assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        merge([a, b], out)
    with pytest.raises(UserError, match="is not empty"):
        merge([b, a], tmp_path / "c")
