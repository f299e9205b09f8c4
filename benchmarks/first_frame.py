"""Seconds from starting to play to the first frame: python -m benchmarks.first_frame"""

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.measuring import Output, Results, measured_on, run_benchmark
from worldmodel.command import check_numbers
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks

FIRST_FRAME = "first frame after"
RATE = re.compile(r"steps by .* at ([0-9.]+) steps/s")
TIMEOUT_S = 600


@dataclass(frozen=True)
class Options(Output):
    """Measure the seconds from starting `python -m play` to its first frame."""

    env: str = "dream-doom"
    """What to play, as for `python -m play`."""
    runs: int = 5
    """Number of runs; the first one may compile or read from a cold disk."""


def measure(options: Options) -> Results:
    check_numbers(options, runs=1)
    seconds = [play(options.env, 1)[0] for _ in range(options.runs)]
    return {
        "env": options.env,
        "seconds": seconds,
        "first": seconds[0],
        "median": median(seconds),
    }


def play(env: str, steps: int) -> tuple[float, float]:
    """Play without a window in a new process.

    Returns:
        Seconds to the first frame, and steps per second.

    Raises:
        UserError: the game fails or never ends.
    """
    command = [sys.executable, "-u", "-m", "play", "--env", env, "--headless", "--seed", "0"]
    command += ["--steps", str(steps), "--policy", "random"]
    pipe, began = subprocess.PIPE, time.perf_counter()
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as player:
        assert player.stdout is not None
        seconds = rate = None
        for line in player.stdout:
            if line.startswith(FIRST_FRAME):
                seconds = time.perf_counter() - began
            if found := RATE.search(line):
                rate = float(found[1])
        try:
            _, errors = player.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            player.kill()
            errors = f"it did not end within {TIMEOUT_S} s"
    if player.returncode != 0 or seconds is None or rate is None:
        last_line = (errors.strip().splitlines() or ["it printed no first frame or speed"])[-1]
        raise UserError(f"`python {' '.join(command[2:])}` failed: {last_line}")
    return seconds, rate


def tables(results: Results) -> Blocks:
    shown = ", ".join(f"{value:.2f}" for value in results["seconds"])
    return [
        f"first frame of {results['env']}: median {results['median']:.2f} s ({shown})",
        measured_on(results),
    ]


if __name__ == "__main__":
    run_benchmark("first_frame", Options, measure, tables)
