"""Seconds from starting to play to the first frame: python -m benchmarks.first_frame

Starts `python -m play --headless --steps 1` and waits for the line that says a frame is there.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from worldmodel.command import run_command
from worldmodel.errors import UserError
from worldmodel.storage.provenance import git_commit, machine

ANNOUNCED = "first frame after"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Options:
    """Measure how long one waits for the first frame."""

    env: str = "dream-doom"
    """What to play, as for `python -m play`."""
    runs: int = 5
    """How often; the first one may still compile or read from a cold disk."""
    json: bool = False
    """Print JSON instead of a line."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.first_frame", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    if options.runs < 1:
        raise UserError(f"--runs must be at least 1, not {options.runs}")
    seconds = [seconds_to_first_frame(options.env) for _ in range(options.runs)]
    results: dict[str, Any] = {
        "env": options.env,
        "seconds": seconds,
        "first": seconds[0],
        "median": float(np.median(seconds)),
        "load_average": os.getloadavg()[0],
        "commit": git_commit(),
        "machine": machine(),
    }
    if options.json:
        print(json.dumps(results, indent=2))
        return
    shown = ", ".join(f"{value:.2f}" for value in seconds)
    print(f"first frame of {options.env}: median {results['median']:.2f} s ({shown})")
    print(
        f"{results['machine']['cpu']}, torch {results['machine']['torch']}, commit "
        f"{(results['commit'] or 'unknown')[:12]}, load average {results['load_average']:.1f}"
    )


def seconds_to_first_frame(env: str) -> float:
    """Start playing in a process of its own, and wait.

    Raises:
        SystemExit: the game says no, or no frame comes.
    """
    command = [sys.executable, "-u", "-m", "play", "--env", env, "--headless", "--steps", "1"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as player:
        assert player.stdout is not None
        seconds = None
        for line in player.stdout:
            if line.startswith(ANNOUNCED):
                seconds = time.perf_counter() - began
                break
        try:
            _, complaint = player.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            player.kill()
            complaint = f"it went on for {TIMEOUT_S} s"
    if seconds is None or player.returncode != 0:
        last_line = (complaint.strip().splitlines() or ["no frame came"])[-1]
        raise UserError(f"`python {' '.join(command[2:])}` failed: {last_line}")
    return seconds


if __name__ == "__main__":
    main()
