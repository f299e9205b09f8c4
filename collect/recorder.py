"""Play episodes of a Gymnasium environment in parallel worker processes.

Workers send complete episodes to the process that stores them. An episode depends only on its own
seeds: not on the worker, on earlier episodes, or on an interruption.
"""

import contextlib
import copy
import itertools
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Protocol

import gymnasium
import numpy as np

import envs  # noqa: F401  registers the environments
from envs.making import made
from envs.recording import EpisodeBuilder, dataset_info
from worldmodel import randomness
from worldmodel.data import DatasetInfo, Episode
from worldmodel.errors import UserError

JOBS_AHEAD = 2  # per worker: none must wait for the process that stores
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CLOSING_S = 5.0  # for a worker to close its environment before it is killed


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


class Workers:
    """Processes that each play in their own environment.

    Args:
        num_workers: number of processes.
        env_id, env_kwargs: for `gymnasium.make` in each worker.
        policy_path: a stable-baselines3 .zip; None: no policy plays.
        bots: by the `actor` of a behaviour.
    """

    def __init__(
        self,
        num_workers: int,
        env_id: str,
        env_kwargs: dict[str, Any],
        policy_path: Path | None,
        bots: Mapping[str, Bot] | None = None,
    ) -> None:
        # Spawned, not forked: workers must not inherit open files.
        context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, BaseProcess] = {}
        arguments = (env_id, env_kwargs, policy_path, dict(bots or {}))
        with _one_thread_each():
            for _ in range(num_workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
                process.start()
                theirs.close()
                self._workers[ours] = process

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._workers:
            connection.close()  # a worker ends when its pipe does
        for process in self._workers.values():
            process.join(CLOSING_S)
            process.kill()
            process.join()

    def play(self, jobs: Iterable[Job]) -> Iterator[Episode]:
        """Play all jobs; yields episodes in the order in which they finish.

        Raises:
            UserError: a worker failed or died.
        """
        waiting = iter(jobs)
        unfinished = dict.fromkeys(self._workers, 0)

        def give(connection: Connection) -> None:
            for job in itertools.islice(waiting, 1):
                # A dead worker is reported once its finished episodes have been received.
                with contextlib.suppress(OSError):
                    connection.send(job)
                unfinished[connection] += 1

        for connection in list(self._workers) * JOBS_AHEAD:
            give(connection)
        while busy := [connection for connection, count in unfinished.items() if count]:
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                episode = self._received(connection)
                unfinished[connection] -= 1
                yield episode  # before `give`, which may find the worker dead
                give(connection)

    def _received(self, connection: Connection) -> Episode:
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            process = self._workers[connection]
            process.join(CLOSING_S)
            raise UserError(
                f"a worker process died (exit code {process.exitcode}; -9 means that it was "
                "killed, possibly because memory ran out)"
            ) from None
        if isinstance(answer, str):
            raise UserError(f"a worker process failed:\n{answer}")
        return answer


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Give processes started within this context one thread for numpy and torch.

    Two workers with two threads each block one another: resizing a screen took 13 ms instead of
    0.14.
    """
    before = {name: os.environ[name] for name in THREAD_COUNTS if name in os.environ}
    os.environ.update(dict.fromkeys(THREAD_COUNTS, "1"))
    try:
        yield
    finally:
        for name in THREAD_COUNTS:
            del os.environ[name]
        os.environ.update(before)


def _work(
    connection: Connection,
    env_id: str,
    env_kwargs: dict[str, Any],
    policy_path: Path | None,
    bots: dict[str, Bot],
) -> None:
    """Run a worker: jobs in, episodes out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the storing process handles Ctrl-C
    # Otherwise engines started here would keep the pipe open after this process is killed.
    os.set_inheritable(connection.fileno(), False)
    try:
        with contextlib.closing(made(env_id, **env_kwargs)) as env:
            actors = _actors(env, policy_path, bots)
            while True:
                job: Job = connection.recv()
                actor, rescuer = actors[job.behaviour.actor], actors.get("policy")
                connection.send(play_episode(env, job, actor, rescuer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the storing process has finished or died
    except Exception:
        connection.send(traceback.format_exc())


def _actors(
    env: gymnasium.Env[Any, Any], policy_path: Path | None, bots: dict[str, Bot]
) -> dict[str | None, Actor | None]:
    """The actors by their name in `Behaviour.actor`."""
    actors: dict[str | None, Actor | None] = {name: bot(env) for name, bot in bots.items()}
    actors[None] = None
    if policy_path is not None:
        # torch takes seconds to import, and random play does not need it.
        import torch

        from envs.policy import load_policy

        torch.set_num_threads(1)
        actors["policy"] = load_policy(policy_path, env, trusted=True)
    return actors


def describe(env_id: str, env_kwargs: dict[str, Any], policies: dict[str, Any]) -> DatasetInfo:
    """Metadata of a data set recorded in this environment. Raises UserError as `dataset_info`."""
    with contextlib.closing(made(env_id, **env_kwargs)) as env:
        return dataset_info(env, env_id, env_kwargs, policies)
