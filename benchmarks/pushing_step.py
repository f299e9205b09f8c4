"""Steps per second of the robot bin on one core: python -m benchmarks.pushing_step

Complete episodes of random actions, including resets and frames, with each available renderer and
with the physics alone. Variants alternate.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import gymnasium
import numpy as np

# One thread for Mesa's software OpenGL, on any machine.
os.environ.setdefault("LP_NUM_THREADS", "1")

from benchmarks.measuring import Output, Results, in_turns, measured_on, run_benchmark
from envs.pushing import make
from envs.renderers import choose_renderer
from worldmodel import randomness
from worldmodel.command import check_numbers
from worldmodel.evaluation.tables import Blocks, Table

TARGETS = {"egl": 150.0, "rays": 80.0}  # steps per second
LENGTH = 30


@dataclass(frozen=True)
class Options(Output):
    """Measure steps of RobotPushing-v0 on one core."""

    episodes: int = 20
    """Number of episodes of 30 steps with each renderer."""


def measure(options: Options) -> Results:
    check_numbers(options, episodes=1)
    renderers = dict.fromkeys([choose_renderer("auto"), "rays"])
    envs = {name: make(renderer=name) for name in renderers}
    envs["physics alone"] = blind = make(renderer="rays")
    blind._picture = lambda: np.zeros((64, 64, 3), np.uint8)
    calls = {name: _episodes(env) for name, env in envs.items()}
    times = in_turns(calls, dict.fromkeys(envs, options.episodes))
    for env in envs.values():
        env.close()
    summaries = {name: of.summary() for name, of in times.items()}
    rates = ("steps_a_second", "steps_a_cpu_second")
    return {
        "variants": {
            name: {rate: LENGTH * of[rate] for rate in rates} for name, of in summaries.items()
        }
    }


def _episodes(env: gymnasium.Env) -> Callable[[], None]:
    """Each call plays another episode; the same for all environments."""
    episodes = count()

    def play() -> None:
        episode = next(episodes)
        rng = randomness.generator(0, "benchmark: pushing", episode)
        env.reset(seed=episode)
        for action in rng.uniform(-1, 1, (LENGTH, 4)).astype(np.float32):
            env.step(action)

    return play


def tables(results: Results) -> Blocks:
    rows = [
        [
            name,
            f"{row['steps_a_second']:.0f}",
            f"{row['steps_a_cpu_second']:.0f}",
            f"{TARGETS[name]:g}" if name in TARGETS else "",
        ]
        for name, row in results["variants"].items()
    ]
    return [
        f"RobotPushing-v0 on one core of {measured_on(results)}",
        Table(["renderer", "steps/s", "steps per CPU-second", "target"], rows),
    ]


if __name__ == "__main__":
    run_benchmark("pushing_step", Options, measure, tables)
