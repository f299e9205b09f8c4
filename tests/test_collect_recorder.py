"""The real recorder on a toy environment whose every number is known."""

import multiprocessing
import time
from functools import partial

import gymnasium
import numpy as np
import pytest
from data_samples import assert_same_episode

from collect.recorder import (
    POLICY_WITH_NOISE,
    RANDOM,
    Behaviour,
    EpisodePlayer,
    Job,
    Player,
    describe,
    play_episode,
)
from envs.interface import action_spec
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.parallel import Workers


class CounterEnv(gymnasium.Env):
    """Counts action + 1 a step from its seed on. The picture is the count; so is a variable.

    A reward is 100 * the count before + the action. Ends after `num_steps`.
    """

    observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)
    variable_names = ("count",)

    def __init__(self, num_steps=6, fails_at=None, truncates=False):
        self.action_space = gymnasium.spaces.Discrete(3)
        self.num_steps, self.fails_at, self.truncates = num_steps, fails_at, truncates

    def _seen(self):
        return np.full((4, 4, 3), self.count, np.uint8), {"count": self.count}

    def reset(self, *, seed=None, options=None):
        self.count, self.steps = (seed or 0) % 100, 0
        return self._seen()

    def step(self, action):
        if self.steps == self.fails_at:
            raise RuntimeError("the counter is broken")
        reward = 100 * self.count + action
        self.count += int(action) + 1
        self.steps += 1
        over = self.steps == self.num_steps
        frame, info = self._seen()
        return frame, reward, over and not self.truncates, over and self.truncates, info


gymnasium.register("Counter-v0", f"{__name__}:CounterEnv")
ENV_ID = f"{__name__}:Counter-v0"  # workers import this module to find it


def _jobs(num_episodes, max_length=100, behaviour=RANDOM):
    return [Job(i, 100 + i, 200 + i, behaviour, max_length) for i in range(num_episodes)]


def _players(num_workers, env_kwargs=None):
    return Workers(partial(EpisodePlayer, ENV_ID, env_kwargs or {}), num_workers)


def _played_here(env_kwargs, jobs):
    env = CounterEnv(**env_kwargs)
    return [play_episode(env, job, None) for job in jobs]


@pytest.mark.parametrize(
    ("env_kwargs", "max_length", "num_workers"),
    [
        ({"num_steps": 6}, 100, 2),
        ({"num_steps": 6, "truncates": True}, 100, 0),
        ({"num_steps": 50}, 5, 0),
    ],
)
def test_frame_t_and_action_t_give_frame_t_plus_1_and_reward_t(
    tmp_path, env_kwargs, max_length, num_workers
):
    info, jobs = describe(ENV_ID, env_kwargs, {}), _jobs(10, max_length)
    with (
        _players(max(1, num_workers), env_kwargs) as workers,
        EpisodeWriter(tmp_path, info, episodes_per_shard=4) as writer,
    ):
        for episode in workers.run(jobs) if num_workers else _played_here(env_kwargs, jobs):
            writer.append(episode)

    reader = EpisodeReader(tmp_path)
    assert reader.info.variable_names == ("count",)
    assert len(reader) == 10
    for i in range(10):
        episode = reader.episode(i)
        num_steps = min(env_kwargs["num_steps"], max_length)
        assert (episode.episode_id, episode.length) == (i, num_steps)
        count = [episode.seed % 100]
        for action in episode.action:
            count.append(count[-1] + int(action) + 1)
        assert episode.frames[:, 0, 0, 0].tolist() == count
        assert episode.variables[:, 0].tolist() == count
        assert (episode.frames == episode.frames[:, :1, :1, :1]).all()
        expected = [100 * before + a for before, a in zip(count[:-1], episode.action, strict=True)]
        assert episode.reward.tolist() == expected
        last = [False] * (num_steps - 1) + [True]
        nowhere = [False] * num_steps
        cut = num_steps == max_length
        truncates = env_kwargs.get("truncates", False)
        assert episode.terminated.tolist() == (nowhere if cut or truncates else last)
        assert episode.truncated.tolist() == (last if truncates else nowhere)
    actions = np.concatenate([reader.episode(i).action for i in range(10)])
    assert set(actions.tolist()) == {0, 1, 2}


