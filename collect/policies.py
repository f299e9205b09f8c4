"""Train a stable-baselines3 policy in a real environment."""

import contextlib
import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from collect.cloning import FRAME_STACK, clone_bot, save_whole
from collect.rewards import Rule, Training
from envs.making import made
from envs.policy import StateObservation, load_sb3
from worldmodel.errors import UserError
from worldmodel.parallel import one_thread_each

NUM_ENVS = 16
SAVE_EVERY = 20_000  # environment steps
# By the server that forks processes of environments: it takes each of them two seconds.
IMPORTED_ONCE = ["stable_baselines3.common.vec_env.subproc_vec_env", "envs.making"]


def _falling_learning_rate(remaining: float) -> float:
    return 5e-4 * max(remaining, 0.0)  # the last rollout goes past the end


SMALLEST_FRAME = 36  # pixels a side, of stable-baselines3's CNN
FRAME_RECIPE: dict[str, Any] = {
    "learning_rate": _falling_learning_rate,
    "n_steps": 128,
    "batch_size": 512,
    "n_epochs": 3,
    "gae_lambda": 0.95,
    "ent_coef": 0.01,
}
# Small steps, or PPO soon unlearns what was cloned.
CLONED_RECIPE = FRAME_RECIPE | {"learning_rate": 1e-4, "clip_range": 0.1, "ent_coef": 0.001}
SAC_RECIPE: dict[str, Any] = {"learning_starts": 1_000}
FEWEST_EPISODES = 20  # for a mean return
STATE_RECIPE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "n_steps": 1200,
    "batch_size": 120,
    "n_epochs": 8,
}


def stacked_frames(environments: VecEnv) -> VecEnv:
    """Environments of frames as a frame policy sees them."""
    return VecTransposeImage(VecFrameStack(environments, FRAME_STACK))


def rewarded(environments: VecEnv, rule: Rule | None) -> VecEnv:
    """The environments with the rewards of a rule (None: their own), monitored."""
    return VecMonitor(environments if rule is None else VecLearningReward(environments, rule))


class VecLearningReward(VecEnvWrapper):
    """Environments with the rewards of a rule."""

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


RETURNS = "running_returns"  # the model's attribute that keeps the statistics of `VecNormalize`


def _save(model: BaseAlgorithm, path: Path) -> None:
    """Save a model with the scale of its rewards, which `_restore_scale` takes back."""
    if normalized := unwrap_vec_normalize(_env(model)):
        returns = normalized.ret_rms
        setattr(model, RETURNS, [float(returns.mean), float(returns.var), float(returns.count)])
    save_whole(model, path)


def _restore_scale(model: BaseAlgorithm) -> None:
    normalized, saved = unwrap_vec_normalize(_env(model)), getattr(model, RETURNS, None)
    if normalized is not None and saved is not None:
        returns = normalized.ret_rms
        returns.mean, returns.var = np.asarray(saved[0]), np.asarray(saved[1])
        returns.count = saved[2]


def _env(model: BaseAlgorithm) -> VecEnv:
    environments = model.get_env()
    assert environments is not None
    return environments


@dataclass
class Improvement:
    """The best mean return of the last episodes, and when it was; kept in the model's file.

    Attributes:
        best: mean return; None: no episode has ended.
        at: steps when it was reached.
    """

    best: float | None = None
    at: int = 0

    @classmethod
    def of(cls, model: BaseAlgorithm) -> "Improvement":
        saved = getattr(model, "improvement", {})
        return cls(saved.get("best"), saved.get("at", 0))

    def note(self, mean_return: float, steps: int) -> None:
        """Note a new mean: it must be better than the best by a hundredth."""
        if self.best is None or mean_return > self.best + 0.01 * abs(self.best):
            self.best, self.at = mean_return, steps

    def is_over(self, steps: int, most_unimproved: int | None) -> bool:
        """Whether training ends after so many steps, for lack of a better mean return."""
        if self.best is None or most_unimproved is None:
            return False
        return steps - self.at >= most_unimproved


