"""How fast the robot bin goes on one core: python -m benchmarks.pushing_step

Whole episodes under random actions, resets and pictures included, by each renderer that there is,
beside the physics alone; in turns on the same machine.
"""

import json
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from worldmodel import randomness
from worldmodel.command import run_command
from worldmodel.errors import UserError

# One thread of Mesa's software OpenGL, whatever the machine has.
os.environ.setdefault("LP_NUM_THREADS", "1")

from envs.pushing import make
from envs.pushing.renderers import choose_renderer
from worldmodel.storage.provenance import git_commit, machine

BARS = {"egl": 150.0, "rays": 80.0}  # steps a second


@dataclass(frozen=True)
class Options:
    """Measure steps of RobotPushing-v0 on one core."""

    episodes: int = 20
    """Episodes of 30 steps by each renderer."""
    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.pushing_step", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    if options.episodes < 1:
        raise UserError(f"--episodes must be at least 1, not {options.episodes}")
    results = {
        "commit": git_commit(),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "variants": measure(options.episodes),
    }
    print(json.dumps(results, indent=2) if options.json else table(results))


def measure(num_episodes: int) -> dict[str, dict[str, float]]:
    """Steps a second of the clock, and of the process's CPU time, by renderer."""
    here = choose_renderer("auto")
    envs = {name: make(renderer=name) for name in dict.fromkeys([here, "rays"])}
    envs["physics alone"] = blind = make(renderer="rays")
    blind._picture = lambda: np.zeros((64, 64, 3), np.uint8)
    spent = {name: [0.0, 0.0] for name in envs}
    num_steps = 0
    for episode in range(-1, num_episodes):  # one to warm up
        rng = randomness.generator(0, "benchmark: pushing", episode + 1)
        actions = rng.uniform(-1, 1, (30, 4)).astype(np.float32)
        for name, env in envs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            env.reset(seed=episode + 1)
            for action in actions:
                env.step(action)
            if episode >= 0:
                spent[name][0] += time.perf_counter() - wall
                spent[name][1] += time.process_time() - cpu
        num_steps += len(actions) if episode >= 0 else 0
    for env in envs.values():
        env.close()
    return {
        name: {"steps_a_second": num_steps / wall, "steps_a_cpu_second": num_steps / cpu}
        for name, (wall, cpu) in spent.items()
    }


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    on = results["machine"]
    lines = [
        f"RobotPushing-v0, one core of {on['cpu']}, {on['system']}, Python {on['python']}, commit "
        f"{(results['commit'] or 'unknown')[:12]}, load average {results['load_average']:.1f}",
        "",
        "| renderer | steps/s | steps a CPU-second | bar |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in results["variants"].items():
        bar = f"{BARS[name]:g}" if name in BARS else ""
        lines.append(
            f"| {name} | {row['steps_a_second']:.0f} | {row['steps_a_cpu_second']:.0f} | {bar} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
