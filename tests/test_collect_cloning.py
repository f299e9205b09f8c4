"""Cloning on a toy whose bot knows what the policy has to see."""

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

from collect import cloning
from collect.cloning import FRAME_STACK, Lessons, clone_bot
from envs.policy import FramePolicy, Stack


class Bar(gymnasium.Env):
    """A bar stands in one of three columns; naming the column is a point. Games of 10 steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = gymnasium.spaces.MultiDiscrete([3, 2])

    def _frame(self):
        self.column = int(self.np_random.integers(3))
        frame = np.zeros((36, 36, 3), np.uint8)
        frame[:, 12 * self.column : 12 * self.column + 12] = 255
        return frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._frame(), {}

    def step(self, action):
        reward = float(action[0] == self.column)
        self.steps += 1
        return self._frame(), reward, self.steps == 10, False, {}


class BarBot:
    def __init__(self, env):
        self.env = env.unwrapped

    def reset(self, *, seed=None):
        pass

    def act(self, frame):
        return np.array([self.env.column, self.env.column == 1])


def _model():
    env = VecTransposeImage(VecFrameStack(DummyVecEnv([Bar]), FRAME_STACK))
    return PPO("CnnPolicy", env, seed=0, device="cpu", n_steps=10, batch_size=10)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(cloning, "NUM_ROUNDS", 2)
    monkeypatch.setattr(cloning, "STEPS_A_ROUND", 100)
    monkeypatch.setattr(cloning, "BATCHES_A_ROUND", 40)
    monkeypatch.setattr(cloning, "BATCH_SIZE", 32)


def test_the_policy_comes_to_do_what_the_bot_does(tiny, tmp_path):
    shares = []
    path = tmp_path / "policy.zip"
    clone_bot(_model(), Bar, BarBot, path, seed=0, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["policy.zip"]
    policy, env = FramePolicy(path, trusted=True), Bar()
    bot = BarBot(env)
    frame, _ = env.reset(seed=99)
    agreed = []
    for _ in range(9):
        action = policy.act(frame, deterministic=True)
        agreed.append((action == bot.act(frame)).all())
        frame, *_ = env.step(action)
    assert np.mean(agreed) == 1.0


def test_a_stopped_call_goes_on_behind_its_last_round(tiny, tmp_path):
    path = tmp_path / "policy.zip"

    def stop_in_the_second_round(share):
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clone_bot(_model(), Bar, BarBot, path, seed=0, on_progress=stop_in_the_second_round)
    assert not path.exists()
    shares = []
    clone_bot(_model(), Bar, BarBot, path, seed=0, on_progress=shares.append)
    assert shares[0] > 0.5
    assert path.exists()


def test_lessons_are_stacked_as_the_policy_sees_them():
    stack, lessons = Stack(FRAME_STACK), Lessons()
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(2):
        stack.clear()
        for step in range(3):
            frame = rng.integers(256, size=(36, 36, 3), dtype=np.uint8)
            lessons.frames.append(frame)
            lessons.steps_before.append(step)
            seen.append(stack.with_newest(frame).transpose(2, 0, 1))
    np.testing.assert_array_equal(lessons.stacked(np.arange(6)).numpy(), np.stack(seen))


def test_returns_are_discounted():
    assert cloning._discounted([1.0, 0.0, 4.0], 0.5) == [2.0, 2.0, 4.0]
