"""What goes to LeRobot's format and comes back is the same; sets from elsewhere are read right."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_samples import (
    INFO,
    assert_same_episode,
    imported,
    sample_episode,
    with_pose,
    write_samples,
)

if importlib.util.find_spec("pyarrow") is None:
    pytest.skip("pyarrow is an extra", allow_module_level=True)

import pyarrow.parquet as pq
from lerobot_sets import FPS, LENGTHS, TOP, WRIST, change_column, columns_of, level, write_set

from worldmodel.data import DatasetInfo, EpisodeReader, EpisodeWriter
from worldmodel.data.importers.lerobot import NOT_FINITE, OUTSIDE, ImportLeRobot
from worldmodel.data.importers.lerobot_files import Feature, read_description
from worldmodel.data.importers.videos import AFTER_END
from worldmodel.data.left_out import read_left_out
from worldmodel.data.lerobot_export import ExportLeRobot
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import PoseSpec

ACTIONS = {
    "one choice": ActionSpec("discrete", (1,)),
    "choices": INFO.actions,
    "one of several": ActionSpec("multi_discrete", (5,)),
    "several": ActionSpec("multi_discrete", (3, 2, 7)),
    "one number": ActionSpec("box", low=(-0.1,), high=(0.3,), meanings=("gas",)),
    "numbers": ActionSpec("box", low=(-1, -1e-6, -3e4), high=(1, 1e-6, 0.3)),
}
VARIETY = {
    **{name: replace(INFO, actions=spec) for name, spec in ACTIONS.items()},
    "no variables": replace(INFO, variable_names=()),
    "one variable": replace(INFO, variable_names=("health",)),
    "grey": replace(INFO, frame_shape=(8, 6, 1)),
    "odd sides": replace(INFO, frame_shape=(7, 9, 3), fps=35 / 3),
    "slow": replace(INFO, fps=0.5, env_kwargs={}),
    "pose": replace(INFO, pose=PoseSpec(("health", "y"), "angle")),
}


def write(folder: Path, info: DatasetInfo) -> Path:
    """Episodes that were ended, cut off, and neither."""
    with EpisodeWriter(folder, info, episodes_per_shard=4) as writer:
        for i in range(3, 9):
            episode = sample_episode(i, 1 + i % 4, info=info, policy=("a", "b+c")[i % 2])
            last = episode.terminated
            terminated, truncated = [(last, ~last & last), (~last & last, last)][i % 2]
            episode = replace(episode, terminated=terminated, truncated=truncated & (i != 5))
            writer.append(with_pose(episode, len(info.pose)))
    return folder


def assert_same_set(one: EpisodeReader, other: EpisodeReader) -> None:
    assert one.info == other.info
    assert len(one) == len(other)
    for i in range(len(one)):
        assert_same_episode(one.episode(i), other.episode(i))


@pytest.mark.parametrize("name", VARIETY)
def test_there_and_back_is_the_same(tmp_path: Path, name: str):
    data = write(tmp_path / "data", VARIETY[name])
    ExportLeRobot(data, tmp_path / "theirs", lossless=True).run()
    command = ImportLeRobot(tmp_path / "theirs", tmp_path / "again")
    assert imported(command) == 6
    assert verify(tmp_path / "again").problems == []
    assert_same_set(EpisodeReader(data), EpisodeReader(tmp_path / "again"))
    assert imported(command) == 6  # all there already


def test_only_frames_change_where_they_are_not_stored_without_loss(tmp_path: Path, toy_data: Path):
    ExportLeRobot(toy_data, tmp_path / "theirs").run()
    imported(ImportLeRobot(tmp_path / "theirs", tmp_path / "again"))
    one, other = EpisodeReader(toy_data), EpisodeReader(tmp_path / "again")
    assert one.info == other.info
    for i in range(len(one)):
        ours, theirs = one.episode(i), other.episode(i)
        assert_same_episode(ours, replace(theirs, frames=ours.frames))
        assert np.abs(ours.frames.astype(int) - theirs.frames).mean() < 2


def test_an_export_holds_nothing_of_a_killed_one(tmp_path: Path):
    killed = tmp_path / ".out.unfinished"
    ExportLeRobot(write(tmp_path / "first", INFO), tmp_path / "out").run()
    (tmp_path / "out").rename(killed)
    data = write_samples(tmp_path / "second", range(1))
    ExportLeRobot(data, tmp_path / "out").run()
    assert not killed.exists()
    assert len(list((tmp_path / "out/data").rglob("*.parquet"))) == 1


def test_what_is_exported(tmp_path: Path):
    data = write(tmp_path / "data", VARIETY["pose"])
    ExportLeRobot(data, tmp_path / "theirs", task="fetch it").run()
    info = json.loads((tmp_path / "theirs/meta/info.json").read_text())
    reader = EpisodeReader(data)
    first = reader.episode(0)
    assert info["total_episodes"] == 6
    assert info["total_frames"] == reader.index["episode_length"].sum() + 6
    names = ["health", "pickups", "health", "y", "angle"]
    assert info["features"]["observation.state"]["names"] == names
    table = pq.read_table(tmp_path / "theirs/data/chunk-000/file-000.parquet")
    rows = table.slice(0, first.length + 1).to_pydict()
    assert rows["action"] == [*first.action, first.action[-1]]
    assert rows["next.reward"] == [*first.reward, 0]
    assert rows["next.exists"] == [True] * first.length + [False]
    assert rows["next.truncated"] == [*first.truncated, first.truncated[-1]]
    assert rows["timestamp"] == [np.float32(t / 8.75) for t in range(first.length + 1)]
    tasks = pq.read_table(tmp_path / "theirs/meta/tasks.parquet").to_pydict()
    assert tasks == {"task_index": [0], "__index_level_0__": ["fetch it"]}
    stats = json.loads((tmp_path / "theirs/meta/stats.json").read_text())
    state = np.concatenate(
        [np.concatenate([e.variables, e.pose], 1) for e in map(reader.episode, range(6))]
    )
    np.testing.assert_allclose(stats["observation.state"]["min"], np.nanmin(state, 0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["mean"], np.nanmean(state, 0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], np.nanstd(state, 0), rtol=1e-6)
    assert np.shape(stats["observation.images.camera"]["mean"]) == (3, 1, 1)


def test_files_are_not_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("worldmodel.data.lerobot_writing.MOST_DATA_MB", 2e-4)
    monkeypatch.setattr("worldmodel.data.lerobot_writing.MOST_FILM_S", 1.0)
    monkeypatch.setattr("worldmodel.data.lerobot_writing.FILES_PER_CHUNK", 2)
    data = write_samples(tmp_path / "data", range(7))
    ExportLeRobot(data, tmp_path / "theirs", lossless=True).run()
    names = {str(path.relative_to(tmp_path)) for path in (tmp_path / "theirs").rglob("*.*")}
    assert "theirs/data/chunk-001/file-001.parquet" in names
    assert "theirs/videos/observation.images.camera/chunk-001/file-000.mp4" in names
    imported(ImportLeRobot(tmp_path / "theirs", tmp_path / "again"))
    assert_same_set(EpisodeReader(data), EpisodeReader(tmp_path / "again"))


def counts_of(folder: Path) -> dict[str, int]:
    return {reason: count.count for reason, count in read_left_out(folder).counts.items()}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("theirs") / "pushing")


@pytest.mark.parametrize("camera", [TOP, WRIST])
def test_a_set_from_elsewhere(theirs: Path, tmp_path: Path, camera: str):
    command = ImportLeRobot(
        theirs, tmp_path / "set", camera, size=8, variables=("grip",), pose=("x", "y")
    )
    assert imported(command) == len(LENGTHS)
    assert verify(tmp_path / "set").problems == []
    reader = EpisodeReader(tmp_path / "set")
    assert reader.info.env_id == "pushing"
    assert reader.info.fps == FPS
    assert reader.info.frame_shape == (8, 8, 3)
    actions = np.concatenate([columns_of(i, 0)["action"] for i in range(len(LENGTHS))])
    assert reader.info.actions == ActionSpec(
        "box",
        low=tuple(actions.min(0).tolist()),
        high=tuple(actions.max(0).tolist()),
        meanings=("dx", "dy"),
    )
    for i, num_rows in enumerate(LENGTHS):
        episode, columns = reader.episode(i), columns_of(i, 0)
        assert episode.length == num_rows - 1
        greys = [level(i, row) for row in range(num_rows)]
        greys = greys if camera == TOP else [255 - grey for grey in greys]
        np.testing.assert_array_equal(
            episode.frames, np.reshape(greys, (-1, 1, 1, 1)) + 0 * episode.frames
        )
        np.testing.assert_array_equal(episode.action, columns["action"][:-1])
        # The last row's reward and end are the last action's.
        rewards = [*range(1, num_rows - 1), num_rows - 1 + num_rows]
        np.testing.assert_array_equal(episode.reward, rewards)
        np.testing.assert_array_equal(episode.terminated, np.arange(num_rows - 1) == num_rows - 2)
        np.testing.assert_array_equal(episode.variables, columns["observation.state"][:, 2:])
        np.testing.assert_array_equal(episode.pose, columns["observation.state"][:, :2])


@pytest.mark.parametrize("camera", [TOP, WRIST])
def test_one_frame_in_three(theirs: Path, tmp_path: Path, camera: str):
    command = ImportLeRobot(theirs, tmp_path / "set", camera, size=8, every=3, sum=("dy",))
    imported(command)
    reader = EpisodeReader(tmp_path / "set")
    assert reader.info.fps == pytest.approx(FPS / 3)
    episode, actions = reader.episode(1), columns_of(1, 0)["action"]
    greys = [level(1, row) for row in (0, 3, 6)]
    greys = greys if camera == TOP else [255 - grey for grey in greys]
    assert episode.frames[:, 0, 0, 0].tolist() == greys
    np.testing.assert_array_equal(episode.action[:, 0], actions[[0, 3], 0])
    sums = [actions[:3, 1].sum(), actions[3:6, 1].sum()]
    np.testing.assert_allclose(episode.action[:, 1], sums, rtol=1e-5)
    assert episode.reward.tolist() == [1 + 2 + 3, 4 + 5 + 6 + 7 + 8]
    assert episode.terminated.tolist() == [False, True]


def test_a_set_without_state_reward_and_end(tmp_path: Path):
    fewer = ("observation.state", "next.reward", "next.done")
    source = write_set(tmp_path / "theirs", fewer=fewer)
    imported(ImportLeRobot(source, tmp_path / "set", TOP))
    episode = EpisodeReader(tmp_path / "set").episode(0)
    assert not episode.reward.any()
    assert not episode.terminated.any()
    assert episode.frames.shape == (LENGTHS[0], 64, 64, 3)


def test_an_end_before_the_last_row(theirs: Path, tmp_path: Path):
    source = write_set(tmp_path / "theirs")
    change_column("next.done", lambda done: [i == 2 or d for i, d in enumerate(done)])(source)
    imported(ImportLeRobot(source, tmp_path / "set", TOP, size=8))
    episode = EpisodeReader(tmp_path / "set").episode(0)
    assert episode.frames[:, 0, 0, 0].tolist() == [level(0, row) for row in range(4)]
    assert episode.reward.tolist() == [1, 2, 3]
    assert episode.terminated.tolist() == [False, False, True]
    assert counts_of(tmp_path / "set") == {AFTER_END: 1}


def test_what_cannot_be_stored_is_left_out(tmp_path: Path):
    source = write_set(tmp_path / "theirs")
    change_column("action", lambda a: np.where(np.arange(len(a))[:, None] == 1, 7, a))(source)
    change_column("next.reward", lambda r: np.where(np.arange(len(r)) == 6, np.nan, r))(source)
    assert imported(ImportLeRobot(source, tmp_path / "set", TOP, size=8)) == 2
    assert counts_of(tmp_path / "set") == {OUTSIDE: 1, NOT_FINITE: 1}


def test_a_number_of_the_action_that_never_changes(tmp_path: Path):
    source = write_set(tmp_path / "theirs")
    stats = {"action": {"min": [-1, 5], "max": [1, 5]}}
    (source / "meta/stats.json").write_text(json.dumps(stats))
    command = ImportLeRobot(source, tmp_path / "set", TOP, size=8)
    with pytest.raises(UserError, match="holds no episode"):  # theirs are not 5
        command.run()
    assert command._actions(read_description(source)).low == (-1, 0)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["dx", "dy"], ("dx", "dy")),
        ({"motors": ["dx", "dy"]}, ("dx", "dy")),
        ({"dx": 0, "dy": 1}, ("dx", "dy")),
        (["dx"], ()),
        ([["dx"], "dy"], ()),
        ({}, ()),
        (None, ()),
    ],
)
def test_names_come_in_several_forms(names: Any, labels: tuple[str, ...]):
    assert Feature("float32", (2,), names).labels == labels
