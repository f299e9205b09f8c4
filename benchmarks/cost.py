"""Time and memory of a piece of work: of the CPU, or of a GPU."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from worldmodel.errors import UserError

PROC_STATUS = Path("/proc/self/status")
MEBIBYTE = 2**20


def in_a_process(module: str, arguments: list[str], variant: str) -> dict[str, Any]:
    """What `python -m MODULE ARGUMENTS --variant VARIANT` prints as JSON, in a process of its
    own: its peak of memory is the variant's alone. Ends the program where that one fails."""
    command = [sys.executable, "-m", module, *arguments, "--variant", variant]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode != 0:
        last_line = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{variant} failed (status {child.returncode}): {last_line}")
    return json.loads(child.stdout)


def seconds_of(work: Callable[[], object], device: str) -> float:
    """CPU time of all threads; on a GPU wall-clock time until it is done."""
    if device == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def memory_now(device: str) -> int:
    """Bytes in use: of the process, or of the GPU."""
    return _resident("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()


def memory_peak(device: str) -> int:
    """Most bytes in use so far."""
    return _resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def _resident(field: str) -> int:
    if not PROC_STATUS.exists():
        raise UserError(f"memory is read from {PROC_STATUS}, which only Linux has")
    lines = PROC_STATUS.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return 1024 * int(line.split()[1])
