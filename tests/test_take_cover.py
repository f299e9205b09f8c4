"""Take Cover as World Models plays it."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_gymnasium
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs  # noqa: F401  registers the environments
from collect.rewards import dodging_reward
from envs.doom import DoomEnv


@pytest.fixture
def env():
    env = gymnasium.make("DoomTakeCover-v0").unwrapped
    assert isinstance(env, DoomEnv)
    yield env
    env.close()


def play(env: DoomEnv, seed: int) -> list[tuple]:
    """A game of random strafing, to its end."""
    rng = np.random.default_rng(seed)
    steps: list[Any] = [env.reset(seed=seed)]
    while len(steps) == 1 or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(int(rng.integers(3))))
    return steps


def test_both_checkers_pass(env):
    assert env.action_meanings == ("noop", "left", "right")
    assert env.most_steps == 525  # 2100 tics
    check_env_gymnasium(env)
    check_env_sb3(env)


def test_a_tic_alive_is_a_point_and_the_same_game_comes_again(env):
    first = play(env, 3)
    total = sum(step[1] for step in first[1:])
    assert len(first) * 4 - 8 <= total <= len(first) * 4
    assert first[-1][2]  # nobody survives by chance
    assert first[-1][4]["health"] == 0
    play(env, 4)
    again = play(env, 3)
    assert len(again) == len(first)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def test_hits_and_death_are_what_to_learn_from():
    full, hit = {"health": 100.0}, {"health": 82.0}
    alive = dodging_reward(full, full, 4.0, False)
    hurt = dodging_reward(full, hit, 4.0, False)
    dead = dodging_reward(hit, {"health": 0.0}, 4.0, True)
    assert alive > 0 > hurt > dead
