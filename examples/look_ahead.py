"""Play the real game by looking ahead in the dream: python -m examples.look_ahead

Random shooting, the simplest planner there is: what was seen last becomes a dream, the dream
branches into many futures under random actions, and the first actions of the best future are
taken in the real game. No policy is trained.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import tyro

import envs  # noqa: F401  registers the environments
from envs.dream import DreamEnv
from envs.interface import pose_of
from envs.vector_dream import DreamVectorEnv
from worldmodel import randomness
from worldmodel.command import run_command, track
from worldmodel.errors import UserError

PER_STEP = 0.97  # what a step later is worth


@dataclass(frozen=True)
class LookAhead:
    """Play the real game by looking ahead in a dream of it."""

    dream: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    worth: str = "pickups"
    """The game variable to have more of, or reward: the environment's own."""
    games: int = 3
    """Real games to play."""
    steps: int = 525
    """Most steps of a game."""
    futures: int = 32
    """Futures to look into at a time."""
    depth: int = 16
    """Steps to look ahead."""
    commit: int = 4
    """Steps to take before looking again."""
    seed: int = 0
    """Of the games and of what is dreamed."""


def main() -> None:
    options = tyro.cli(LookAhead, prog="python -m examples.look_ahead", description=__doc__)
    run_command(lambda: play(options), stopped="stopped")


def play(options: LookAhead) -> list[float]:
    """Play games by looking ahead; returns each game's own return.

    Raises:
        UserError: there is no such dream.
        UserError: an option is out of range, or the dream's game can't be made.
    """
    for name in ("games", "steps", "futures", "depth", "commit"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1")
    if options.commit > options.depth:
        raise UserError("--commit must be at most --depth")
    planner = Planner(options)
    env_id, env_kwargs = planner.now.recorded_env()
    real = gymnasium.make(env_id, **env_kwargs)
    returns = []
    for game in range(options.games):
        total, steps = _play_game(real, planner, options, seed=options.seed + game)
        print(f"game {game}: return {total:g} in {steps} steps")
        returns.append(total)
    print(f"mean return: {np.mean(returns):g}")
    real.close()
    return returns


class Planner:
    """Chooses actions by dreaming of what they bring.

    Attributes:
        now: the dream of the present, made anew from the newest frames each time.
    """

    def __init__(self, options: LookAhead) -> None:
        self.options = options
        self.now = DreamEnv(options.dream)
        self.futures = DreamVectorEnv(options.futures, options.dream)
        names = ("reward", *self.now.variable_names)
        if options.worth not in names:
            raise UserError(f"--worth must be one of {', '.join(names)}, not {options.worth!r}")
        self.rng = randomness.generator(options.seed, "plans")

    def plan(self, moment: dict[str, Any]) -> np.ndarray:
        """The actions of the best future, (depth, *shape).

        Args:
            moment: `frames`, `actions` and `variables`, as `DreamEnv.reset` takes them.
        """
        options = self.options
        _, info = self.now.reset(options=moment)
        self.futures.branch(self.now.get_state(), seed=int(self.rng.integers(2**31)))
        plans = self._random_plans()
        gained, alive = np.zeros(options.futures), np.ones(options.futures, bool)
        before = np.full(options.futures, info.get(options.worth, 0.0))
        for t in range(options.depth):
            _, rewards, terminated, _, infos = self.futures.step(plans[:, t])
            if options.worth == "reward":
                gain = rewards
            else:
                gain, before = infos[options.worth] - before, infos[options.worth]
            gained += PER_STEP**t * alive * (gain - terminated)  # an end costs a medikit
            alive &= ~terminated
        return plans[gained.argmax()]

    def _random_plans(self) -> np.ndarray:
        """Actions that are held for a few steps, (futures, depth, *shape)."""
        space, options = self.now.action_space, self.options
        space.seed(int(self.rng.integers(2**31)))
        plans = []
        for _ in range(options.futures):
            plan = []
            while len(plan) < options.depth:
                plan += [space.sample()] * int(self.rng.integers(1, 9))
            plans.append(plan[: options.depth])
        return np.asarray(plans)


def _play_game(
    real: gymnasium.Env[Any, Any], planner: Planner, options: LookAhead, *, seed: int
) -> tuple[float, int]:
    """Return and length of one real game."""
    window = planner.now.model.config.prior.window
    frame, info = real.reset(seed=seed)
    frames, actions = deque([frame], window), deque(maxlen=window - 1)
    variables = deque([_numbers(info, planner)], window)
    poses = deque([pose_of(real).read(info)], window)
    total, plan = 0.0, np.zeros(0)
    for t in track(range(options.steps), "playing"):
        if t % options.commit == 0:
            moment = {"frames": np.stack(frames), "variables": np.stack(variables)}
            if actions:
                moment["actions"] = np.stack(actions)
            told = [pose for pose in poses if pose is not None]
            if len(told) == len(frames):
                moment["poses"] = np.stack(told)
            plan = planner.plan(moment)
        action = plan[t % options.commit]
        frame, reward, terminated, truncated, info = real.step(action)
        frames.append(frame)
        actions.append(action)
        variables.append(_numbers(info, planner))
        poses.append(pose_of(real).read(info))
        total += float(reward)
        if terminated or truncated:
            return total, t + 1
    return total, options.steps


def _numbers(info: dict[str, Any], planner: Planner) -> np.ndarray:
    return np.array([info[name] for name in planner.now.variable_names], np.float32)


if __name__ == "__main__":
    main()
