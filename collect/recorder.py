"""Play episodes of a Gymnasium environment.

An episode depends only on its own seeds: not on the process that plays it, on earlier episodes, or
on an interruption.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gymnasium
import numpy as np

import envs  # noqa: F401  registers the environments
from envs.making import made
from envs.policy_function import FunctionPolicy
from envs.recording import EpisodeBuilder, dataset_info
from worldmodel import randomness
from worldmodel.data import DatasetInfo, Episode
from worldmodel.parallel import Workers
from worldmodel.storage.files import as_file


@dataclass(frozen=True)
class Behaviour:
    """How an episode's actions are chosen.

    Attributes:
        name: as stored with the episode.
        actor: a trained policy (its actions are sampled), one of the world's bots, or nobody.
        random_start: the probability that a random action starts at a step where none is held.
        max_hold: a random action is held for 1 to `max_hold` steps.
        rest: the probability that a number of a random box action is 0 (or the bound nearest to
            it); otherwise it is equally likely a bound or uniform. 0: all numbers are uniform.
        rescued: whether the trained policy, where there is one, plays while health is low: an
            explorer alone would starve.
    """

    name: str
    actor: Literal["policy", "bot", "explorer"] | None
    random_start: float
    max_hold: int
    rest: float = 0.0
    rescued: bool = False


POLICY = Behaviour("policy", actor="policy", random_start=0.0, max_hold=1)
POLICY_WITH_NOISE = Behaviour("policy+noise", actor="policy", random_start=0.1, max_hold=8)
RANDOM = Behaviour("random", actor=None, random_start=1.0, max_hold=8)
EXPLORER = Behaviour("exploring", actor="explorer", random_start=0.0, max_hold=1, rescued=True)
HUNGRY, FED = 45.0, 80.0  # health at which the policy takes over from an explorer, and ends
BOT = Behaviour("bot", actor="bot", random_start=0.0, max_hold=1)
BOT_WITH_NOISE = Behaviour("bot+noise", actor="bot", random_start=0.1, max_hold=8)


class Actor(Protocol):
    """A policy of `envs.policy`, or a bot: chooses actions from frames."""

    def reset(self, *, seed: int | None = None) -> None:
        """Start an episode."""
        ...

    def act(self, frame: np.ndarray) -> Any:
        """The action for the newest frame, uint8 (H, W, C)."""
        ...


Bot = Callable[[gymnasium.Env[Any, Any]], Actor]  # makes an actor for its environment


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    episode_id: int
    env_seed: int
    player_seed: int
    behaviour: Behaviour
    max_length: int


Players = Workers[Job, Episode]  # that each play in their own environment


class Player:
    """Chooses an episode's actions according to a behaviour.

    Args:
        actor: the behaviour's; None where it has none.
        space: of random actions.
        seed: of separate streams for the actors, the random actions, and how long these are held.
        rescuer: plays while health is low, if the behaviour is `rescued`.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        actor: Actor | None,
        space: gymnasium.Space[Any],
        seed: int,
        rescuer: Actor | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.actor = actor
        self.rescuer = rescuer if behaviour.rescued else None
        self._is_hungry = False
        self.space = space
        self._rng = randomness.generator(seed, "holds")
        self._held: Any = None
        self._hold_left = 0
        space.seed(randomness.integer(seed, "random actions"))
        if actor is not None:
            actor.reset(seed=randomness.integer(seed, "actor"))
        if self.rescuer is not None:
            self.rescuer.reset(seed=randomness.integer(seed, "rescuer"))

    def act(self, frame: np.ndarray, health: float = FED) -> Any:
        # Actors see every frame, also while others act: they may stack them.
        wanted = None if self.actor is None else self.actor.act(frame)
        if self.rescuer is not None:
            rescue = self.rescuer.act(frame)
            self._is_hungry = health < (FED if self._is_hungry else HUNGRY)
            wanted = rescue if self._is_hungry else wanted
        if self._hold_left == 0 and self._rng.random() < self.behaviour.random_start:
            self._held = self._random_action()
            self._hold_left = int(self._rng.integers(1, self.behaviour.max_hold + 1))
        if self._hold_left > 0:
            self._hold_left -= 1
            return self._held
        return wanted

    def _random_action(self) -> Any:
        action, rest = self.space.sample(), self.behaviour.rest
        if rest == 0 or not isinstance(self.space, gymnasium.spaces.Box):
            return action
        low, high = self.space.low, self.space.high
        end = np.where(self._rng.random(low.shape) < 0.5, low, high)
        moving = np.where(self._rng.random(low.shape) < 0.5, end, action)
        resting = np.clip(np.zeros_like(low), low, high)
        return np.where(self._rng.random(low.shape) < rest, resting, moving)


def play_episode(
    env: gymnasium.Env[Any, Any],
    job: Job,
    actor: Actor | None,
    rescuer: Actor | None = None,
) -> Episode:
    """Play one episode to its end, or for `job.max_length` steps, with the actors of a `Player`."""
    player = Player(job.behaviour, actor, env.action_space, job.player_seed, rescuer)
    frame, info = env.reset(seed=job.env_seed)
    episode = EpisodeBuilder(env, frame, info)
    is_over = False
    while episode.num_steps < job.max_length and not is_over:
        action = player.act(frame, float(info.get("health", FED)))
        # A copy: an environment may modify the action in place.
        frame, reward, terminated, truncated, info = env.step(copy.copy(action))
        episode.add(action, frame, float(reward), terminated, truncated, info)
        is_over = terminated or truncated
    return episode.episode(episode_id=job.episode_id, seed=job.env_seed, policy=job.behaviour.name)


class EpisodePlayer:
    """Plays episodes in an environment of its own; `worldmodel.parallel` makes one per process.

    Args:
        env_id, env_kwargs: for `gymnasium.make`.
        policy: the contents of a stable-baselines3 .zip or of a dream's policy file, since a
            machine of a cluster may not have the file; or `module:name` of a function; None: no
            policy plays.
        bots: by the `actor` of a behaviour.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: dict[str, Any],
        policy: bytes | str | None = None,
        bots: Mapping[str, Bot] | None = None,
    ) -> None:
        self._env = made(env_id, **env_kwargs)
        self._actors = _actors(self._env, policy, bots or {})

    def __call__(self, job: Job) -> Episode:
        actor, rescuer = self._actors[job.behaviour.actor], self._actors.get("policy")
        return play_episode(self._env, job, actor, rescuer)

    def close(self) -> None:
        self._env.close()


def _actors(
    env: gymnasium.Env[Any, Any], policy: bytes | str | None, bots: Mapping[str, Bot]
) -> dict[str | None, Actor | None]:
    """The actors by their name in `Behaviour.actor`."""
    actors: dict[str | None, Actor | None] = {name: bot(env) for name, bot in bots.items()}
    actors[None] = None
    if isinstance(policy, str):
        actors["policy"] = FunctionPolicy(policy, env)
    elif policy is not None:
        # torch takes seconds to import, and random play does not need it.
        import torch

        from envs.policy import load_policy

        torch.set_num_threads(1)
        with as_file(policy, "policy.zip") as path:
            actors["policy"] = load_policy(path, env, trusted=True)
    return actors


def describe(env_id: str, env_kwargs: dict[str, Any], policies: dict[str, Any]) -> DatasetInfo:
    """Metadata of a data set recorded in this environment. Raises UserError as `dataset_info`."""
    with contextlib.closing(made(env_id, **env_kwargs)) as env:
        return dataset_info(env, env_id, env_kwargs, policies)
