"""What goes to LeRobot's format and comes back is the same; sets from elsewhere are read right."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import one_line_error
from data_samples import INFO, assert_same_episode, imported, sample_episode, write_samples

if importlib.util.find_spec("pyarrow") is None:
    pytest.skip("pyarrow is an extra", allow_module_level=True)

import pyarrow as pa
import pyarrow.parquet as pq
from lerobot_sets import FPS, LENGTHS, TOP, WRIST, columns_of, level, write_set

from worldmodel.data import DatasetInfo, Episode, EpisodeReader, EpisodeWriter
from worldmodel.data.__main__ import main
from worldmodel.data.importers.lerobot import NOT_FINITE, OUTSIDE, ImportLeRobot
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


def with_pose(episode: Episode, size: int) -> Episode:
    """Unknown in every third episode."""
    poses = np.random.default_rng(episode.episode_id).normal(size=(episode.length + 1, size))
    poses = np.full_like(poses, np.nan) if episode.episode_id % 3 == 0 else poses
    return replace(episode, pose=poses.astype(np.float32))


def write(folder: Path, info: DatasetInfo) -> Path:
    """Episodes that were ended, cut off, and neither."""
    with EpisodeWriter(folder, info, episodes_per_shard=4) as writer:
        for i in range(3, 9):
            episode = sample_episode(i, 1 + i % 4, info=info, policy=("a", "b+c")[i % 2])
            last = episode.terminated
            terminated, truncated = [(last, ~last & last), (~last & last, last)][i % 2]
            episode = replace(episode, terminated=terminated, truncated=truncated & (i != 5))
            writer.append(with_pose(episode, len(info.pose)) if info.pose else episode)
    return folder


def assert_same_set(one: EpisodeReader, other: EpisodeReader) -> None:
    assert one.info == other.info
    assert len(one) == len(other)
    for i in range(len(one)):
        assert_same_episode(one.episode(i), other.episode(i))
        np.testing.assert_array_equal(one.episode(i).pose, other.episode(i).pose)


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
    sums = [actions[:3, 1].sum(), actions[3:, 1].sum()]
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


def change_column(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """Changes a column of the first file of rows or, where the name has a slash, of episodes."""

    def changed(folder: Path) -> None:
        is_index = "/" in name or name.startswith(("dataset", "episode_index in"))
        of = "meta/episodes" if is_index else "data"
        path = folder / of / "chunk-000/file-000.parquet"
        table, column = pq.read_table(path), name.removesuffix(" in episodes")
        values = table.column(column).to_pylist()
        place = table.schema.names.index(column)
        new = change(np.array(values, object) if column == WRIST else np.array(values))
        new = new.tolist() if isinstance(new, np.ndarray) else new
        pq.write_table(table.set_column(place, column, pa.array(new)), path)

    return changed


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
    assert command._actions(description_of(source)).low == (-1, 0)


def description_of(folder: Path):
    from worldmodel.data.importers.lerobot_files import read_description

    return read_description(folder)


def change_json(name: str, **entries: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / f"meta/{name}.json"
        data = json.loads(path.read_text())
        for entry, value in entries.items():
            *above, last = entry.split("__")
            inner = data
            for key in above:
                inner = inner[key]
            inner[last] = value
        path.write_text(json.dumps(data))

    return changed


def cut(pattern: str, length: int = 100) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = next(iter(sorted(folder.glob(pattern))))
        path.write_bytes(path.read_bytes()[:length])

    return changed


def remove(pattern: str) -> Callable[[Path], None]:
    return lambda folder: next(iter(sorted(folder.glob(pattern)))).unlink()


MALFORMED: list[tuple[Callable[[Path], None], str]] = [
    (remove("meta/info.json"), "has no meta/info.json"),
    (cut("meta/info.json"), "is no valid JSON"),
    (change_json("info", codebase_version="v2.1"), "codebase_version is 'v2.1'; v3.0 is read"),
    (change_json("info", fps=0), "fps must be from"),
    (change_json("info", fps="fast"), "fps should be a valid number"),
    (change_json("info", total_episodes=5), "lists 4 episodes; meta/info.json says 5"),
    (change_json("info", data_path="{chunk_index.__class__}"), "its files must lie at"),
    (change_json("info", video_path="/etc/{video_key}"), "its files must lie at"),
    (change_json("info", features={"../x": {"dtype": "video", "shape": [1]}}), "has a slash"),
    (change_json("info", features={}), "has no camera"),
    (change_json("info", features__action__shape=[2, 2]), "not a row of numbers"),
    (change_json("info", features__action__shape=[3]), "has 2 and 2 limits, not 3"),
    (change_json("info", features__action__dtype="image"), "not a row of numbers"),
    (change_json("info", videogpt_dream={"format_version": 7}), "format version 7 is not 1"),
    (remove("meta/stats.json"), "stats.json does not exist"),
    (change_json("stats", action={"min": [0, 0]}), "it lacks max"),
    (change_json("stats", action={"min": [0, 0], "max": [-1, 0]}), "not an action space"),
    (remove("meta/episodes/*/*"), "0 files that list its episodes"),
    (cut("meta/episodes/*/*"), "is damaged, or no Parquet file"),
    (change_column("data/file_index", lambda c: c - 1), "is not from 0 to"),
    (change_column("data/file_index", lambda c: c / 2), "holds float64, not whole numbers"),
    (change_column("data/file_index", lambda c: ["x"] * len(c)), "numbers are needed"),
    (change_column("episode_index in episodes", lambda c: c[::-1]), "numbered from 0 in order"),
    (change_column("dataset_to_index", lambda c: c + 10**9), "does not have from 0 to"),
    (change_column("dataset_to_index", lambda c: c + 5), "should be episode 0, in order"),
    (change_column("dataset_to_index", lambda c: c + 99), "rows 0 to 104 are needed"),
    (change_column(f"videos/{TOP}/from_timestamp", lambda c: c + 99), "has no frame at 99.000"),
    (change_column(f"videos/{TOP}/from_timestamp", lambda c: c * np.nan), "is not from 0 to"),
    (remove("data/*/*"), "file-000.parquet does not exist"),
    (cut("data/*/*"), "is damaged, or no Parquet file"),
    (change_column("action", lambda c: [[1.0]] * len(c)), "rows that are not 2 numbers"),
    (change_column("action", lambda c: [1.0] * len(c)), "not 2 numbers a row"),
    (change_column("action", lambda c: [None] * len(c)), "not 2 numbers a row"),
    (change_column("action", lambda c: [[1.0, None]] * len(c)), "lacks a value"),
    (change_column("next.reward", lambda c: ["1"] * len(c)), "numbers are needed"),
    (change_column("frame_index", lambda c: c + 1), "should be episode 0, in order"),
    (change_column("timestamp", lambda c: c * 0), "timestamps of episode 0 don't rise"),
    (remove("videos/*/*/*"), "No such file or directory"),
    (cut("videos/*/*/*", 500), "is damaged"),
]


@pytest.mark.parametrize(("change", "said"), MALFORMED, ids=[said for _, said in MALFORMED])
def test_a_malformed_set_is_refused_in_one_line(
    change: Callable[[Path], None], said: str, tmp_path: Path
):
    source = write_set(tmp_path / "theirs")
    change(source)
    with pytest.raises(UserError, match=re.escape(said)):
        ImportLeRobot(source, tmp_path / "set", TOP, size=8).run()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is no PNG or JPEG, or damaged"),
        (None, "is not a picture"),
    ],
)
def test_a_damaged_picture_is_refused(content: bytes | None, said: str, tmp_path: Path):
    source = write_set(tmp_path / "theirs")
    change_column(WRIST, lambda c: [{"bytes": content, "path": "/etc/passwd"}] * len(c))(source)
    if content is None:
        change_column(WRIST, lambda c: [*c[:-1], {"bytes": b"", "path": ""}])(source)
    with pytest.raises(UserError, match=said):
        ImportLeRobot(source, tmp_path / "set", WRIST, size=8).run()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lerobot", "nowhere", "--out", "OUT"), "nowhere has no meta/info.json"),
        (("lerobot", "THEIRS", "--out", "OUT"), f"choose one with --camera: {TOP}, {WRIST}"),
        (("lerobot", "THEIRS", "--out", "OUT", "--camera", "top"), "there is no 'top'"),
        (
            ("lerobot", "THEIRS", "--out", "OUT", "--camera", TOP, "--variables", "z"),
            "observation.state has no 'z'; it has x, y, grip",
        ),
        (("lerobot", "THEIRS", "--out", "OUT", "--camera", TOP, "--sum", "w"), "it has dx, dy"),
        (("lerobot", "THEIRS", "--out", "OUT", "--every", "0"), "--every must be from 1"),
        (("lerobot", "OURS", "--out", "OUT", "--size", "32"), "leave --size out"),
        (("export-lerobot", "nowhere", "OUT"), "nowhere does not exist: no data set is there"),
        (("export-lerobot", "DATA", "OURS"), "already exists"),
        (("export-lerobot", "DATA", "/proc/x/y"), "cannot write to"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], said: str, theirs: Path, tmp_path: Path, monkeypatch
):
    data = write_samples(tmp_path / "data", range(3))
    ExportLeRobot(data, tmp_path / "ours").run()
    paths = {"THEIRS": theirs, "OURS": tmp_path / "ours", "OUT": tmp_path / "out", "DATA": data}
    line = [str(paths.get(argument, argument)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["worldmodel.data", *line])
    assert said in one_line_error(main)


@pytest.mark.parametrize("command", ["lerobot", "export-lerobot"])
def test_without_pyarrow_it_says_how_to_install_it(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = ["--out", str(tmp_path)] if command == "lerobot" else [str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["worldmodel.data", command, "x", *out])
    assert one_line_error(main).endswith("pip install pyarrow")
