"""Speed of play next to a busy process, relative to alone: python -m benchmarks.busy_neighbour

Runs alone and next to one busy process alternate, so that other load affects both alike. The
target is 0.8, on two cores.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.first_frame import play
from benchmarks.measuring import Output, Results, measured_on, run_benchmark
from worldmodel.command import check_numbers
from worldmodel.evaluation.tables import Blocks

TARGET = 0.8


@dataclass(frozen=True)
class Options(Output):
    """Measure how much a busy process slows down `python -m play`."""

    env: str = "dream-doom"
    """What to play, as for `python -m play`."""
    steps: int = 200
    """Steps per run."""
    pairs: int = 5
    """Number of runs alone, and of runs next to the busy process."""


def measure(options: Options) -> Results:
    check_numbers(options, steps=1, pairs=1)
    alone, beside = [], []
    for _ in range(options.pairs):
        alone.append(play(options.env, options.steps)[1])
        with busy_process():
            beside.append(play(options.env, options.steps)[1])
    ratio = median(beside) / median(alone)
    return {"env": options.env, "alone": alone, "beside": beside, "ratio": ratio}


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy in this context."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()


def tables(results: Results) -> Blocks:
    lines: Blocks = [
        f"{name}: median {median(results[key]):.1f} steps/s "
        f"({', '.join(f'{rate:.1f}' for rate in results[key])})"
        for name, key in (("alone", "alone"), ("next to a busy process", "beside"))
    ]
    met = "met" if results["ratio"] >= TARGET else "not met"
    ratio = f"{results['env']}: {results['ratio']:.2f} of its speed (target {TARGET}: {met})"
    return [*lines, ratio, measured_on(results)]


if __name__ == "__main__":
    run_benchmark("busy_neighbour", Options, measure, tables)
