"""Small data sets that tests write and read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.data import DatasetInfo, Episode, EpisodeReader, EpisodeWriter
from worldmodel.interface.actions import ActionSpec

INFO = DatasetInfo(
    env_id="Sample-v0",
    env_kwargs={"size": [8, 6]},
    frame_shape=(8, 6, 3),
    actions=ActionSpec("discrete", (4,), meanings=("noop", "left", "right", "forward")),
    variable_names=("health", "pickups"),
    fps=8.75,
    frame_skip=4,
    policies={"seed": 0},
    versions={"python": "3"},
)


def sample_episode(
    episode_id: int, num_steps: int = 7, *, info: DatasetInfo = INFO, policy: str = "random"
) -> Episode:
    """An episode whose content follows from its id alone. It ends with its last step."""
    rng = np.random.default_rng(episode_id)
    spec = info.actions
    if spec.kind == "box":
        action = rng.uniform(spec.low, spec.high, (num_steps, *spec.shape)).astype(np.float32)
    else:
        action = rng.integers(0, spec.sizes, (num_steps, len(spec.sizes)))
        action = action.reshape(num_steps, *spec.shape)
    return Episode(
        episode_id=episode_id,
        seed=1000 + episode_id,
        policy=policy,
        frames=rng.integers(0, 256, (num_steps + 1, *info.frame_shape), dtype=np.uint8),
        action=action,
        reward=rng.normal(size=num_steps).astype(np.float32),
        terminated=np.arange(num_steps) == num_steps - 1,
        truncated=np.zeros(num_steps, bool),
        variables=rng.normal(size=(num_steps + 1, len(info.variable_names))).astype(np.float32),
    )


def with_pose(episode: Episode, size: int) -> Episode:
    """The episode with random poses of this size, unknown in every third episode."""
    poses = np.random.default_rng(episode.episode_id).normal(size=(episode.length + 1, size))
    poses = np.full_like(poses, np.nan) if episode.episode_id % 3 == 0 else poses
    return replace(episode, pose=poses.astype(np.float32))


def write_samples(folder: Path, ids: range, *, episodes_per_shard: int = 4) -> Path:
    """A data set of `sample_episode`s of 3 to 9 steps; returns `folder`."""
    with EpisodeWriter(folder, INFO, episodes_per_shard=episodes_per_shard) as writer:
        for i in ids:
            writer.append(sample_episode(i, 3 + i % 7, policy=("random", "policy")[i % 2]))
    return folder


def assert_same_episode(left: Episode, right: Episode) -> None:
    for name in ("episode_id", "seed", "policy"):
        assert getattr(left, name) == getattr(right, name)
    for name in ("frames", "action", "reward", "terminated", "truncated", "variables", "pose"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
        assert getattr(left, name).dtype == getattr(right, name).dtype


def array_of(file: h5py.File, name: str) -> h5py.Dataset:
    array = file[name]
    assert isinstance(array, h5py.Dataset)
    return array


def imported(command: Any) -> int:
    """Run an importer; returns how many episodes there are then."""
    command.run()
    return len(EpisodeReader(command.out))
