"""Train a stable-baselines3 policy in a real environment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from collect.cloning import FRAME_STACK, clone_bot, save_whole
from collect.rewards import LearningReward, Rule
from collect.training import Training
from envs.policy import StateObservation, load_ppo

NUM_ENVS = 16
SAVE_EVERY = 20_000  # environment steps


def _falling_learning_rate(remaining: float) -> float:
    return 5e-4 * max(remaining, 0.0)  # the last rollout goes beyond the end


FRAME_RECIPE: dict[str, Any] = {
    "learning_rate": _falling_learning_rate,
    "n_steps": 128,
    "batch_size": 512,
    "n_epochs": 3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "ent_coef": 0.01,
}


def stacked_frames(environments: VecEnv) -> VecEnv:
    """Environments of frames as a policy on frames looks at them."""
    return VecTransposeImage(VecFrameStack(environments, FRAME_STACK))


class VecLearningReward(VecEnvWrapper):
    """`LearningReward` of many environments at once."""

    def __init__(self, venv: VecEnv, rule: Rule) -> None:
        super().__init__(venv)
        self._rule = rule

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._before = list(self.venv.reset_infos)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        observations, own, over, infos = self.venv.step_wait()
        rewards = np.zeros(self.num_envs, np.float32)
        for i, info in enumerate(infos):
            terminated = bool(over[i]) and not info["TimeLimit.truncated"]
            rewards[i] = self._rule(self._before[i], info, float(own[i]), terminated)
            self._before[i] = self.venv.reset_infos[i] if over[i] else info
        return observations, rewards, over, infos


class SaveAndReport(BaseCallback):
    """Save the policy now and then, whole or not at all, and report the steps done.

    Where `kept_every` is given, also beside it, as it was after so many steps.
    """

    def __init__(
        self, path: Path, on_progress: Callable[[int], None], kept_every: int | None = None
    ) -> None:
        super().__init__()
        self.path, self.kept_every = path, kept_every
        self.on_progress = on_progress
        self._saved_at = 0

    def _on_step(self) -> bool:
        self.on_progress(self.num_timesteps)
        return True

    def _on_rollout_start(self) -> None:
        # Between an update and the next rollout: where a resumed run takes up, also when a policy
        # is kept, or what is kept would not be on the way to what comes of it.
        keeping = False
        if self.kept_every is not None:
            newest = max(kept_policies(self.path), default=0)
            keeping = self.num_timesteps // self.kept_every > newest // self.kept_every
        if keeping:
            save_whole(self.model, _kept_at(self.path, self.num_timesteps))
        if keeping or self.num_timesteps - self._saved_at >= SAVE_EVERY:
            self._saved_at = self.num_timesteps
            save_whole(self.model, self.path)


def kept_policies(path: Path) -> dict[int, Path]:
    """What the policy of `path` was on the way: steps that it had learned for, and where it is."""
    files = {kept.stem.rpartition("-")[2]: kept for kept in path.parent.glob(f"{path.stem}-*.zip")}
    return {int(steps): kept for steps, kept in files.items() if steps.isdecimal()}


def _kept_at(path: Path, num_steps: int) -> Path:
    return path.with_name(f"{path.stem}-{num_steps:08d}.zip")


def train_ppo(
    env_id: str,
    env_kwargs: dict[str, Any],
    training: Training,
    path: Path,
    *,
    seed: int = 0,
    trusted: bool = False,
    on_cloning: Callable[[float], None] = lambda share: None,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Path:
    """Train PPO in a real environment, where there is a bot on from its clone.

    Resumes from `path` where an earlier call stopped, at its last save: every `SAVE_EVERY`
    steps. `on_cloning` is called with the share of the cloning that is done, `on_progress` with
    the steps done so far.

    Args:
        trusted: whether a policy at `path` may be loaded even if it was not made here.

    Returns:
        `path`, a stable-baselines3 .zip that `envs.policy.load_policy` reads.
    """
    if is_trained(path, training.num_steps, trusted=trusted):
        return path
    learner = {"frames": _frame_learner, "state": _state_learner}[training.looks_at]
    environments, policy, recipe = learner(env_id, env_kwargs, training)

    def clone(model: PPO) -> None:
        assert training.bot is not None
        clone_bot(
            model,
            lambda: _rewarded(env_id, env_kwargs, training),
            training.bot,
            path,
            seed=seed,
            on_progress=on_cloning,
        )

    return learn_ppo(
        environments,
        policy,
        recipe,
        path,
        num_steps=training.num_steps,
        seed=seed,
        prepare=None if training.bot is None else clone,
        on_progress=on_progress,
    )


def is_trained(path: Path, num_steps: int, *, trusted: bool = False) -> bool:
    """Whether a policy is there that has learned for so many steps.

    Args:
        trusted: whether what is there may be loaded even if it was not made here.

    Raises:
        UserError: what is there is no policy, or isn't trusted.
    """
    if not path.exists():
        return False
    return load_ppo(path, trusted=trusted).num_timesteps >= num_steps


def learn_ppo(
    environments: VecEnv,
    policy: str,
    recipe: dict[str, Any],
    path: Path,
    *,
    num_steps: int,
    seed: int,
    prepare: Callable[[PPO], None] | None = None,
    kept_every: int | None = None,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Path:
    """PPO in environments, which are closed in the end; goes on from `path` if that exists.

    Args:
        policy, recipe: the kind of policy, and PPO's settings.
        prepare: what to do with a new policy first.
        kept_every: steps after which the policy so far is kept as well, see `kept_policies`.
    """
    try:
        if path.exists():
            load_ppo(path, trusted=False)  # or nothing of it is run
            model = PPO.load(path, env=environments, device="cpu")
            # Loading begins the random numbers anew: not those of the first steps again.
            model.set_random_seed(seed + model.num_timesteps)
        else:
            model = PPO(policy, environments, **recipe, seed=seed, device="cpu")
        # Halves a CNN's time on a CPU; missing from torch's type stubs.
        model.policy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if prepare is not None and not path.exists():
            prepare(model)
        remaining = num_steps - model.num_timesteps
        if remaining > 0:
            model.learn(
                remaining,
                callback=SaveAndReport(path, on_progress, kept_every),
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
    return env if training.reward is None else LearningReward(env, training.reward)


def _frame_learner(
    env_id: str, env_kwargs: dict[str, Any], training: Training
) -> tuple[VecEnv, str, dict[str, Any]]:
    """Environments, the kind of policy, and PPO's settings."""

    def make_env() -> gymnasium.Env[Any, Any]:
        return Monitor(_rewarded(env_id, env_kwargs, training))

    recipe = dict(FRAME_RECIPE)
    if training.bot is not None:  # small steps: what was cloned is soon forgotten
        recipe |= {"learning_rate": 1e-4, "clip_range": 0.1, "ent_coef": 0.001}
    return stacked_frames(DummyVecEnv([make_env] * NUM_ENVS)), "CnnPolicy", recipe


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
