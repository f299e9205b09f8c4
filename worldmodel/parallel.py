"""Run tasks in parallel: in processes of this machine, or on a Ray cluster.

A task's result depends on the task alone, so it is the same wherever it runs, and a task that is
lost with its process or machine can run again.
"""

import contextlib
import itertools
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from worldmodel.command import say
from worldmodel.errors import UserError, one_line, raised

Task = TypeVar("Task")
Result = TypeVar("Result")
# Makes what runs tasks, once in each process: it may own an environment or a model. Its method
# close(), if it has one, is called when the process ends.
MakeRunner = Callable[[], Callable[[Task], Result]]

MOST_WORKERS = 1024
TASKS_AHEAD = 2  # per local process: none must wait for the process that takes the results
MOST_RETRIES = 3  # on a cluster, of a task whose machine or process was lost
CLOSING_S = 5.0  # for a process to close what it owns before it is killed
CONNECTING_S = 10.0  # to a cluster
NOTED_AFTER_S = 30.0  # without a result
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Failure:
    """Why a task has no result.

    Attributes:
        text: of the error; if it is not the user's, what happened to the process.
    """

    text: str
    is_users: bool


DIED = Failure("died: it crashed, or was killed, possibly because memory ran out", is_users=False)


class Executor(Protocol):
    """Where tasks run.

    Attributes:
        most_pending: the largest number of tasks that are submitted and not yet taken.
    """

    most_pending: int

    def submit(self, task: Any) -> "Future[Any]":
        """Begin a task, as `concurrent.futures.Executor.submit` does."""
        ...

    def outcome(self, future: "Future[Any]") -> Any:
        """The result of a task that has finished, or its `Failure`."""
        ...

    def why_waiting(self) -> str | None:
        """What may keep tasks from finishing, for the user; None: nothing unusual."""
        ...

    def close(self, *, at_once: bool) -> None:
        """End all processes; `at_once`: also those that are running a task."""
        ...


def check_workers(num_workers: int) -> None:
    """Raises UserError where there are too many."""
    if num_workers > MOST_WORKERS:
        raise UserError(f"--workers must be at most {MOST_WORKERS}, not {num_workers}")


