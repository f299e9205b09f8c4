"""Videos with logs of what was pressed become episodes with the right action at every step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_import_videos import counting, numbers, write_video

from worldmodel.data import EpisodeReader
from worldmodel.data.importers.action_log import ActionLogs, Log, Roles, read_log
from worldmodel.data.importers.videos import ImportVideos
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.interface.controls import Controls

RATE = 25
LENGTH = 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    write_video(folder / "a.mp4", counting(LENGTH), rate=RATE)
    return folder


def imported(source: Path, **options: Any) -> EpisodeReader:
    out = source.parent / "out"
    ImportVideos(source, out, actions=True, **options).run()
    assert verify(out).problems == []
    return EpisodeReader(out)


def write_csv(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


def test_a_column_of_names_is_a_discrete_action(source: Path) -> None:
    names = ["left", "right", "wait"]
    write_csv(source / "a.csv", "action,reward", [f"{names[t % 3]},{t}" for t in range(LENGTH)])
    reader = imported(source)
    episode = reader.episode(0)
    assert reader.info.actions.meanings == ("left", "right", "wait")
    assert episode.action.tolist() == [t % 3 for t in range(LENGTH - 1)]
    assert episode.reward.tolist() == list(range(LENGTH - 1))
    assert numbers(episode.frames) == list(range(LENGTH))


def test_keys_and_a_mouse_in_json_lines(source: Path) -> None:
    """The keys of the log play the dream."""
    keys = [["w"] if t < 10 else ["w", "left shift"] if t < 20 else [] for t in range(LENGTH)]
    rows = [{"keys": held, "mouse": {"dx": float(t % 4 - 1)}} for t, held in enumerate(keys)]
    (source / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reader = imported(source, sum=("mouse.dx",))
    episode, actions = reader.episode(0), reader.info.actions
    assert actions.kind == "box"
    assert dict(
        zip(actions.meanings, zip(actions.low, actions.high, strict=True), strict=True)
    ) == {
        "w": (0, 1),
        "mouse.dx": (-1, 2),
        "left shift": (0, 1),
    }
    column = actions.meanings.index
    wanted = [(t < 20, t % 4 - 1, 10 <= t < 20) for t in range(LENGTH - 1)]
    order = [column("w"), column("mouse.dx"), column("left shift")]
    np.testing.assert_array_equal(episode.action[:, order], wanted)
    controls = Controls.from_json(reader.info.controls, actions)
    pressed = controls.resolve(("w", "left shift"))
    assert isinstance(pressed, tuple)
    assert [pressed[i] for i in order] == [1, 0, 1]


def test_taps_and_motion_between_frames_that_are_left_out_count(source: Path) -> None:
    taps = [int(t % 8 == 3) for t in range(LENGTH)]
    rows = [f"{tap},{t},{t / 10},{100 - t}" for t, tap in enumerate(taps)]
    write_csv(source / "a.csv", "space,dx,stick,health", rows)
    reader = imported(source, every=4, min_frames=4, sum=("dx",), variables=("health",))
    episode, spec = reader.episode(0), reader.info.actions
    by_name = dict(zip(spec.meanings, episode.action.T, strict=True))
    steps = range(LENGTH // 4 - 1)
    assert by_name["space"].tolist() == [any(taps[4 * k : 4 * k + 4]) for k in steps]
    assert by_name["dx"].tolist() == [sum(range(4 * k, 4 * k + 4)) for k in steps]
    np.testing.assert_allclose(by_name["stick"], [4 * k / 10 for k in steps], atol=1e-6)
    assert episode.variables[:, 0].tolist() == [100 - 4 * k for k in range(LENGTH // 4)]
    assert numbers(episode.frames) == [4 * k for k in range(LENGTH // 4)]


def test_rows_with_times_hold_until_the_next(source: Path) -> None:
    """Events, as a key logger writes them: down at 0.1 s, up at 0.5 s."""
    write_csv(source / "a.csv", "time,w", ["0,0", "0.1,1", "0.5,0", "0.81,1", "0.82,0"])
    spec = imported(source).info.actions
    assert (spec.kind, spec.sizes) == ("discrete", (2,))
    action = EpisodeReader(source.parent / "out").episode(0).action
    frame = np.arange(LENGTH - 1) / RATE
    down = (frame + 1 / RATE > 0.1 + 1e-9) & (frame < 0.5 - 1e-9)
    tapped = (frame <= 0.81) & (frame + 1 / RATE > 0.81)
    np.testing.assert_array_equal(action, down | tapped)


def test_an_episode_ends_where_its_log_says(source: Path) -> None:
    rows = [f"{t % 2},{int(t == 19)}" for t in range(LENGTH)]
    write_csv(source / "a.csv", "jump,terminated", rows)
    episode = imported(source).episode(0)
    assert episode.length == 20
    assert episode.terminated.tolist() == [False] * 19 + [True]
    assert numbers(episode.frames) == list(range(21))


def test_a_long_video_keeps_every_step_in_its_episodes(source: Path) -> None:
    rows = [f"{t / RATE},{t % 3},{t},{int(t == 25)},{t / 2}" for t in range(LENGTH)]
    write_csv(source / "a.csv", "time,action,reward,terminated,health", rows)
    reader = imported(source, variables=("health",), max_frames=16, min_frames=8)
    steps = [(0, 15), (15, 26), (30, 39)]  # the second ends where its log says
    assert len(reader) == 3
    for i, (first, last) in enumerate(steps):
        episode = reader.episode(i)
        assert numbers(episode.frames) == list(range(first, last + 1))
        assert episode.action.tolist() == [t % 3 for t in range(first, last)]
        assert episode.reward.tolist() == list(range(first, last))
        assert episode.variables[:, 0].tolist() == [t / 2 for t in range(first, last + 1)]
        assert episode.terminated.tolist() == [t == 25 for t in range(first, last)]


def test_a_log_of_another_rate_is_refused_before_anything_is_stored(source: Path) -> None:
    write_csv(source / "a.csv", "jump", [str(t % 2) for t in range(2 * LENGTH)])
    with pytest.raises(UserError, match=r"has 80 rows, 3\.2 seconds of the video's 25"):
        imported(source, max_frames=16, min_frames=8)
    assert not list((source.parent / "out").glob("*.h5"))


def test_a_numpy_array_and_a_pose(source: Path) -> None:
    np.save(source / "a.npy", np.arange(LENGTH) % 5)
    assert imported(source).episode(0).action.tolist() == [t % 5 for t in range(LENGTH - 1)]
    (source / "a.npy").unlink()
    rows = [f"{t % 2},{t},{2 * t},{t % 360}" for t in range(LENGTH)]
    write_csv(source / "a.csv", "go,x,y,angle", rows)
    posed = ImportVideos(
        source, source.parent / "posed", actions=True, pose=("x", "y"), heading="angle"
    )
    posed.run()
    reader = EpisodeReader(source.parent / "posed")
    assert reader.info.pose.names == ("x", "y", "angle")
    assert reader.episode(0).pose[7].tolist() == [7, 14, 7]
    assert reader.info.actions.sizes == (2,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "it is empty"),
        ("a.csv", b"0\n1\n0\n", "must name the columns, not hold numbers"),
        ("a.csv", b"left;right\n0;1\n", "separated by commas"),
        ("a.csv", b"w\n0\nx\n1\n", "column w holds numbers, but 'x' in its row 2"),
        ("a.csv", b"time,w\n0,0\n800,1\n1600,0\n", "not in milliseconds"),
        ("a.csv", b"time,w\n1700000000.1,1\n", "not in milliseconds or by the clock"),
        ("a.jsonl", b'{"keys": "w"}\n', "keys must be a list of the keys that are down"),
        ("a.jsonl", b'{"w": 1}\n{"w" 1}\n', "line 2 is no valid JSON"),
        ("a.csv", b"w\n", "no row of actions"),
        ("a.csv", b"w,w\n1,1\n", "each differently"),
        ("a.csv", b"w,a\n1\n", "line 2 must have a value for each of the 2 names"),
        ("a.csv", b"w\nnan\n", "not finite"),
        ("a.csv", b"\xff\xfe", "no log of actions"),
        ("a.csv", b"time,w\n1,0\n0,1\n", "don't go back"),
        ("a.csv", b"time,w\nnoon,0\n", "must hold seconds"),
        ("a.csv", b"w\n" + b"1\n" * 20, "20 rows, 0.8 seconds .* the video lasts 1.6"),
        ("a.csv", b"reward\n" + b"1\n" * LENGTH, "no column of actions"),
        ("a.csv", b"w,reward\n" + b"1,good\n" * LENGTH, "column reward must hold numbers"),
        ("a.csv", b"w\n" + b"5000\n" * LENGTH, "5001 values, more than 1000"),
        ("a.jsonl", b"[1]\n", "line 1 is not an object"),
        ("a.jsonl", b'{"w": 1}\n{"a": 1}\n', "missing from some lines"),
        ("a.jsonl", b'{"w": [1, 2]}\n', "must be a number, a name or a list of names"),
        ("a.jsonl", b'{"w": ' + b"[" * 2000, "no log of actions"),
        ("a.npy", b"\x93NUMPY", "no log of actions"),
        ("a.npy", b"", "no log of actions"),
    ],
)
def test_a_bad_log_is_refused_and_writes_nothing(
    source: Path, name: str, content: bytes, message: str
) -> None:
    (source / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        imported(source)
    assert "\n" not in str(refused.value)
    assert not list(source.parent.glob("out/*.h5"))


def test_options_and_missing_logs_are_refused(source: Path) -> None:
    with pytest.raises(UserError, match="has no log of actions beside it"):
        imported(source)
    with pytest.raises(UserError, match="--sum needs --actions"):
        ImportVideos(source, source.parent / "out", sum=("dx",)).run()
    write_csv(source / "a.csv", "w", ["1"] * LENGTH)
    np.save(source / "a.npy", np.ones(LENGTH, int))
    with pytest.raises(UserError, match=r"several logs of actions: a.csv and a.npy"):
        imported(source)
    (source / "a.npy").unlink()
    for options in ({"variables": ("health",)}, {"sum": ("health",)}):
        with pytest.raises(UserError, match=r"has no column 'health'; it has: w"):
            imported(source, **options)
    hostile = np.array([{"x": 1}], dtype=object)
    np.save(source / "a.npy", hostile, allow_pickle=True)
    (source / "a.csv").unlink()
    with pytest.raises(UserError, match="no log of actions"):  # nothing is unpickled
        imported(source)


def test_a_single_key_is_that_key_and_capitals_are_the_same_one(source: Path) -> None:
    rows = [{"keys": [["w"], ["W"], []][t % 3]} for t in range(LENGTH)]
    (source / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reader = imported(source)
    assert reader.info.actions.meanings == ("nothing", "w")
    assert reader.episode(0).action.tolist() == [int(t % 3 < 2) for t in range(LENGTH - 1)]
    controls = Controls.from_json(reader.info.controls, reader.info.actions)
    assert (controls.resolve(()), controls.resolve(("w",))) == (0, 1)


@given(
    rows=st.lists(st.integers(0, 1), min_size=1, max_size=60),
    motion=st.data(),
    every=st.integers(1, 5),
)
def test_nothing_that_was_pressed_or_moved_is_lost(
    rows: list[int], motion: st.DataObject, every: int
) -> None:
    moved = motion.draw(st.lists(st.integers(-9, 9), min_size=len(rows), max_size=len(rows)))
    columns = {"w": np.asarray(rows, float), "dx": np.asarray(moved, float) + 0.5}
    log = Log(Path("x.csv"), columns, None)
    logs = ActionLogs([(log, 30.0)], Roles(summed=("dx",)), rate=30.0 / every)
    num_frames = len(rows) // every + 2  # the last step begins behind the log's end
    steps = log.rows(num_frames, rate=30.0 / every, own_rate=30.0)
    action = logs.actions(log, steps)
    assert logs.spec.kind == "box"
    by_name = dict(zip(logs.columns, action.T, strict=True))
    assert by_name["dx"].sum() == pytest.approx(columns["dx"].sum(), abs=1e-4)
    assert bool(by_name["w"].any()) == any(rows)


def test_a_byte_order_mark_and_spaces_are_no_part_of_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffw, left shift\ntrue, 0\n".encode())
    log = read_log(tmp_path / "a.csv")
    assert {name: values.tolist() for name, values in log.columns.items()} == {
        "w": [1.0],
        "left shift": [0.0],
    }
