import json
import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_samples import INFO, array_of, assert_same_episode, sample_episode, write_samples
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import (
    SPLITS,
    DatasetInfo,
    EpisodeReader,
    EpisodeWriter,
    split_of,
)
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec

ACTION_SPECS = st.sampled_from(
    [
        ActionSpec("discrete", (5,)),
        ActionSpec("multi_discrete", (3, 2, 11)),
        ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 2.0)),
    ]
)


@settings(max_examples=25, deadline=None)
@given(
    actions=ACTION_SPECS,
    num_variables=st.integers(0, 3),
    channels=st.sampled_from([1, 3]),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    episodes_per_shard=st.integers(1, 4),
    stop_after=st.integers(0, 7),
)
def test_what_is_written_is_read(
    actions, num_variables, channels, lengths, episodes_per_shard, stop_after
):
    info = replace(
        INFO,
        actions=actions,
        variable_names=tuple(f"v{i}" for i in range(num_variables)),
        frame_shape=(5, 4, channels),
    )
    episodes = [sample_episode(i, length, info=info) for i, length in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder:
        for part in (episodes[:stop_after], episodes[stop_after:]):
            with EpisodeWriter(folder, info, episodes_per_shard=episodes_per_shard) as writer:
                for episode in part:
                    writer.append(episode)
        assert writer.done == set(range(len(episodes)))
        reader = EpisodeReader(folder)
        assert reader.info == replace(info, env_kwargs=reader.info.env_kwargs)
        assert len(reader) == len(episodes)
        for i, episode in enumerate(episodes):
            assert_same_episode(reader.episode(i), episode)
            np.testing.assert_array_equal(reader.frames(i, 1), episode.frames[1:])
            for name, array in reader.steps(i).items():
                np.testing.assert_array_equal(array, getattr(episode, name))


def test_info_survives_json():
    data = json.loads(json.dumps(INFO.to_json()))
    assert DatasetInfo.from_json(data) == INFO
    assert INFO.differences(DatasetInfo.from_json(data)) == []


def test_episodes_come_in_the_order_of_their_ids(tmp_path):
    with EpisodeWriter(tmp_path, INFO, episodes_per_shard=2) as writer:
        for i in (5, 0, 9, 3, 1):
            writer.append(sample_episode(i))
    assert EpisodeReader(tmp_path).index["episode_id"].tolist() == [0, 1, 3, 5, 9]


def test_splits_are_near_8_1_1_and_stable_under_append(tmp_path):
    counts = {name: [split_of(i) for i in range(5000)].count(name) for name in SPLITS}
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert {split_of(i) for i in range(10)} == set(SPLITS)

    write_samples(tmp_path, range(20))
    before = EpisodeReader(tmp_path)
    members = {n: before.index["episode_id"][before.split(n)].tolist() for n in SPLITS}
    assert sum(map(len, members.values())) == 20
    write_samples(tmp_path, range(20, 40))
    after = EpisodeReader(tmp_path)
    for name in SPLITS:
        now = after.index["episode_id"][after.split(name)]
        assert now[now < 20].tolist() == members[name]
    with pytest.raises(UserError, match="train, validation, test"):
        after.split("training")


def _checksum(reader: EpisodeReader) -> int:
    return sum(int(reader.frames(i).sum()) for i in range(len(reader)))


@pytest.mark.parametrize("method", ["spawn"])
def test_a_reader_travels_to_another_process(tmp_path, method):
    reader = EpisodeReader(write_samples(tmp_path, range(6)))
    expected = _checksum(reader)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_checksum, (reader,)) == expected