class SaveAndReport(BaseCallback):
    """Save the policy every `SAVE_EVERY` steps and report the steps done.

    Args:
        snapshot_every: also save a snapshot beside it after each so many steps.
        most_unimproved: stop after so many steps without a better mean return.
    """

    def __init__(
        self,
        path: Path,
        on_progress: Callable[[int], None],
        snapshot_every: int | None = None,
        most_unimproved: int | None = None,
    ) -> None:
        super().__init__()
        self.path, self.snapshot_every = path, snapshot_every
        self.most_unimproved = most_unimproved
        self.on_progress = on_progress
        self._saved_at = 0
        self._has_ended = False

    def _on_step(self) -> bool:
        self.on_progress(self.num_timesteps)
        return not self._has_ended

    def _on_rollout_start(self) -> None:
        # Between an update and the next rollout, where a resumed run starts. Snapshots come with a
        # save, or they would not be on the path to the policy of a resumed run.
        if self.most_unimproved is not None:
            self._note_improvement(self.most_unimproved)
        is_due = False
        if self.snapshot_every is not None:
            newest = max(snapshots(self.path), default=0)
            is_due = self.num_timesteps // self.snapshot_every > newest // self.snapshot_every
        if is_due:
            name = f"{self.path.stem}-{self.num_timesteps:08d}.zip"
            _save(self.model, self.path.with_name(name))
        if is_due or self.num_timesteps - self._saved_at >= SAVE_EVERY:
            self._saved_at = self.num_timesteps
            _save(self.model, self.path)

    def _note_improvement(self, most_unimproved: int) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if len(returns) >= FEWEST_EPISODES:
            improvement = Improvement.of(self.model)
            improvement.note(float(np.mean(returns)), self.num_timesteps)
            self._has_ended = improvement.is_over(self.num_timesteps, most_unimproved)
            self.model.improvement = asdict(improvement)  # pyright: ignore[reportAttributeAccessIssue]


def snapshots(path: Path) -> dict[int, Path]:
    """Snapshots of the policy of `path` by the number of steps that it had learned for."""
    files = {file.stem.rpartition("-")[2]: file for file in path.parent.glob(f"{path.stem}-*.zip")}
    return {int(steps): file for steps, file in files.items() if steps.isdecimal()}


