"""Train a stable-baselines3 policy in a real environment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecTransposeImage,
)

from envs.policy import StateObservation

NUM_ENVS = 16
NUM_STACKED = 2
SAVE_EVERY = 20_000  # environment steps


class PickupReward(gymnasium.Wrapper):
    """A reward that says at once what the scenario's own (alive or dead) says late.

    +1 a medikit, -0.5 a poison, -1 at death, and 0.01 a step.
    """

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._pickups = info["pickups"]
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        gained = info["pickups"] - self._pickups
        self._pickups = info["pickups"]
        reward = 0.01 + (gained if gained > 0 else 0.5 * gained) - float(terminated)
        return observation, reward, terminated, truncated, info


class SaveAndReport(BaseCallback):
    """Save the policy now and then, whole or not at all, and report the steps done."""

    def __init__(self, path: Path, on_progress: Callable[[int], None]) -> None:
        super().__init__()
        self.path = path
        self.on_progress = on_progress
        self._saved_at = 0

    def _on_step(self) -> bool:
        self.on_progress(self.num_timesteps)
        return True

    def _on_rollout_start(self) -> None:
        # Between an update and the next rollout: where a resumed run takes up.
        if self.num_timesteps - self._saved_at >= SAVE_EVERY:
            self._saved_at = self.num_timesteps
            save_whole(self.model, self.path)


def save_whole(model: BaseAlgorithm, path: Path) -> None:
    """Save so that a kill leaves the old file or the new one, never half of one."""
    unfinished = path.with_suffix(".unfinished.zip")
    model.save(unfinished)
    os.replace(unfinished, path)


def train_ppo(
    env_id: str,
    env_kwargs: dict[str, Any],
    path: Path,
    *,
    learns_from: Literal["frames", "state"],
    num_steps: int,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Path:
    """Train PPO for `num_steps` environment steps in all, on stacked frames of a Doom scenario or
    on the `state()` of the robot bin, which then draws as little as it can.

    Goes on from `path` where an earlier call stopped, at its last save: every `SAVE_EVERY`
    steps. `on_progress` is called with the steps done so far.

    Returns:
        `path`, a stable-baselines3 .zip that `envs.policy.load_policy` reads.
    """
    if path.exists() and PPO.load(path, device="cpu").num_timesteps >= num_steps:
        return path
    learner = {"frames": _frame_learner, "state": _state_learner}[learns_from]
    environments, policy, recipe = learner(env_id, env_kwargs)
    try:
        if path.exists():
            model = PPO.load(path, env=environments, device="cpu")
        else:
            model = PPO(policy, environments, **recipe, seed=seed, device="cpu")
        # Halves a CNN's time on a CPU; missing from torch's type stubs.
        model.policy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        remaining = num_steps - model.num_timesteps
        if remaining > 0:
            model.learn(
                remaining,
                callback=SaveAndReport(path, on_progress),
                reset_num_timesteps=False,
            )
            save_whole(model, path)
    finally:
        environments.close()
    return path


def _frame_learner(env_id: str, env_kwargs: dict[str, Any]) -> tuple[VecEnv, str, dict[str, Any]]:
    """Environments, the kind of policy, and PPO's settings."""

    def make_env() -> gymnasium.Env[Any, Any]:
        return Monitor(PickupReward(gymnasium.make(env_id, **env_kwargs)))

    stacked = VecFrameStack(DummyVecEnv([make_env] * NUM_ENVS), NUM_STACKED)
    recipe = {
        "learning_rate": _falling_learning_rate,
        "n_steps": 128,
        "batch_size": 512,
        "n_epochs": 3,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "ent_coef": 0.01,
    }
    return VecTransposeImage(stacked), "CnnPolicy", recipe


def _state_learner(env_id: str, env_kwargs: dict[str, Any]) -> tuple[VecEnv, str, dict[str, Any]]:
    """The same of a policy on the environment's state."""
    smallest = {**env_kwargs, "renderer": "rays", "obs_size": 1}

    def make_env() -> gymnasium.Env[Any, Any]:
        return Monitor(StateObservation(gymnasium.make(env_id, **smallest)))

    recipe = {
        "learning_rate": 1e-3,
        "n_steps": 1200,
        "batch_size": 120,
        "n_epochs": 8,
        "gamma": 0.9,
    }
    return DummyVecEnv([make_env]), "MlpPolicy", recipe


def _falling_learning_rate(remaining: float) -> float:
    return 5e-4 * remaining
