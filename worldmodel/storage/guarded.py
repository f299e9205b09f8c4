"""Run functions on untrusted files in a child process with bounds on memory and time.

    index = guarded_call("worldmodel.data.shards:inspect", path, subject=path)

A library in C may take all memory, never return or crash on a damaged file. Here it does so in a
child, and the caller gets a UserError. One child serves a process for as long as it behaves; after
a failure the next call starts another. Only the caller's own requests and the child's answers are
pickled, nothing of a file is.
"""

import atexit
import contextlib
import importlib
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import traceback
from typing import IO, Any

from worldmodel.errors import UserError

MOST_MEMORY = 640 * 2**20  # bytes that a call may take beside the libraries
PATIENCE_S = 60.0  # for a call, on the clock and on the processor
STARTING_S = 60.0  # for the child to start, and to import what the function needs
OVER_TIME = getattr(signal, "SIGXCPU", 0)
_HEADER = struct.Struct("<Q")
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from worldmodel.storage.guarded import serve
serve()
"""


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
    with _lock:
        child = _running_child()
        try:
            kind, result = child.call((function, arguments, patience_s, most_memory), patience_s)
        except BaseException:  # Ctrl-C: its answer would be taken for that to the next call
            _drop_child()
            raise
        if kind in ("died", "late", "memory"):
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
        settings = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # Locks are the folder's (`storage.files.locked`): some file systems have none.
            "HDF5_USE_FILE_LOCKING": "FALSE",
        }
        if not sys.executable:  # Python inside another program
            raise UserError("files can't be read safely here: no Python interpreter is known")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **settings},
            start_new_session=True,  # Ctrl-C is for the caller, who ends the child
        )
        assert self._process.stdout is not None
        try:
            _receive(self._process.stdout)  # what it says first
        except BaseException as error:
            self.close()
            if isinstance(error, EOFError):
                raise UserError(
                    f"can't start a process to read files in: {sys.executable} ends with status "
                    f"{self._process.returncode}"
                ) from None
            raise

    def call(self, request: Any, patience_s: float) -> tuple[str, Any]:
        """What became of a request, and its result or reason."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(patience_s + STARTING_S, end)
        timer.start()
        try:
            _send(self._process.stdin, pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
            return pickle.loads(_receive(self._process.stdout))
        except (EOFError, OSError):
            status = self._process.wait()
            if is_late.is_set() or status == -OVER_TIME:
                return "late", None
            return "died", f"exit status {status}"
        finally:
            timer.cancel()

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def forget(self) -> None:
        """Let go of a child of the process that this one was forked from."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert isinstance(pipe, io.BufferedWriter | io.BufferedReader)
            # Not the buffer's own close, which flushes and waits for its lock; and not os.close,
            # after which the file object would close what has its number by then.
            pipe.raw.close()
        self._process.returncode = 0  # it isn't ours to wait for


_lock = threading.Lock()
_child: _Child | None = None


def _running_child() -> _Child:
    global _child
    if _child is None:
        _child = _Child()
    return _child


def _drop_child() -> None:
    global _child
    if _child is not None:
        _child.close()
        _child = None


def _after_fork() -> None:
    global _child, _lock
    _lock = threading.Lock()  # another thread may have held it
    if _child is not None:
        _child.forget()
        _child = None


atexit.register(_drop_child)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def serve() -> None:
    """The child's life: requests in, answers out, until the caller closes the pipe or dies."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _send(answers, b"ready")
    while True:
        try:
            request = pickle.loads(_receive(sys.stdin.buffer))
        except EOFError:
            return
        _send(answers, _answer(*request))


def _answer(
    function: str, arguments: tuple[Any, ...], patience_s: float, most_memory: int
) -> bytes:
    """What became of a call, pickled."""

    def said(kind: str, what: Any) -> bytes:
        return pickle.dumps((kind, what), pickle.HIGHEST_PROTOCOL)

    try:
        _limit(None, None)
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
        _limit(most_memory, patience_s)
        return said("result", call(*arguments))
    except UserError as error:
        return said("refused", str(error))
    except MemoryError:
        return said("memory", None)
    except Exception:
        return said("failed", traceback.format_exc())


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


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(_HEADER.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    """The next message. Raises EOFError at the end."""
    header = pipe.read(_HEADER.size)
    content = pipe.read(*_HEADER.unpack(header)) if len(header) == _HEADER.size else b""
    if len(header) < _HEADER.size or len(content) < _HEADER.unpack(header)[0]:
        raise EOFError
    return content
