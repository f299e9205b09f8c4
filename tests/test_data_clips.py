import numpy as np
import pytest
from data_samples import INFO, sample_episode, write_samples

from worldmodel.data import Clips, ClipSampler, EpisodeReader, EpisodeWriter
from worldmodel.errors import UserError


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


@pytest.mark.parametrize("num_frames", [1, 2, 4, 10])
def test_steps_drawn_evenly_come_alike(reader, num_frames):
    """Also an episode's last one: without weights within a factor of three, with them alike."""
    sampler = ClipSampler(reader, "train", num_frames)
    num_draws = 2000 * len(sampler.episodes)
    drawn = sampler.draw_evenly(np.random.default_rng(1), num_draws)
    assert {tuple(row) for row in drawn.tolist()} == set(_windows(reader, "train", num_frames))
    weights = sampler.step_weights(drawn)
    assert weights.dtype == np.float32
    if num_frames == 1:
        return
    assert weights.mean() == pytest.approx(1, abs=0.02)
    steps = np.repeat(drawn[:, :1], num_frames - 1, 1), drawn[:, 1:] + np.arange(num_frames - 1)
    _, which = np.unique(np.stack(steps, -1).reshape(-1, 2), axis=0, return_inverse=True)
    counts, sums = np.bincount(which), np.bincount(which, weights.reshape(-1))
    assert len(counts) == sum(int(reader.index["episode_length"][i]) for i in sampler.episodes)
    assert counts.max() < 3.3 * counts.min()
    assert abs(sums / sums.mean() - 1).max() < 6 / counts.min() ** 0.5


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
    with pytest.raises(UserError, match="the longest has 6"):
        ClipSampler(reader, "train", 7)
