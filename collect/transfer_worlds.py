"""A real game and its dream, side by side: environments to learn in, and scores."""

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from collect.policies import SMALLEST_FRAME, rewarded, stacked_frames
from collect.rewards import RULES
from collect.transfer_report import Arm
from envs.dream import DreamEnv
from envs.dream_world import Moment
from envs.interface import pose_of
from envs.making import made
from envs.policy import load_sb3
from envs.sb3 import DreamVecEnv
from worldmodel import randomness
from worldmodel.errors import UserError, one_line
from worldmodel.parallel import Workers
from worldmodel.storage.files import as_file, file_digest, written_whole

Where = Literal["real", "dream"]
SCORING_SEED = 77_000
SCORED_AT_ONCE = {"real": 4, "dream": 16}
LONGEST_GAME = 1000  # steps, if the real game has no limit


class DreamWorlds:
    """A dream, and the real game that it was recorded in.

    Args:
        checkpoint: a shipped name, a folder, or a Hugging Face Hub id.
        env_id: of the real game; None: as recorded.
        device: of the dream.

    Attributes:
        env_id, env_kwargs: of the real game.
        rule: of the rewards to learn from; None: the environment's own.
        digest: of the dream's files.
        first, timeout: moments at first frames of real games, and the maximum length of a game;
            from `first_moments`.

    Raises:
        UserError: there is no such dream, or it is of another game.
    """

    def __init__(self, checkpoint: str, env_id: str | None, *, device: str = "cpu") -> None:
        is_folder = Path(checkpoint).is_dir()  # named so that other processes find it too
        self.checkpoint = str(Path(checkpoint).resolve()) if is_folder else checkpoint
        self.device = device
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
        self.rule = RULES.get(self.env_id)
        self._spec: EnvSpec | None = None
        self.first: list[Moment] = []
        self.timeout = LONGEST_GAME

    def check(self, arms: Sequence[Arm]) -> None:
        """Raises UserError where the worlds differ, or an arm's dream can't be made."""
        try:
            real = self.make_real()
            _, info = real.reset(seed=0)
            spaces = (real.observation_space, real.action_space)
            real.close()
            if spaces != self.spaces or not set(self.variable_names) <= set(info):
                raise UserError(
                    f"{self.checkpoint} is no dream of {self.env_id}: its spaces are {self.spaces} "
                    f"and its variables {self.variable_names}, the game's {spaces}, {list(info)}"
                )
            if min(self.spaces[0].shape[:2]) < SMALLEST_FRAME:
                raise UserError(
                    f"policies need frames of at least {SMALLEST_FRAME} pixels; this dream has "
                    f"{self.spaces[0].shape}"
                )
            for arm in {replace(arm, seed=0) for arm in arms if arm.where == "dream"}:
                self._dreams_of(arm, 1).close()
        except (gymnasium.error.Error, ValueError, ImportError) as error:
            raise UserError(one_line(error)) from None

    def first_moments(self, count: int, seed: int) -> None:
        """Record first frames of real games, so that dreams start like games, and the maximum
        length of a game."""
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
            first_pose = None if pose is None else pose[None].astype(np.float32)
            self.first.append(Moment(frame[None], no_actions, variables, first_pose))
        real.close()

    def make_real(self) -> gymnasium.Env[Any, Any]:
        if self._spec is not None:
            return gymnasium.make(self._spec)
        env = made(self.env_id, **self.env_kwargs)
        # A worker process may not have imported the module that registers the environment.
        self._spec = env.spec
        return env

    def training(self, arm: Arm, num_envs: int) -> VecEnv:
        """Environments to learn in, with the rewards of the rule."""
        if arm.where == "dream":
            return rewarded(self._dreams_of(arm, num_envs), self.rule)
        return rewarded(DummyVecEnv([self.make_real] * num_envs), self.rule)

    def scoring(self, where: Where, num_envs: int) -> VecEnv:
        """Environments with their own rewards. Dreams start and time out like real games, with the
        checkpoint's own sampling settings."""
        if where == "dream":
            dreams = self._dreams(num_envs, horizon=self.timeout, starts=self.first)
            return VecMonitor(dreams)
        return VecMonitor(
            DummyVecEnv([lambda: TimeLimit(self.make_real(), self.timeout)] * num_envs)
        )

    def _dreams_of(self, arm: Arm, num_envs: int) -> DreamVecEnv:
        own: dict[str, list[Moment] | None] = {"own": None, "resets": self.first or None}
        return self._dreams(
            num_envs,
            horizon=arm.horizon,
            temperature=arm.temperature,
            starts=own.get(arm.starts, arm.starts),
        )

    def _dreams(self, num_envs: int, **settings: Any) -> DreamVecEnv:
        return DreamVecEnv(num_envs, checkpoint=self.checkpoint, device=self.device, **settings)


