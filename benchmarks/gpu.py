"""All GPU measurements in at most eight minutes: python -m benchmarks.gpu --out DIR

Runs the tests marked gpu, then the benchmarks that take --device cuda, each in its own process, and
writes each part's results to DIR at once. A part that would take longer than the time left is
stopped and named. --rehearse runs the same commands on the CPU with tiny sizes.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Output, Results, measured_on, run_benchmark, use_device
from worldmodel.command import check_numbers
from worldmodel.evaluation.tables import Blocks, Table
from worldmodel.storage.files import write_json

TESTS = "tests"


@dataclass(frozen=True)
class Part:
    """A benchmark and its arguments.

    Attributes:
        most_s: seconds after which it is stopped.
        rehearsed: arguments that make it small enough for a CPU.
    """

    module: str
    arguments: tuple[str, ...]
    most_s: float
    rehearsed: tuple[str, ...]


SIZES = ("1", "16", "64", "256", "1024", "4096")
# The most wanted first: the time may end before the list.
PARTS = {
    "dreams": Part(
        "vector_dream",
        ("--no-real", "--seconds", "4", "--sizes", *SIZES),
        150,
        ("--no-real", "--seconds", "0.2", "--sizes", "1", "2"),
    ),
    "attention": Part(
        "attention",
        (),
        90,
        ("--latent-shape", "2", "4", "4", "1", "--width", "16", "--heads", "2"),
    ),
    "training VideoGPT": Part(
        "train_step",
        ("vizdoom-hgs", "--repeats", "5"),
        150,
        ("tiny-videogpt", "--variant", "prior fp32"),
    ),
}


@dataclass(frozen=True)
class Options(Output):
    """Run the GPU tests and all benchmarks of a GPU."""

    out: Path
    """Folder for each part's results, as JSON."""
    minutes: float = 8.0
    """Most minutes for all parts together."""
    checkpoint: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    rehearse: bool = False
    """Use the CPU, and tiny sizes."""


def measure(options: Options) -> Results:
    check_numbers(options, above_zero={"minutes"})
    device = "cpu" if options.rehearse else "cuda"
    use_device(device)
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    outcomes: dict[str, str] = {TESTS: _tests(ends)}
    results: dict[str, Any] = {}
    for name, part in PARTS.items():
        arguments = part.rehearsed if options.rehearse else part.arguments
        if part.module == "vector_dream":
            arguments += ("--checkpoint", options.checkpoint)
        command = [f"benchmarks.{part.module}", *arguments, "--device", device, "--json"]
        outcomes[name], said = _run(command, min(part.most_s, ends - time.monotonic()))
        if said is not None:
            results[name] = json.loads(said)
            write_json(options.out / f"{part.module}.json", results[name])
    return {"device": device, "outcomes": outcomes, "parts": results}


def _tests(ends: float) -> str:
    outcome, said = _run(["pytest", "-m", "gpu"], ends - time.monotonic())
    return outcome if said is None else said.strip().splitlines()[-1]


def _run(command: list[str], most_s: float) -> tuple[str, str | None]:
    """What became of a command, and what it printed if it succeeded."""
    if most_s <= 0:
        return "left out: no time was left", None
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(timeout=most_s)
    except subprocess.TimeoutExpired:
        return f"stopped after {most_s:.0f} s", None
    finally:  # also after Ctrl-C, which doesn't reach a session of its own
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # its own processes too: they hold GPU memory
            process.communicate()
    if process.returncode:
        lines = (errors or said).strip().splitlines()
        return f"failed: {lines[-1] if lines else process.returncode}", None
    return f"{time.monotonic() - began:.0f} s", said


def tables(results: Results) -> Blocks:
    rows = [[name, outcome] for name, outcome in results["outcomes"].items()]
    blocks: list[Any] = [measured_on(results), Table(["part", "outcome"], rows)]
    for name, found in results["parts"].items():
        module = importlib.import_module(f"benchmarks.{PARTS[name].module}")
        blocks += module.tables(found)
    return blocks


if __name__ == "__main__":
    run_benchmark("gpu", Options, measure, tables)
