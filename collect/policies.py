"""Train a stable-baselines3 policy in a real environment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecTransposeImage,
)

from collect.cloning import FRAME_STACK, clone_bot, save_whole
from collect.training import Training
from envs.policy import StateObservation

NUM_ENVS = 16
SAVE_EVERY = 20_000  # environment steps


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


def train_ppo(
    env_id: str,
    env_kwargs: dict[str, Any],
    training: Training,
    path: Path,
    *,
    seed: int = 0,
    on_cloning: Callable[[float], None] = lambda share: None,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Path:
    """Train PPO, where there is a bot on from its clone.

    Goes on from `path` where an earlier call stopped, at its last save: every `SAVE_EVERY`
    steps. `on_cloning` is called with the share of the cloning that is done, `on_progress` with
    the steps done so far.

    Returns:
        `path`, a stable-baselines3 .zip that `envs.policy.load_policy` reads.
    """
    if path.exists() and PPO.load(path, device="cpu").num_timesteps >= training.num_steps:
        return path
    learner = {"frames": _frame_learner, "state": _state_learner}[training.looks_at]
    environments, policy, recipe = learner(env_id, env_kwargs, training)
    try:
        if path.exists():
            model = PPO.load(path, env=environments, device="cpu")
        else:
            model = PPO(policy, environments, **recipe, seed=seed, device="cpu")
        # Halves a CNN's time on a CPU; missing from torch's type stubs.
        model.policy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if training.bot is not None and not path.exists():
            clone_bot(
                model,
                lambda: _rewarded(env_id, env_kwargs, training),
                training.bot,
                path,
                seed=seed,
                on_progress=on_cloning,
            )
        remaining = training.num_steps - model.num_timesteps
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


def _rewarded(
    env_id: str, env_kwargs: dict[str, Any], training: Training
) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make(env_id, **env_kwargs)
    return env if training.reward is None else training.reward(env)


def _frame_learner(
    env_id: str, env_kwargs: dict[str, Any], training: Training
) -> tuple[VecEnv, str, dict[str, Any]]:
    """Environments, the kind of policy, and PPO's settings."""

    def make_env() -> gymnasium.Env[Any, Any]:
        return Monitor(_rewarded(env_id, env_kwargs, training))

    stacked = VecFrameStack(DummyVecEnv([make_env] * NUM_ENVS), FRAME_STACK)
    recipe = {
        "learning_rate": _falling_learning_rate,
        "n_steps": 128,
        "batch_size": 512,
        "n_epochs": 3,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "ent_coef": 0.01,
    }
    if training.bot is not None:  # small steps: what was cloned is soon forgotten
        recipe |= {"learning_rate": 1e-4, "clip_range": 0.1, "ent_coef": 0.001}
    return VecTransposeImage(stacked), "CnnPolicy", recipe


def _state_learner(
    env_id: str, env_kwargs: dict[str, Any], training: Training
) -> tuple[VecEnv, str, dict[str, Any]]:
    """The same of a policy on the environment's state."""
    smallest = {**env_kwargs, "renderer": "rays", "obs_size": 1}

    def make_env() -> gymnasium.Env[Any, Any]:
        return Monitor(StateObservation(_rewarded(env_id, smallest, training)))

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