@dataclass(frozen=True)
class Games:
    """Complete games to score a policy on.

    Attributes:
        policy: a stable-baselines3 PPO .zip; None: uniformly random actions.
        key: names policy, world and count in `Scores`.
    """

    policy: Path | None
    where: Where
    count: int
    key: str


class Scores:
    """Returns of complete games, stored in a file by policy, world and number of games.

    Args:
        path: JSON; games in there are not played again.
        worlds: where to play.
    """

    def __init__(self, path: Path, worlds: DreamWorlds) -> None:
        self.path, self.worlds = path, worlds
        self.known = self._read()

    def games(self, policy: Path | None, where: Where, count: int) -> Games:
        who = "random" if policy is None else file_digest(policy)
        real = json.dumps([self.worlds.env_id, self.worlds.env_kwargs], sort_keys=True)
        place = f"{self.worlds.digest} of {real}" if where == "dream" else real
        return Games(policy, where, count, f"{who} in {place}, {count} games")

    def of(self, games: Games) -> np.ndarray:
        """Returns (count,) of games that have been played, by the environment's own rewards."""
        return np.asarray(self.known[games.key])

    def play(
        self,
        games: Sequence[Games],
        *,
        num_workers: int = 1,
        ray: str | None = None,
        on_games: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Play all games that are not known, and store their returns.

        Args:
            num_workers, ray: as for `worldmodel.parallel.Workers`.
            on_games: called with numbers of games played.
        """
        missing = {game.key: game for game in games if game.key not in self.known}
        on_games(sum(game.count for game in games if game.key in self.known))
        tasks = ((game, _contents(game.policy)) for game in missing.values())
        with Workers(partial(Scorer, self.worlds), num_workers, ray=ray) as workers:
            for key, returns in workers.run(tasks):
                # Another process may score other policies.
                self.known = self._read() | self.known | {key: returns}
                with written_whole(self.path) as unfinished:
                    unfinished.write_text(json.dumps(self.known))
                on_games(missing[key].count)

    def _read(self) -> dict[str, list[float]]:
        try:
            known = json.loads(self.path.read_text())
        except (OSError, ValueError):  # missing or truncated: the games are played again
            return {}
        return known if isinstance(known, dict) else {}


def _contents(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


class Scorer:
    """Plays games of a policy, given as the contents of its file; one in each worker process."""

    def __init__(self, worlds: DreamWorlds) -> None:
        self.worlds = worlds
        if (found := DreamEnv(worlds.checkpoint).digest()) != worlds.digest:
            raise UserError(
                f"{worlds.checkpoint} is another dream on {socket.gethostname()} ({found[:8]}): "
                "all machines must see the same folder"
            )

    def __call__(self, task: tuple[Games, bytes | None]) -> tuple[str, list[float]]:
        """The games' key and their returns."""
        games, policy = task
        num_envs = min(games.count, SCORED_AT_ONCE[games.where])
        environments = self.worlds.scoring(games.where, num_envs)
        try:
            environments.seed(SCORING_SEED)
            player = (
                RandomPlayer(environments.action_space, num_envs)
                if policy is None
                else _loaded(policy)
            )
            # After loading, which sets the global seed that actions are sampled with.
            set_random_seed(randomness.integer(SCORING_SEED, "scored policy"))
            returns, _ = evaluate_policy(
                player,
                stacked_frames(environments),
                n_eval_episodes=games.count,
                deterministic=False,
                return_episode_rewards=True,
            )
        finally:
            environments.close()
        assert isinstance(returns, list)
        return games.key, [float(value) for value in returns]


def _loaded(policy: bytes) -> PPO | SAC:
    with as_file(policy, "policy.zip") as path:
        return load_sb3(path, trusted=True)  # `collect.transfer` has loaded it, or has made it


class RandomPlayer:
    """Uniformly random actions, with the interface of a stable-baselines3 policy."""

    def __init__(self, action_space: gymnasium.Space[Any], num_envs: int) -> None:
        self.action_space, self.num_envs = action_space, num_envs
        self.action_space.seed(randomness.integer(SCORING_SEED, "random player"))

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.stack([self.action_space.sample() for _ in range(self.num_envs)]), None