class Workers(Generic[Task, Result]):
    """Processes that run tasks.

    Args:
        make_runner: called once in each process, must be picklable.
        num_workers: tasks that run at once, each on one core.
        ray: address of a Ray cluster, or "auto"; None: processes of this machine.

    Raises:
        UserError: there are too many workers, or as `connect`.
    """

    def __init__(
        self, make_runner: MakeRunner[Task, Result], num_workers: int, *, ray: str | None = None
    ) -> None:
        check_workers(num_workers)
        self._executor: Executor = (
            LocalExecutor(make_runner, num_workers)
            if ray is None
            else RayExecutor(make_runner, num_workers, ray)
        )
        self._pending: set[Future[Any]] = set()

    def __enter__(self) -> "Workers[Task, Result]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._executor.close(at_once=bool(self._pending) or kind is not None)

    def run(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Run all tasks; yields results in the order in which they finish.

        Few results wait to be taken: at most `TASKS_AHEAD` for each worker.

        Raises:
            UserError: a task failed, or its process died. What finished before has been yielded.
        """
        waiting = iter(tasks)
        noted_after: float | None = NOTED_AFTER_S
        while True:
            room = self._executor.most_pending - len(self._pending)
            failures: list[Failure] = []
            try:
                for task in itertools.islice(waiting, room):
                    self._pending.add(self._executor.submit(task))
            except BrokenProcessPool:
                failures.append(DIED)
            finished, self._pending = wait(self._pending, noted_after, FIRST_COMPLETED)
            for future in finished:
                try:
                    outcome = self._executor.outcome(future)
                except BrokenProcessPool:
                    outcome = DIED
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    yield outcome
            if failures:
                what = "" if failures[0].is_users else "a worker process "
                raise UserError(what + failures[0].text)
            if not self._pending and not finished:
                return
            if not finished and (reason := self._executor.why_waiting()):
                say(f"note: {reason}")
                noted_after = None


class LocalExecutor:
    """Processes of this machine.

    Results come as files: where all processes share one pipe, one that is killed while it sends
    something long leaves the others waiting for ever.
    """

    def __init__(self, make_runner: MakeRunner[Any, Any], num_workers: int) -> None:
        self.most_pending = TASKS_AHEAD * num_workers
        self._folder = tempfile.TemporaryDirectory(prefix="videogpt-dream-")
        self._processes: set[BaseProcess] = set()
        # Spawned, not forked: processes must not inherit open files.
        spawn = multiprocessing.get_context("spawn")
        arguments = (make_runner, self._folder.name)
        self._pool = ProcessPoolExecutor(num_workers, spawn, _begin, arguments)

    def submit(self, task: Any) -> "Future[Any]":
        others = set(multiprocessing.active_children())
        with one_thread_each():  # a task starts a process as long as none is idle
            future = self._pool.submit(_run_here, task)
        self._processes |= set(multiprocessing.active_children()) - others
        return future

    def outcome(self, future: "Future[Any]") -> Any:
        path = Path(future.result())
        with path.open("rb") as file:
            outcome = pickle.load(file)
        path.unlink()
        return outcome

    def why_waiting(self) -> None:
        return None

    def close(self, *, at_once: bool) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            if not at_once:
                process.join(CLOSING_S)
            process.kill()  # it may be in the middle of a long game
            process.join()
        self._folder.cleanup()


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
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


class _LazyRunner:
    """What runs this process's tasks, made when the first one comes.

    Attributes:
        name: of the `RayExecutor` that it is for, or the folder of results.
    """

    def __init__(self, make_runner: MakeRunner[Any, Any], name: str) -> None:
        self.name = name
        self._make_runner = make_runner
        self._runner: Callable[[Any], Any] | None = None

    def outcome(self, task: Any) -> Any:
        """The result, or a `Failure`. Errors become text, since not all can be pickled."""
        try:
            if self._runner is None:
                self._runner = self._make_runner()
                if close := getattr(self._runner, "close", None):
                    util.Finalize(None, close, exitpriority=1)
            return self._runner(task)
        except UserError as error:
            return Failure(str(error), is_users=True)
        except BaseException as error:  # also an environment that calls sys.exit
            return Failure(f"failed: {raised(error)}", is_users=False)


_runner: _LazyRunner | None = None


def _begin(make_runner: MakeRunner[Any, Any], folder: str) -> None:
    global _runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that takes the results handles it
    _runner = _LazyRunner(make_runner, folder)
    owner = multiprocessing.parent_process()
    assert owner is not None

    def end_with_owner() -> None:
        wait_for_end([owner.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=end_with_owner, daemon=True).start()


def _run_here(task: Any) -> str:
    """The file of a task's outcome."""
    assert _runner is not None  # made by `_begin`
    outcome = _runner.outcome(task)
    with tempfile.NamedTemporaryFile(dir=_runner.name, delete=False) as file:
        pickle.dump(outcome, file)
    return file.name


_is_own_connection = False  # to Ray


def connect(address: str | None) -> None:
    """Connect to a Ray cluster, if there is an address and no connection yet.

    Raises:
        UserError: Ray is missing, or there is no such cluster.
    """
    if address is None:
        return
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs the extra ray: pip install 'videogpt-dream[ray]'") from None
    if ray.is_initialized():  # perhaps by the caller, who then ends it
        return
    try:
        if ":" in address and "/" not in address:  # Ray itself would wait for five minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECTING_S).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        global _is_own_connection
        _is_own_connection = True
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at {address!r} ({one_line(error)}): start one with `ray start "
            "--head`, or leave out --ray"
        ) from None


class RayExecutor:
    """A Ray cluster. Its machines need this project and what its environments need.

    Each of its processes makes a runner for the first task that it gets. Ray runs a task again if
    its process or machine is lost.
    """

    def __init__(self, make_runner: MakeRunner[Any, Any], num_workers: int, address: str) -> None:
        connect(address)
        import ray
        from ray.exceptions import RayError

        self._error = RayError
        # A cluster that is larger would run those ahead at once.
        is_larger = ray.cluster_resources().get("CPU", 0) > num_workers
        self.most_pending = num_workers if is_larger else TASKS_AHEAD * num_workers
        self._ray = ray
        self._make_runner = ray.put(make_runner)
        self._name = uuid.uuid4().hex
        # Ray gives a task of one core one thread.
        self._run = ray.remote(num_cpus=1, max_retries=MOST_RETRIES)(_run_on_ray)

    def submit(self, task: Any) -> "Future[Any]":
        return self._run.remote(self._name, sys.path, self._make_runner, task).future()

    def outcome(self, future: "Future[Any]") -> Any:
        try:
            return future.result()
        except self._error as error:
            return Failure(f"failed: {one_line(error)}", is_users=False)

    def why_waiting(self) -> str | None:
        if self._ray.available_resources().get("CPU", 0) >= 1:
            return None
        cores = self._ray.cluster_resources().get("CPU", 0)
        return (
            f"no result for {NOTED_AFTER_S:g} s: all {cores:g} cores of the Ray cluster are taken, "
            "perhaps by other programs (`ray status` shows them)"
        )

    def close(self, *, at_once: bool) -> None:
        global _is_own_connection
        if _is_own_connection:
            self._ray.shutdown()
        _is_own_connection = False


def _run_on_ray(
    name: str, search_path: list[str], make_runner: MakeRunner[Any, Any], task: Any
) -> Any:
    global _runner
    sys.path += [folder for folder in search_path if folder not in sys.path]
    if _runner is None or _runner.name != name:
        _runner = _LazyRunner(make_runner, name)
    return _runner.outcome(task)
