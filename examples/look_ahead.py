"""Play the real game by planning in the dream: python -m examples.look_ahead

Random shooting, the simplest planner: the newest real frames start a dream, the dream branches into
many futures with random actions, and the first actions of the best future are taken in the real
game. No policy is trained.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

import envs  # noqa: F401  registers the environments
from envs.dream import DreamEnv
from envs.interface import pose_of
from envs.making import made
from envs.vector_dream import DreamVectorEnv
from worldmodel import randomness
from worldmodel.command import check_numbers, parse_options, run_command, track
from worldmodel.errors import UserError

PER_STEP = 0.97  # discount


@dataclass(frozen=True)
class LookAhead:
    """Play the real game by planning in a dream of it."""

    dream: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    worth: str = "pickups"
    """What to maximise: a game variable, or reward, the environment's own."""
    games: int = 3
    """Real games to play."""
    steps: int = 525
    """Maximum number of steps per game."""
    futures: int = 32
    """Number of futures per plan."""
    depth: int = 16
    """Length of a plan in steps."""
    commit: int = 4
    """Steps to take before planning again."""
    seed: int = 0
    """Seed of the games and the dreams."""


def main() -> None:
    options = parse_options(LookAhead, "examples.look_ahead", __doc__)
    run_command(lambda: play(options), stopped="stopped")


def play(options: LookAhead) -> list[float]:
    """Play games; returns the return of each.

    Raises:
        UserError: there is no such dream, an option is out of range, or the dream's game can't be
            made.
    """
    check_numbers(options, games=1, steps=1, futures=1, depth=1, commit=1, seed=0)
    if options.commit > options.depth:
        raise UserError("--commit must be at most --depth")
    planner = Planner(options)
    env_id, env_kwargs = planner.now.recorded_env()
    real = made(env_id, **env_kwargs)
    returns = []
    for game in range(options.games):
        total, steps = _play_game(real, planner, options, seed=options.seed + game)
        print(f"game {game}: return {total:g} in {steps} steps")
        returns.append(total)
    print(f"mean return: {np.mean(returns):g}")
    real.close()
    return returns


class Planner:
    """Chooses actions by sampling futures.

    Attributes:
        now: the dream that starts from the newest frames.
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
            moment: the options of `DreamEnv.reset`.
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
            gained += PER_STEP**t * alive * (gain - terminated)  # death costs 1
            alive &= ~terminated
        return plans[gained.argmax()]

    def _random_plans(self) -> np.ndarray:
        """Random actions, each held for 1 to 8 steps, (futures, depth, *shape)."""
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
    """Play a real game; returns its return and length."""
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
            known = [pose for pose in poses if pose is not None]
            if planner.now.model.config.used_pose and len(known) == len(frames):
                moment["poses"] = np.stack(known)
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