def test_frames_outside_the_episode_are_refused(tmp_path):
    reader = EpisodeReader(write_samples(tmp_path, range(1)))
    for start, stop in ((-1, 2), (0, 99), (3, 2)):
        with pytest.raises(IndexError, match="of an episode that has 4"):
            reader.frames(0, start, stop)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((7, 8, 6, 3), np.uint8)}, "frames is"),
        ({"frames": np.zeros((8, 8, 6, 3), np.float32)}, "frames is float32"),
        ({"action": np.full(7, 4)}, "outside"),
        ({"reward": np.full(7, np.nan, np.float32)}, "not finite"),
        ({"truncated": np.eye(7, dtype=bool)[2]}, "before the last step"),
        ({"policy": "p" * 65}, "not a printable name"),
        ({"episode_id": -1}, "episode_id"),
        ({"episode_id": 0}, "stored already"),
    ],
)
def test_an_invalid_episode_is_refused_and_nothing_written(tmp_path, changes, message):
    write_samples(tmp_path, range(1))
    with (
        EpisodeWriter(tmp_path, INFO) as writer,
        pytest.raises(UserError, match=message),
    ):
        writer.append(replace(sample_episode(1), **changes))
    assert len(EpisodeReader(tmp_path)) == 1
    assert not list(tmp_path.glob("episode-*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"env_id": "Other-v0"},
        {"frame_shape": (4, 4, 3)},
        {"actions": ActionSpec("discrete", (5,))},
        {"variable_names": ("health",)},
    ],
)
def test_another_environment_is_refused_before_anything_is_written(tmp_path, changes):
    write_samples(tmp_path, range(2))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=f"another kind: {next(iter(changes))}"):
        EpisodeWriter(tmp_path, replace(INFO, **changes))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_sets_say_which_command_makes_them(tmp_path):
    with pytest.raises(
        UserError,
        match=r"`python -m collect\.gym`, or import one: `python -m worldmodel\.data --help`",
    ):
        EpisodeReader(tmp_path / "missing")
    EpisodeWriter(tmp_path / "empty", INFO).close()
    with pytest.raises(UserError, match="no finished shard"):
        EpisodeReader(tmp_path / "empty")


def test_shards_without_their_meta_are_not_overwritten(tmp_path):
    write_samples(tmp_path, range(2))
    Path(tmp_path, "meta.json").unlink()
    with pytest.raises(UserError, match=r"no meta\.json"):
        EpisodeWriter(tmp_path, INFO)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no valid JSON"),
        ("[]", "JSON object"),
        ('{"format_version": 2}', "format version 2"),
        ('{"format_version": 1}', "lacks"),
    ],
)
def test_a_foreign_meta_is_refused(tmp_path, text, message):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(UserError, match=message):
        EpisodeReader(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": float("nan")}, "fps must be from 0.01 to 1000, not nan"),
        ({"fps": -1.0}, "fps must be from 0.01"),
        ({"fps": 2000.0}, "fps must be from 0.01 to 1000"),
        ({"env_id": "half of a pair \ud800"}, "env_id: .* is not a printable name"),
        ({"env_id": "x" * 300}, "env_id: .* name of 1 to 200"),
        ({"env_kwargs": {"speed": float("inf")}}, "env_kwargs can't be written as JSON"),
        ({"frame_shape": (10**5, 10**5, 3)}, "take more than"),
        ({"frame_skip": 10**9}, "frame_skip must be from 1"),
        ({"variable_names": ("health", "health")}, "variable_names must be different names"),
        ({"variable_names": ("\x1b[31mred",)}, "is not a printable name"),
        ({"rendering": "two\nlines"}, "is not a printable name"),
        ({"policies": {"seed": object()}}, "policies can't be written"),
    ],
)
def test_what_could_not_be_read_again_is_refused_before_it_is_written(changes, message):
    with pytest.raises(UserError, match=message):
        replace(INFO, **changes)


def test_a_folder_of_videos_may_have_a_colon_in_its_name():
    assert (
        DatasetInfo.from_json(replace(INFO, env_id="clips:2024").to_json()).env_id == "clips:2024"
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("action", 10**12, "an action is outside"),
        ("reward", np.nan, "reward holds a value that is not finite"),
        ("variables", np.inf, "variables holds a value that is not finite"),
        ("terminated", 1, "terminated is set before the last step"),
    ],
)
def test_what_verify_refuses_is_refused_by_the_reader(tmp_path, name, value, message):
    write_samples(tmp_path, range(2))
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        array_of(file, name)[1] = value
    reader = EpisodeReader(tmp_path)
    with pytest.raises(UserError, match=f"episode 0: {message}"):
        reader.steps(0)
    with pytest.raises(UserError, match=f"episode 0: {message}"):
        reader.episode(0)
    reader.episode(1)