def train_policy(
    env_id: str,
    env_kwargs: dict[str, Any],
    training: Training,
    path: Path,
    *,
    seed: int = 0,
    num_workers: int = 1,
    on_cloning: Callable[[float], None] = lambda fraction: None,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> int:
    """Train a policy in a real environment, from a clone of the bot where there is one.

    `path` will be a stable-baselines3 .zip that `envs.policy.load_policy` reads. Resumes from it
    where an earlier call was interrupted, at its last save; SAC with an empty replay buffer.
    `on_cloning` is called with the fraction of the cloning that is done, `on_progress` with the
    steps done so far. With several workers, every environment of frames gets a process of its own.

    Returns:
        The steps that it learned for: fewer than asked for, if it no longer improved.

    Raises:
        UserError: frames are too small for a policy, or an environment failed.
    """
    sees_state = training.observes == "state"
    if sees_state:
        env_kwargs = {**env_kwargs, **training.cheapest_frames}

    def make_env() -> gymnasium.Env[Any, Any]:
        env = made(env_id, **env_kwargs)
        return StateObservation(env) if sees_state else env

    def clone(model: BaseAlgorithm) -> None:
        if bot := training.bot:
            assert isinstance(model, PPO)
            rule = training.reward
            clone_bot(model, make_env, bot, path, rule=rule, seed=seed, on_progress=on_cloning)

    if training.algorithm == "sac":
        recipe = SAC_RECIPE
    elif sees_state:
        recipe = STATE_RECIPE
    else:
        recipe = FRAME_RECIPE if training.bot is None else CLONED_RECIPE
    makers = [make_env] * (1 if sees_state else NUM_ENVS)
    if num_workers > 1 and not sees_state:
        multiprocessing.set_forkserver_preload(IMPORTED_ONCE)
        # Not `make_env`: with it, every process would import this module.
        with one_thread_each():
            environments = SubprocVecEnv([partial(made, env_id, **env_kwargs)] * len(makers))
    else:
        environments = DummyVecEnv(makers)
    environments = rewarded(environments, training.reward)
    if training.reward is None and training.algorithm == "ppo":
        # PPO's steps depend on the size of rewards, and a foreign environment's may be any.
        environments = VecNormalize(environments, norm_obs=False, gamma=training.gamma)
    if sees_state:
        has_parts = isinstance(environments.observation_space, gymnasium.spaces.Dict)
        policy = "MultiInputPolicy" if has_parts else "MlpPolicy"
    else:
        environments, policy = stacked_frames(environments), "CnnPolicy"
    return learn(
        environments,
        SAC if training.algorithm == "sac" else PPO,
        policy,
        recipe | {"gamma": training.gamma},
        path,
        num_steps=training.num_steps,
        seed=seed,
        prepare=clone,
        patience=training.patience,
        on_progress=on_progress,
    )


def is_trained(
    path: Path, num_steps: int, *, patience: float | None = None, trusted: bool = False
) -> bool:
    """Whether there is a policy that has learned for that many steps, or no longer improves.

    Args:
        patience: as in `Training`.
        trusted: whether the file may be loaded even if it was not made on this machine.

    Raises:
        UserError: the file is not a policy, or isn't trusted.
    """
    if not path.exists():
        return False
    model = load_sb3(path, trusted=trusted)
    most_unimproved = None if patience is None else int(patience * num_steps)
    is_over = Improvement.of(model).is_over(model.num_timesteps, most_unimproved)
    return model.num_timesteps >= num_steps or is_over


def learn(
    environments: VecEnv,
    algorithm: type[PPO] | type[SAC],
    policy: str,
    recipe: dict[str, Any],
    path: Path,
    *,
    num_steps: int,
    seed: int,
    prepare: Callable[[BaseAlgorithm], None] = lambda model: None,
    snapshot_every: int | None = None,
    patience: float | None = None,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> int:
    """Run PPO or SAC in environments, which are closed at the end; resumes from `path` if it
    exists.

    Args:
        policy: stable-baselines3's name of the kind of policy.
        recipe: the algorithm's settings.
        prepare: called with a new policy before it learns.
        snapshot_every: steps between `snapshots`; None: there are none.
        patience: as in `Training`.

    Returns:
        The steps that the policy has learned for.

    Raises:
        UserError: frames are too small for the policy, or an environment failed.
    """
    try:
        seen = environments.observation_space.shape
        if policy == "CnnPolicy" and seen is not None and min(seen[-2:]) < SMALLEST_FRAME:
            raise UserError(
                f"policies that see frames need {SMALLEST_FRAME} pixels a side or more, not "
                f"{min(seen[-2:])}: record with --size 64, or with another --policy"
            )
        if path.exists():
            load_sb3(path, trusted=False)  # refuses a file that may run foreign code
            model = algorithm.load(path, env=environments, device="cpu")
            # Loading reseeds: without this the random numbers of the first steps would repeat.
            model.set_random_seed(seed + model.num_timesteps)
            if isinstance(model, SAC):  # its replay buffer is empty again
                model.learning_starts = model.num_timesteps + SAC_RECIPE["learning_starts"]
            _restore_scale(model)
        else:
            model = algorithm(policy, environments, **recipe, seed=seed, device="cpu")
        # Halves a CNN's time on a CPU; missing from torch's type stubs.
        model.policy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if not path.exists():
            prepare(model)
        remaining = num_steps - model.num_timesteps
        if remaining > 0:
            most_unimproved = None if patience is None else int(patience * num_steps)
            callback = SaveAndReport(path, on_progress, snapshot_every, most_unimproved)
            model.learn(remaining, callback=callback, reset_num_timesteps=False)
            _save(model, path)
        return model.num_timesteps
    except (EOFError, ConnectionError):
        raise UserError(
            "an environment failed in its process while the policy was trained: its error is above"
        ) from None
    finally:
        with contextlib.suppress(EOFError, ConnectionError):  # their processes may have ended
            environments.close()
