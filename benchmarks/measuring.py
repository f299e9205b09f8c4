"""What all benchmarks share: their command, the description of the machine, and timing."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from worldmodel.command import parse_options, run_command, usable_device
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, to_lines
from worldmodel.storage.provenance import git_commit, machine

PROC_STATUS = Path("/proc/self/status")
MEBIBYTE = 2**20
Results = dict[str, Any]
Given = TypeVar("Given", bound="Output")


@dataclass(frozen=True, kw_only=True)
class Output:
    """The option that all benchmarks have."""

    json: bool = False
    """Print JSON instead of tables."""


def run_benchmark(
    name: str,
    options: type[Given],
    measure: Callable[[Given], Results],
    tables: Callable[[Results], Blocks],
) -> None:
    """Parse the command line, measure, and print the results."""
    given = parse_options(options, f"benchmarks.{name}", None)

    def work() -> None:
        results = {**measure(given), **about()}
        text = json.dumps(results, indent=2) if given.json else "\n".join(to_lines(tables(results)))
        print(text)

    run_command(work)


def about() -> Results:
    """The commit, the machine, and how busy it is."""
    return {"commit": git_commit(), "machine": machine(), "load_average": os.getloadavg()[0]}


def measured_on(results: Results) -> str:
    """A line for people from `about`; with a "device", its name."""
    on = results["machine"]
    device = on["gpu"] if results.get("device", "cpu") != "cpu" else on["cpu"]
    return (
        f"{device}, {on['threads']} of {on['cores']} threads, {on['system']}, torch {on['torch']}, "
        f"commit {(results['commit'] or 'unknown')[:12]}, load average "
        f"{results['load_average']:.1f}"
    )


def use_device(device: str) -> None:
    """Make torch use one CPU thread. Raises UserError if there is no such device."""
    usable_device(device)
    torch.set_num_threads(1)


def chosen_variants(names: list[str], chosen: str | None) -> list[str]:
    """All names, or only the chosen one. Raises UserError if that is unknown."""
    if chosen not in (None, *names):
        raise UserError(f"--variant must be one of {', '.join(names)}, not {chosen}")
    return names if chosen is None else [chosen]


def in_own_process(
    measure: Callable[[Given, str], dict[str, float]], options: Given, variants: list[str]
) -> dict[str, dict[str, float]]:
    """Measure each variant in a new process, so that its memory peak is its own.

    Raises:
        UserError: a process was killed.
    """
    rows = {}
    for variant in variants:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            try:
                rows[variant] = process.submit(measure, options, variant).result()
            except BrokenProcessPool:
                reason = "its process was killed, perhaps because memory ran out"
                raise UserError(f"{variant} failed: {reason}") from None
    return rows


@dataclass
class Times:
    """Durations of the calls of one variant."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        p50, p99 = np.quantile(self.wall_ms, (0.5, 0.99))
        return {
            "steps": len(self.wall_ms),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "steps_a_second": 1000 * len(self.wall_ms) / sum(self.wall_ms),
            "cpu_ms": float(np.mean(self.cpu_ms)),
            "steps_a_cpu_second": 1000 * len(self.cpu_ms) / sum(self.cpu_ms),
        }


def in_turns(
    variants: Mapping[str, Callable[[], object]],
    num_calls: dict[str, int],
    *,
    turn: int = 1,
    warm_up: int = 1,
    device: str = "cpu",
) -> dict[str, Times]:
    """Time calls of each variant, alternating, so that other load affects all alike.

    Args:
        turn: calls of a variant in a row.
        warm_up: calls of each variant before, which don't count.
    """
    times = {name: Times() for name in variants}
    for call in variants.values():
        for _ in range(warm_up):
            call()
    while any(len(times[name].wall_ms) < num_calls[name] for name in variants):
        for name, call in variants.items():
            for _ in range(min(turn, num_calls[name] - len(times[name].wall_ms))):
                wall_s, cpu_s = timed(call, device)
                times[name].wall_ms.append(1e3 * wall_s)
                times[name].cpu_ms.append(1e3 * cpu_s)
    return times


def timed(work: Callable[[], object], device: str = "cpu") -> tuple[float, float]:
    """Seconds by the wall clock, until a GPU is done, and seconds of CPU time of all threads."""
    _synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def seconds_of(work: Callable[[], object], device: str) -> float:
    """CPU time of all threads; on a GPU wall-clock time until it is done."""
    wall_s, cpu_s = timed(work, device)
    return cpu_s if device == "cpu" else wall_s


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def memory_now(device: str) -> int:
    """Bytes in use by the process, or on the GPU."""
    return _resident("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()


def memory_peak(device: str) -> int:
    """Maximum of `memory_now` so far."""
    return _resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def _resident(field: str) -> int:
    if not PROC_STATUS.exists():
        raise UserError(f"memory is read from {PROC_STATUS}, which only Linux has")
    lines = PROC_STATUS.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return 1024 * int(line.split()[1])
