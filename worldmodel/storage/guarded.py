"""Run functions on untrusted files in a child process with bounds on memory and time.

    index = guarded_call("worldmodel.data.shard_index:inspect", path, subject=path)

A library in C may take all memory, never return or crash on a damaged file. Here it does so in a
child, and the caller gets a UserError. One child serves a process for as long as it behaves; after
a failure the next call starts another. Only the caller's own requests and the child's answers are
pickled, nothing of a file is.
"""

import atexit
import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from worldmodel.errors import UserError

MOST_MEMORY = 640 * 2**20  # bytes that a call may take beside the libraries
PATIENCE_S = 60.0  # for a call, on the clock and on the processor
STARTING_S = 60.0  # for the child to start, and to import what the function needs
OVER_TIME = getattr(signal, "SIGXCPU", 0)
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from worldmodel.storage.guarded import serve
serve(int(sys.argv[2]))
"""
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Locks are the folder's (`storage.files.locked`): some file systems have none.
    "HDF5_USE_FILE_LOCKING": "FALSE",
}


class GuardedCallError(RuntimeError):
    """A function failed with an error that is no UserError; the message holds its traceback."""


def guarded_call(
    function: str,
    *arguments: Any,
    subject: object,
    patience_s: float = PATIENCE_S,
    most_memory: int = MOST_MEMORY,
) -> Any:
    """What a function returns, called in the child.

    Args:
        function: "module:name" of a function at a module's top level. Its arguments and what it
            returns are pickled.
        subject: what it reads, for the message when it can't.
        patience_s: seconds that it may take.
        most_memory: bytes that it may take.

    Raises:
        UserError: the function raised one; or it crashed, or took too much memory or time.
        GuardedCallError: the function raised another exception.
    """
    kind, result = "interrupted", None
    with _lock:
        try:
            child = _running_child()
            kind, result = child.ask((function, arguments, patience_s, most_memory), patience_s)
        finally:
            # After Ctrl-C too: the answer would be taken for that to the next call.
            if kind not in ("result", "refused", "failed"):
                _drop_child()
    if kind == "result":
        return result
    if kind == "refused":
        raise UserError(result)
    if kind == "failed":
        raise GuardedCallError(f"{function} failed:\n{result}")
    if kind == "late":
        raise UserError(
            f"{subject} can't be read: that is not done after {patience_s:g} seconds. The file is "
            "damaged, or its file system very slow"
        )
    reason = {
        "memory": f"takes more than {most_memory >> 20} MiB of memory",
        "died": f"crashes the program ({result})",
    }[kind]
    raise UserError(f"{subject} is damaged or malicious: reading it {reason}")


class _Child:
    """A process that runs `serve`."""

    def __init__(self) -> None:
        if not sys.executable:  # Python inside another program
            raise UserError("files can't be read safely here: no Python interpreter is known")
        self.connection, theirs = multiprocessing.Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_SETTINGS},
                start_new_session=True,  # Ctrl-C is for the caller, who ends the child
            )

    def ask(self, request: Any, patience_s: float) -> tuple[str, Any]:
        """What became of a request, and its result or reason."""
        try:
            self.connection.send(request)
            if not self.connection.poll(patience_s + STARTING_S):
                return "late", None
            return self.connection.recv()
        except (EOFError, OSError):
            status = self.process.wait()
            return ("late", None) if status == -OVER_TIME else ("died", f"exit status {status}")


_lock = threading.Lock()
_child: _Child | None = None


def _running_child() -> _Child:
    global _child
    if _child is None:
        _child = _Child()
        try:
            _child.connection.recv()  # that it is ready
        except EOFError:
            raise UserError(
                f"can't start a process to read files in: {sys.executable} ends with status "
                f"{_child.process.wait()}"
            ) from None
    return _child


def _drop_child() -> None:
    """End the child, whatever it does."""
    global _child
    if _child is not None:
        _child.process.kill()
        _child.connection.close()
        _child.process.wait()
        _child = None


def _after_fork() -> None:
    """Let go of the child of the process that this one was forked from."""
    global _child, _lock
    _lock = threading.Lock()  # another thread may have held it
    if _child is not None:
        _child.connection.close()
        _child.process.returncode = 0  # it isn't ours to wait for
        _child = None


atexit.register(_drop_child)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def serve(descriptor: int) -> None:
    """The child's life: requests in, answers out, until the caller closes the pipe or dies."""
    connection = Connection(descriptor)
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            request = connection.recv()
            try:
                connection.send(_answer(*request))  # is pickled within the bounds too
            except MemoryError:
                _limit(None, None)
                connection.send(("memory", None))


def _answer(
    function: str, arguments: tuple[Any, ...], patience_s: float, most_memory: int
) -> tuple[str, Any]:
    """What became of a call."""
    try:
        _limit(None, None)
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
        _limit(most_memory, patience_s)
        return "result", call(*arguments)
    except UserError as error:
        return "refused", str(error)
    except MemoryError:
        return "memory", None
    except Exception:
        return "failed", traceback.format_exc()


def _limit(memory: int | None, seconds: float | None) -> None:
    """Bound what this process may take from now on; None: not at all."""
    try:
        import resource
    except ImportError:  # Windows: the caller's patience has to do
        return
    unlimited = resource.RLIM_INFINITY
    most_bytes = most_seconds = unlimited
    if memory is not None and os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            most_bytes = int(file.read().split()[0]) * resource.getpagesize() + memory
    if seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        most_seconds = int(used.ru_utime + used.ru_stime + seconds) + 1
    for kind, most in ((resource.RLIMIT_AS, most_bytes), (resource.RLIMIT_CPU, most_seconds)):
        hard = resource.getrlimit(kind)[1]
        if hard != unlimited:
            most = hard if most == unlimited else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS knows no bound of addresses
            resource.setrlimit(kind, (most, hard))