def test_an_episode_depends_on_its_job_alone():
    jobs = _jobs(8)
    with _players(2) as workers:
        played = {episode.episode_id: episode for episode in workers.run(jobs)}
    for episode in _played_here({}, jobs[::-1]):
        assert_same_episode(played[episode.episode_id], episode)


def test_a_worker_that_fails_is_heard():
    with (
        _players(1, {"fails_at": 3}) as workers,
        pytest.raises(UserError, match="the counter is broken"),
    ):
        list(workers.run(_jobs(5)))


def test_a_worker_that_cannot_begin_is_heard():
    with (
        _players(1, {"colour": "red"}) as workers,
        pytest.raises(UserError, match="colour"),
    ):
        list(workers.run(_jobs(5)))


def test_a_worker_that_is_killed_is_missed():
    with _players(1) as workers:
        episodes = workers.run(_jobs(1000))
        next(episodes)
        for process in multiprocessing.active_children():
            process.kill()
        time.sleep(1.0)  # the process that stores may be busy when a worker dies
        with pytest.raises(UserError, match="a worker process died"):
            list(episodes)


class FixedPolicy:
    """Always does 0, and counts the frames it is shown."""

    num_seen = 0

    def reset(self, *, seed=None):
        self.num_seen = 0

    def act(self, frame):
        self.num_seen += 1
        return 0


def _actions(behaviour: Behaviour, policy, num_steps=20_000, num_choices=50):
    space = gymnasium.spaces.Discrete(num_choices)
    player = Player(behaviour, policy, space, seed=1)
    return np.array([player.act(np.zeros((1, 1, 3), np.uint8)) for _ in range(num_steps)])


def _run_lengths(actions):
    edges = np.flatnonzero(np.diff(actions)) + 1
    return np.diff(edges)


def test_random_actions_are_held_for_1_to_8_steps_and_cover_the_space():
    actions = _actions(RANDOM, None)
    assert np.bincount(actions, minlength=50).min() > 200
    lengths = _run_lengths(actions)
    assert lengths.mean() == pytest.approx(4.5 * 50 / 49, rel=0.05)  # 1 in 50 is drawn again
    assert set(range(1, 9)) <= set(lengths.tolist())
    assert _run_lengths(
        _actions(Behaviour("each step", None, 1.0, 1), None)
    ).mean() == pytest.approx(50 / 49, rel=0.02)


def test_noise_comes_now_and_then_while_the_policy_keeps_looking():
    policy = FixedPolicy()
    actions = _actions(POLICY_WITH_NOISE, policy)
    assert policy.num_seen == len(actions)
    # A tenth of the policy's steps are followed by noise, of 4.5 steps on average.
    assert (actions != 0).mean() == pytest.approx(4.5 / (4.5 + 9) * 49 / 50, rel=0.1)


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (gymnasium.spaces.MultiDiscrete([3, 2]), ActionSpec("multi_discrete", (3, 2))),
        (
            gymnasium.spaces.Box(-1, np.array([1, 2], np.float32)),
            ActionSpec("box", low=(-1, -1), high=(1, 2)),
        ),
        (gymnasium.spaces.Discrete(3, start=1), None),
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,)), None),
        (gymnasium.spaces.MultiBinary(3), None),
    ],
)
def test_action_spaces(space, spec):
    env = CounterEnv()
    env.action_space = space
    if spec is not None:
        assert action_spec(env) == spec
    else:
        with pytest.raises(UserError, match=r"cannot be recorded as they are|have no bounds"):
            action_spec(env)


class ScalingEnv(gymnasium.Env):
    """Draws every frame into one array, and halves the action that it is given."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    frame = np.zeros((2, 2, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.frame[:] = 0
        return self.frame, {}

    def step(self, action):
        self.frame += 1
        reward = float(action[0])
        action *= 0.5
        return self.frame, reward, False, False, {}


def test_what_is_recorded_is_nobody_else_s():
    env = ScalingEnv()
    hold = Behaviour("random", actor=None, random_start=1.0, max_hold=8)
    episode = play_episode(env, Job(0, 1, 2, hold, 12), None)
    np.testing.assert_array_equal(episode.frames[:, 0, 0, 0], np.arange(13))
    np.testing.assert_array_equal(episode.reward, episode.action[:, 0])
    assert len(np.unique(episode.action)) < 12  # some are held, and stay what they were
