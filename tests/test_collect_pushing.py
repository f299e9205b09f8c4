"""Collecting from the robot bin, end to end: train, measure, record, go on."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401  registers the environments
from collect.pushing import Collect, collect
from envs.policy import StatePolicy, load_policy
from worldmodel.data import EpisodeReader
from worldmodel.data.verify import verify
from worldmodel.errors import UserError

LENGTH = 6


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Collect:
    out = tmp_path_factory.mktemp("pushing") / "set"
    options = Collect(
        episodes=12, length=LENGTH, out=out, train_steps=1200, workers=1, evaluate_episodes=3
    )
    collect(options)
    return options


def test_a_set_is_whole_and_every_episode_comes_out_again(recorded: Collect):
    assert verify(recorded.out).problems == []
    reader = EpisodeReader(recorded.out)
    assert len(reader) == recorded.episodes
    assert reader.info.env_id == "RobotPushing-v0"
    assert reader.info.actions.meanings == ("dx", "dy", "dz", "close")
    assert {bytes(row["policy"]) for row in reader.index} == {b"policy", b"policy+noise", b"random"}
    scores = reader.info.policies["scores"]
    assert {scores[who]["num_episodes"] for who in ("policy", "random")} == {3}
    assert reader.info.rendering.endswith("twice the size, shrunk to means of four pixels")
    env = gymnasium.make(reader.info.env_id, **reader.info.env_kwargs)
    for i in range(0, recorded.episodes, 4):
        episode = reader.episode(i)
        assert episode.length == LENGTH
        assert episode.truncated[-1]
        frame, _ = env.reset(seed=episode.seed)
        frames = [frame] + [env.step(action)[0] for action in episode.action]
        np.testing.assert_array_equal(np.stack(frames), episode.frames)
    env.close()


def test_more_episodes_are_added_and_other_ones_refused(recorded: Collect):
    policy = (recorded.out / "policy.zip").read_bytes()
    collect(replace(recorded, episodes=13))
    assert len(EpisodeReader(recorded.out)) == 13
    assert (recorded.out / "policy.zip").read_bytes() == policy
    with pytest.raises(UserError, match="recorded with other options"):
        collect(replace(recorded, length=LENGTH + 1))


def test_random_actions_are_held_for_one_or_two_steps(tmp_path: Path):
    options = Collect(
        episodes=3, length=30, out=tmp_path, policy="random", workers=1, evaluate_episodes=0
    )
    collect(options)
    reader = EpisodeReader(tmp_path)
    for i in range(3):
        action = reader.episode(i).action
        changes = np.flatnonzero((action[1:] != action[:-1]).any(1))
        assert set(np.diff(changes)) == {1, 2}


def test_a_policy_on_the_state_repeats_itself_and_must_fit(recorded: Collect):
    env = gymnasium.make("RobotPushing-v0", renderer="rays", obs_size=1)
    policy = load_policy(recorded.out / "policy.zip", env, trusted=True)
    assert isinstance(policy, StatePolicy)
    frame, _ = env.reset(seed=0)
    drawn = []
    for seed in (0, 0, 1):
        policy.reset(seed=seed)
        drawn.append(policy.act(frame))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    smaller = gymnasium.spaces.Box(-np.inf, np.inf, (7,), np.float32)
    env.unwrapped.state_space = smaller  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match="observation_space"):
        load_policy(recorded.out / "policy.zip", env, trusted=True)
    env.close()
