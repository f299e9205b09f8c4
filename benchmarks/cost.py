"""Time and memory of a piece of work: of the CPU, or of a GPU."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

PROC_STATUS = Path("/proc/self/status")
MEBIBYTE = 2**20


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
        raise SystemExit(f"error: memory is read from {PROC_STATUS}, which only Linux has")
    lines = PROC_STATUS.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return 1024 * int(line.split()[1])
