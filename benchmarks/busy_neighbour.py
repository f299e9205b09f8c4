"""Speed of play beside a busy process, over its speed alone: python -m benchmarks.busy_neighbour

Runs `python -m play --headless` as it comes, alone and beside one process that never rests, in
turns, so that whatever else the machine does falls on both. The bar is 0.8, on two cores.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import tyro

from worldmodel.command import run_command
from worldmodel.errors import UserError
from worldmodel.storage.provenance import git_commit, machine

BAR = 0.8
RATE = re.compile(r"steps in .* at ([0-9.]+) steps/s")


@dataclass(frozen=True)
class Options:
    """Measure what a busy process beside it costs the game."""

    env: str = "dream-doom"
    """What to play, as for `python -m play`."""
    steps: int = 200
    """Steps of each run."""
    pairs: int = 5
    """Number of runs alone, and of runs beside the busy process."""
    json: bool = False
    """Print JSON instead of lines."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.busy_neighbour", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    if options.steps < 1 or options.pairs < 1:
        raise UserError("--steps and --pairs must be at least 1")
    results = measure(options)
    print(json.dumps(results, indent=2) if options.json else text(results))


def measure(options: Options) -> dict[str, Any]:
    """Steps a second of every run, and the ratio of the medians."""
    alone, beside = [], []
    for _ in range(options.pairs):
        alone.append(steps_per_s(options))
        with busy_process():
            beside.append(steps_per_s(options))
    return {
        "env": options.env,
        "alone": alone,
        "beside": beside,
        "ratio": median(beside) / median(alone),
        "load_average": os.getloadavg()[0],
        "commit": git_commit(),
        "machine": machine(),
    }


def steps_per_s(options: Options) -> float:
    """Play in a process of its own, and read what it says.

    Raises:
        UserError: the game fails.
    """
    command = [sys.executable, "-m", "play", "--env", options.env, "--headless", "--seed", "0"]
    done = subprocess.run(
        [*command, "--steps", str(options.steps)], capture_output=True, text=True, check=False
    )
    found = RATE.search(done.stdout)
    if done.returncode != 0 or found is None:
        last_line = (done.stderr.strip().splitlines() or ["it says nothing of its speed"])[-1]
        raise UserError(f"`python {' '.join(command[1:])}` failed: {last_line}")
    return float(found[1])


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """A process that keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()


def text(results: dict[str, Any]) -> str:
    """The results for people."""
    on = results["machine"]
    lines = [
        f"{name}: median {median(results[key]):.1f} steps/s "
        f"({', '.join(f'{rate:.1f}' for rate in results[key])})"
        for name, key in (("alone", "alone"), ("beside a busy process", "beside"))
    ]
    met = "met" if results["ratio"] >= BAR else "not met"
    lines += [
        f"{results['env']}: {results['ratio']:.2f} of its speed (bar {BAR}: {met})",
        f"{on['cpu']}, {os.cpu_count()} cores, torch {on['torch']}, commit "
        f"{(results['commit'] or 'unknown')[:12]}, load average {results['load_average']:.1f}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
