"""Run tasks in parallel: in processes of this machine, or on a Ray cluster.

A task's result depends on the task alone, so it is the same wherever it runs, and a task that is
lost with its process or machine can run again.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_end
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from worldmodel.errors import UserError, one_line

Task = TypeVar("Task")
Result = TypeVar("Result")
# Makes what runs tasks, once in each process: it may own an environment or a model.
MakeRunner = Callable[[], Callable[[Task], Result]]

TASKS_AHEAD = 2  # per local process: none must wait for the process that takes the results
MOST_RETRIES = 3  # on a cluster, of a task whose machine or process was lost
CONNECTING_S = 10.0  # to a cluster
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Executor(Protocol):
    """Where tasks run.

    Attributes:
        most_pending: tasks to submit before a result is taken.
    """

    most_pending: int

    def submit(self, task: Any) -> "Future[Any]":
        """Begin a task, as `concurrent.futures.Executor.submit` does."""
        ...

    def close(self) -> None:
        """End all processes; tasks that have not finished are lost."""
        ...


class Workers(Generic[Task, Result]):
    """Processes that run tasks.

    Args:
        make_runner: called once in each process, must be picklable.
        num_workers: tasks that run at once, each on one core.
        ray: address of a Ray cluster, or "auto"; None: processes of this machine.

    Raises:
        UserError: Ray is missing, or there is no such cluster.
    """

    def __init__(
        self, make_runner: MakeRunner[Task, Result], num_workers: int, *, ray: str | None = None
    ) -> None:
        self._executor: Executor = (
            LocalExecutor(make_runner, num_workers)
            if ray is None
            else RayExecutor(make_runner, num_workers, ray)
        )

    def __enter__(self) -> "Workers[Task, Result]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.close()

    def run(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Run all tasks; yields results in the order in which they finish.

        Few results wait to be taken: at most `TASKS_AHEAD` for each worker.

        Raises:
            UserError: a task failed, or its process died.
        """
        waiting = iter(tasks)
        pending: set[Future[Result]] = set()
        while True:
            with contextlib.suppress(StopIteration):
                while len(pending) < self._executor.most_pending:
                    pending.add(self._executor.submit(next(waiting)))
            if not pending:
                return
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield _result(future)


def _result(future: "Future[Result]") -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process died: it crashed, or was killed, possibly because memory ran out"
        ) from None
    except Exception as error:  # whatever the task raised
        cause = getattr(error, "cause", error)  # Ray wraps it
        if isinstance(cause, UserError):
            raise cause from None
        trace = "".join(traceback.format_exception(error))
        raise UserError(f"a worker process failed:\n{trace}") from None


class LocalExecutor:
    """Processes of this machine."""

    def __init__(self, make_runner: MakeRunner[Any, Any], num_workers: int) -> None:
        self.most_pending = TASKS_AHEAD * num_workers
        self._others = set(multiprocessing.active_children())
        # Spawned, not forked: processes must not inherit open files.
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(num_workers, spawn, _begin, (make_runner,))

    def submit(self, task: Any) -> "Future[Any]":
        with _one_thread_each():  # the first task starts the processes
            return self._pool.submit(_run_here, task)

    def close(self) -> None:
        ours = set(multiprocessing.active_children()) - self._others
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in ours:
            process.kill()  # it may be in the middle of a long game
            process.join()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Give processes started within this context one thread for numpy and torch.

    Two workers with two threads each block one another: resizing a screen took 13 ms instead of
    0.14.
    """
    before = {name: os.environ[name] for name in THREAD_COUNTS if name in os.environ}
    os.environ.update(dict.fromkeys(THREAD_COUNTS, "1"))
    try:
        yield
    finally:
        for name in THREAD_COUNTS:
            del os.environ[name]
        os.environ.update(before)


class _Process:
    """This process, with its runner: made when the first task comes.

    Attributes:
        name: of the `RayExecutor` that the runner is for.
    """

    def __init__(self, make_runner: MakeRunner[Any, Any], name: str = "") -> None:
        self.name = name
        self._make_runner = make_runner
        self._runner: Callable[[Any], Any] | None = None

    def run(self, task: Any) -> Any:
        if self._runner is None:
            self._runner = self._make_runner()
        return self._runner(task)


_process: _Process | None = None


def _begin(make_runner: MakeRunner[Any, Any]) -> None:
    global _process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that takes the results handles it
    _process = _Process(make_runner)
    owner = multiprocessing.parent_process()
    assert owner is not None

    def end_with_owner() -> None:
        wait_for_end([owner.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_owner, daemon=True).start()


def _run_here(task: Any) -> Any:
    assert _process is not None  # made by `_begin`
    return _process.run(task)


class RayExecutor:
    """A Ray cluster. Its machines need this project and what its environments need.

    Each of its processes makes a runner for the first task that it gets. Ray runs a task again if
    its process or machine is lost.
    """

    def __init__(self, make_runner: MakeRunner[Any, Any], num_workers: int, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise UserError(
                "--ray needs the extra ray: pip install 'videogpt-dream[ray]'"
            ) from None
        self.most_pending = num_workers
        try:
            if ":" in address and "/" not in address:  # Ray itself would wait for five minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=CONNECTING_S).close()
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster at {address!r} ({one_line(error)}): start one with `ray start "
                "--head`, or leave out --ray"
            ) from None
        self._ray = ray
        self._make_runner = ray.put(make_runner)
        self._name = uuid.uuid4().hex
        # One thread each, as above; Ray would say the same for one core.
        self._run = ray.remote(num_cpus=1, max_retries=MOST_RETRIES)(_run_on_ray)

    def submit(self, task: Any) -> "Future[Any]":
        return self._run.remote(self._name, sys.path, self._make_runner, task).future()

    def close(self) -> None:
        self._ray.shutdown()


def _run_on_ray(
    name: str, search_path: list[str], make_runner: MakeRunner[Any, Any], task: Any
) -> Any:
    global _process
    sys.path += [folder for folder in search_path if folder not in sys.path]
    if _process is None or _process.name != name:
        _process = _Process(make_runner, name)
    return _process.run(task)
