"""FVD's floor, real clips against real clips, is of episodes that the two sides don't share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_episode, write_toy_data

from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import PRESETS
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.dream import WorldModel
from worldmodel.evaluation.fvd import measure_dreams
from worldmodel.evaluation.held_out import HeldOut, Settings
from worldmodel.interface.sampling import Sampling
from worldmodel.metrics.features import VIDEOGPT, FeatureNetwork
from worldmodel.videogpt.configs import PUBLISHED, VideoGPTConfig
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.whole_clips import ClipSettings, WholeClips

NUM_CLIPS = 8  # more than there are test episodes, and no more than are described at once


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> EpisodeReader:
    """20 episodes, the number of each in all of its pixels."""
    folder: Path = tmp_path_factory.mktemp("numbered") / "data"
    info = EpisodeReader(write_toy_data(folder.with_name("toy"), num_episodes=3)).info
    with EpisodeWriter(folder, info) as writer:
        for number in range(20):
            episode = toy_episode(number)
            writer.append(replace(episode, frames=np.full_like(episode.frames, number)))
    return EpisodeReader(folder)


@pytest.fixture
def described() -> list[set[int]]:
    """The episodes of each lot of clips that `network` was given: first test, then training."""
    return []


@pytest.fixture
def network(described: list[set[int]]) -> FeatureNetwork:
    def features(clips: np.ndarray) -> np.ndarray:
        described.append({int(number) for number in clips[:, 0, 0, 0, 0]})
        return clips.mean((1, 2, 3), dtype=np.float64)

    return FeatureNetwork("mean colours", "FVD", replace(VIDEOGPT, num_frames=2), "abc", features)


def check(reader: EpisodeReader, test: set[int], training: set[int]) -> None:
    numbers = reader.index["episode_id"]
    assert 0 < len(test) < NUM_CLIPS  # as in the published data: several clips of an episode
    assert test <= {int(number) for number in numbers[reader.split("test")]}
    assert training <= {int(number) for number in numbers[reader.split("train")]}


def test_of_whole_clips(reader: EpisodeReader, network: FeatureNetwork, described: list[set[int]]):
    preset = PUBLISHED["tiny-videogpt"]
    config = VideoGPTConfig(preset.tokenizer, preset.prior, reader.info.actions)
    settings = ClipSettings(NUM_CLIPS, Sampling(), seed=0, batch_size=8)
    found = WholeClips(VideoGPT(config).eval(), reader, settings).fvd(network, with_samples=False)
    assert found["num_clips"] == found["real_floor_num_clips"] == NUM_CLIPS
    check(reader, *described[:2])


def test_of_dreams(reader: EpisodeReader, network: FeatureNetwork, described: list[set[int]]):
    preset = PRESETS["tiny"]
    config = WorldModelConfig(
        reader.info.actions, reader.info.variable_names, preset.tokenizer, preset.prior
    )
    settings = Settings(num_clips=NUM_CLIPS, horizon=2)
    found = measure_dreams(HeldOut(WorldModel(config).eval(), reader, settings), network)
    assert found["num_clips"] == found["real_floor_num_clips"] == NUM_CLIPS
    check(reader, *described[:2])
