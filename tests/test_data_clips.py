import numpy as np
import pytest
from data_samples import INFO, sample_episode, write_samples

from worldmodel.data import (
    Clips,
    ClipSampler,
    DataError,
    EpisodeReader,
    EpisodeWriter,
)


@pytest.fixture
def reader(tmp_path):
    return EpisodeReader(write_samples(tmp_path, range(20)))


def _windows(reader, split, num_frames):
    return [
        (int(i), start)
        for i in reader.split(split)
        for start in range(int(reader.index["episode_length"][i]) + 2 - num_frames)
    ]


@pytest.mark.parametrize("num_frames", [1, 4, 10])
@pytest.mark.parametrize("in_memory", [True, False])
def test_every_window_can_be_drawn_and_is_what_was_recorded(reader, num_frames, in_memory):
    sampler = ClipSampler(reader, "train", num_frames, 2**30 if in_memory else 0)
    assert sampler.in_memory is in_memory
    windows = _windows(reader, "train", num_frames)
    assert sampler.num_windows == len(windows)
    drawn = sampler.draw(np.random.default_rng(0), 50 * len(windows))
    assert drawn.dtype == np.int64
    # Exactly these, the last start included; an episode as long as the window has one.
    assert {(int(i), int(start)) for i, start in drawn} == set(windows)

    rows = np.asarray(windows)
    clips = sampler.read(rows)
    for b, (i, start) in enumerate(windows):
        episode, stop = reader.episode(i), start + num_frames
        np.testing.assert_array_equal(clips.frames[b], episode.frames[start:stop])
        np.testing.assert_array_equal(clips.action[b], episode.action[start : stop - 1])
        np.testing.assert_array_equal(clips.reward[b], episode.reward[start : stop - 1])
        np.testing.assert_array_equal(clips.terminated[b], episode.terminated[start : stop - 1])
        np.testing.assert_array_equal(clips.variables[b], episode.variables[start:stop])


def test_windows_are_drawn_uniformly(reader):
    sampler = ClipSampler(reader, "train", 4)
    num_draws = 200 * sampler.num_windows
    drawn = sampler.draw(np.random.default_rng(1), num_draws)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert abs(counts - 200).max() < 6 * 200**0.5


@pytest.mark.parametrize("num_frames", [2, 4, 10])
def test_weighted_steps_of_all_windows_count_alike(reader, num_frames):
    """Also an episode's last step, which lies in one window alone."""
    sampler = ClipSampler(reader, "train", num_frames)
    windows = np.asarray(_windows(reader, "train", num_frames))
    weights = sampler.step_weights(windows)
    assert weights.dtype == np.float32
    assert weights.mean() == pytest.approx(1)
    sums: dict[tuple[int, int], float] = {}
    for (episode, start), of_window in zip(windows.tolist(), weights.tolist(), strict=True):
        for t, weight in enumerate(of_window):
            sums[episode, start + t] = sums.get((episode, start + t), 0.0) + weight
    num_steps = sum(int(reader.index["episode_length"][i]) for i in sampler.episodes)
    assert len(sums) == num_steps
    assert list(sums.values()) == pytest.approx([next(iter(sums.values()))] * num_steps, rel=1e-5)


def test_streamed_equals_in_memory(reader):
    held, streamed = ClipSampler(reader, "train", 4), ClipSampler(reader, "train", 4, 0)
    rows = held.draw(np.random.default_rng(0), 64)
    np.testing.assert_array_equal(streamed.draw(np.random.default_rng(0), 64), rows)
    for name in Clips.__dataclass_fields__:
        left, right = getattr(held.read(rows), name), getattr(streamed.read(rows), name)
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


def test_rows_that_are_no_window_are_refused(reader):
    sampler = ClipSampler(reader, "train", 4)
    i = int(sampler.episodes[0])
    length = int(reader.index["episode_length"][i])
    for row in ((i, -1), (i, length - 2), (int(reader.split("test")[0]), 0)):
        with pytest.raises(IndexError, match="not a window"):
            sampler.read(np.array([row]))


def test_a_split_without_a_long_enough_episode_is_refused(tmp_path):
    with EpisodeWriter(tmp_path, INFO) as writer:
        for i in range(10):
            writer.append(sample_episode(i, 5))
    reader = EpisodeReader(tmp_path)
    assert ClipSampler(reader, "train", 6).num_windows == 8
    with pytest.raises(DataError, match="the longest has 6"):
        ClipSampler(reader, "train", 7)
