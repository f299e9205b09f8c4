"""The real game and its dream, side by side: to learn in, and to be scored in."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from collect.policies import VecLearningReward, stacked_frames
from collect.rewards import Rule
from collect.transfer_report import Arm
from envs.dream import DreamEnv
from envs.dream_world import Moment
from envs.interface import pose_of
from envs.policy import load_ppo
from envs.sb3 import DreamVecEnv
from worldmodel import randomness
from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import written_whole

Where = Literal["real", "dream"]
SCORING_SEED = 77_000
SCORED_AT_ONCE = {"real": 4, "dream": 16}
LONGEST_GAME = 1000  # steps, where the real game sets no limit
SMALLEST_FRAME = 36  # of stable-baselines3's CNN


class DreamWorlds:
    """A dream, and the real game that it was recorded in.

    Args:
        checkpoint: a shipped name, a folder, or a Hugging Face Hub id.
        env_id: of the real game; None: as recorded.

    Attributes:
        env_id, env_kwargs: of the real game.
        digest: of the dream's files.
        first, timeout: moments at first frames of real games, and the steps that a whole game
            may last; from `first_moments`.

    Raises:
        UserError: there is no such dream, or the real game is another one.
    """

    def __init__(self, checkpoint: str, env_id: str | None) -> None:
        self.checkpoint = checkpoint
        try:
            dream = DreamEnv(checkpoint)
            recorded_id, recorded_kwargs = dream.recorded_env()
        except (UserError, ValueError) as error:
            raise UserError(str(error)) from None
        assert isinstance(dream.observation_space, gymnasium.spaces.Box)
        self.digest = dream.digest()
        self.variable_names, self.pose = dream.variable_names, dream.pose
        self.spaces = (dream.observation_space, dream.action_space)
        self.env_id = env_id or recorded_id
        self.env_kwargs = recorded_kwargs if self.env_id == recorded_id else {}
        self.first: list[Moment] = []
        self.timeout = LONGEST_GAME

    def check(self, arms: Sequence[Arm], *, device: str) -> None:
        """Raises UserError where the worlds differ, or an arm's dream can't be made."""
        try:
            real = self.make_real()
            _, info = real.reset(seed=0)
            spaces = (real.observation_space, real.action_space)
            real.close()
            if spaces != self.spaces or not set(self.variable_names) <= set(info):
                raise UserError(
                    f"{self.checkpoint} is no dream of {self.env_id}: its spaces are {self.spaces} "
                    f"and its variables {self.variable_names}, the real ones {spaces}, {list(info)}"
                )
            if min(self.spaces[0].shape[:2]) < SMALLEST_FRAME:
                raise UserError(
                    f"policies look at frames of at least {SMALLEST_FRAME} pixels; this dream has "
                    f"{self.spaces[0].shape}"
                )
            for arm in {replace(arm, seed=0) for arm in arms if arm.where == "dream"}:
                self._dreams(arm, 1, device=device).close()
        except (gymnasium.error.Error, ValueError, ImportError) as error:
            raise UserError(one_line(error)) from None

    def first_moments(self, count: int, seed: int) -> None:
        """First frames of real games, for dreams to begin from as real games do, and how long
        these may last."""
        real = self.make_real()
        limits = (
            getattr(real.unwrapped, "most_steps", None),
            real.spec and real.spec.max_episode_steps,
        )
        self.timeout = min((limit for limit in limits if limit), default=LONGEST_GAME)
        self.first = []
        for i in range(count):
            frame, info = real.reset(seed=seed + i)
            variables = np.array([[info[name] for name in self.variable_names]], np.float32)
            no_actions = np.zeros((0, *(real.action_space.shape or ())), real.action_space.dtype)
            pose = self.pose.read(info) if self.pose == pose_of(real) else None
            told = None if pose is None else pose[None].astype(np.float32)
            self.first.append(Moment(frame[None], no_actions, variables, told))
        real.close()

    def make_real(self) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(self.env_id, **self.env_kwargs)

    def training(self, arm: Arm, num_envs: int, rule: Rule | None, *, device: str) -> VecEnv:
        """Environments to learn in, rewarded by the rule."""
        if arm.where == "real":
            environments: VecEnv = DummyVecEnv([self.make_real] * num_envs)
        else:
            environments = self._dreams(arm, num_envs, device=device)
        return VecMonitor(environments if rule is None else VecLearningReward(environments, rule))

    def scoring(self, where: Where, num_envs: int, *, device: str) -> VecEnv:
        """Environments with their own rewards. Dreams begin and time out as real games do, drawn
        as the checkpoint says."""
        if where == "real":
            return VecMonitor(
                DummyVecEnv([lambda: TimeLimit(self.make_real(), self.timeout)] * num_envs)
            )
        return VecMonitor(
            DreamVecEnv(
                num_envs,
                checkpoint=self.checkpoint,
                horizon=self.timeout,
                starts=self.first,
                device=device,
            )
        )

    def _dreams(self, arm: Arm, num_envs: int, *, device: str) -> DreamVecEnv:
        own: dict[str, list[Moment] | None] = {"own": None, "resets": self.first or None}
        return DreamVecEnv(
            num_envs,
            checkpoint=self.checkpoint,
            horizon=arm.horizon,
            temperature=arm.temperature,
            starts=own.get(arm.starts, arm.starts),
            device=device,
        )


class Scores:
    """Returns of whole games, kept in a file by policy, world and number of games.

    Args:
        path: JSON; what is in there is not played again.
        worlds: where to play.
        device: of the dream.
    """

    def __init__(self, path: Path, worlds: DreamWorlds, *, device: str) -> None:
        self.path, self.worlds, self.device = path, worlds, device
        self.known = self._read()

    def of(
        self,
        policy: Path | None,
        where: Where,
        episodes: int,
        *,
        on_episodes: Callable[[int], None],
    ) -> list[float]:
        """Returns of so many games, by the environment's own rewards.

        Args:
            policy: a stable-baselines3 PPO .zip; None: uniformly random actions.
            on_episodes: called with the number of games played.
        """
        who = "random" if policy is None else hashlib.sha256(policy.read_bytes()).hexdigest()
        real = json.dumps([self.worlds.env_id, self.worlds.env_kwargs], sort_keys=True)
        place = f"{self.worlds.digest} of {real}" if where == "dream" else real
        key = f"{who} in {place}, {episodes} games"
        if key in self.known:
            on_episodes(episodes)
        else:
            played = self._play(policy, where, episodes, on_episodes)
            self.known = self._read() | {key: played}  # another process may score other policies
            with written_whole(self.path) as unfinished:
                unfinished.write_text(json.dumps(self.known))
        return self.known[key]

    def _read(self) -> dict[str, list[float]]:
        try:
            known = json.loads(self.path.read_text())
        except (OSError, ValueError):  # not there yet, or cut short: played again
            return {}
        return known if isinstance(known, dict) else {}

    def _play(
        self,
        policy: Path | None,
        where: Where,
        episodes: int,
        on_episodes: Callable[[int], None],
    ) -> list[float]:
        num_envs = min(episodes, SCORED_AT_ONCE[where])
        environments = self.worlds.scoring(where, num_envs, device=self.device)
        try:
            environments.seed(SCORING_SEED)
            player = (
                RandomPlayer(environments.action_space, num_envs)
                if policy is None
                else load_ppo(policy, trusted=False)
            )

            # Of the actions drawn: loading a policy sets its own.
            set_random_seed(randomness.integer(SCORING_SEED, "scored policy"))

            def report(state: dict[str, Any], _: dict[str, Any]) -> None:
                if state["done"]:
                    on_episodes(1)

            returns, _ = evaluate_policy(
                player,
                stacked_frames(environments),
                n_eval_episodes=episodes,
                deterministic=False,
                callback=report,
                return_episode_rewards=True,
            )
        finally:
            environments.close()
        assert isinstance(returns, list)
        return [float(value) for value in returns]


class RandomPlayer:
    """Uniformly random actions, as a stable-baselines3 policy."""

    def __init__(self, action_space: gymnasium.Space[Any], num_envs: int) -> None:
        self.action_space, self.num_envs = action_space, num_envs
        self.action_space.seed(randomness.integer(SCORING_SEED, "random player"))

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.stack([self.action_space.sample() for _ in range(self.num_envs)]), None
