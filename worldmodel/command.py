"""What the project's commands share: exit statuses, messages, progress bars."""

import importlib
import inspect
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from worldmodel.errors import UserError, one_line, os_error

T = TypeVar("T")
FAILED = 2  # exit status of errors; 1 is a finding: a damaged data set, a replay that differs
INTERRUPTED = 130  # exit status after Ctrl-C, as in shells
RESUMES = "stopped; the same command resumes here"
console = Console(stderr=True)
MOST = 2**31 - 1  # of any integer option but a seed
MOST_SEED = 2**63 - 1
LOG_EVERY = 60.0  # seconds
SPEED_OVER = 600.0  # seconds over which speed is averaged: a step may take a minute


def parse_options(
    kind: type[T] | Any,
    module: str,
    description: str | None,
    *,
    args: Sequence[str] | None = None,
) -> T:
    """A command's options from the command line; exits for --help and for unknown options.

    Args:
        kind: a dataclass, or the union of a command's parts.
        module: that `python -m` runs.
        args: None: those of this process.
    """
    with _ending_with_the_reader():
        try:
            return tyro.cli(
                kind,
                prog=python_command(module),
                description=description,
                args=args,
            )
        except SystemExit:
            sys.stdout.flush()
            raise


@contextmanager
def _ending_with_the_reader() -> Iterator[None]:
    """Exit quietly if the reader of stdout has exited, as `| head` does."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def run_command(work: Callable[[], object], *, stopped: str = RESUMES) -> None:
    """Do a command's work; exits if it fails.

    The exit status is the integer that `work` returns, else 0; 2 after an error that a user can
    fix; 130 after Ctrl-C. Errors are one line on stderr: "error: ...".

    Args:
        stopped: message after Ctrl-C: what it leaves behind.
    """
    try:
        with _ending_with_the_reader():
            done = work()
            status = done if isinstance(done, int) else 0
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(os_error(error))
    except MemoryError as error:
        _fail(f"not enough memory: {one_line(error)}")
    except KeyboardInterrupt:
        say(stopped)
        sys.exit(INTERRUPTED)
    if status:
        sys.exit(status)


def say(text: str) -> None:
    """Print a line on stderr, above any progress bar, without markup or control characters."""
    console.print(one_line(text, most=2000), soft_wrap=True, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """A duration in words: "40 minutes", "3.5 hours"."""
    minutes = max(1, round(seconds / 60))
    if minutes == 1:
        return "a minute"
    return f"{minutes} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"


def python_command(module: str, *arguments: str) -> str:
    """The shell command that runs one of the project's modules."""
    return _command("python", module, arguments)


def local_command(module: str, *arguments: str) -> str:
    """The same, to be typed here: with the path of the current Python, unless it is `python`."""
    python = sys.executable
    if python == shutil.which("python"):
        python = "python"
    elif Path(python).is_relative_to(Path.cwd()):
        python = str(Path(python).relative_to(Path.cwd()))
    return _command(python, module, arguments)


def _command(python: str, module: str, arguments: Sequence[str]) -> str:
    if __name__.startswith("videogpt_dream."):  # installed, see setup.py
        words = module.removeprefix("worldmodel.").split(".")
        return shlex.join(["videogpt-dream", *words, *arguments])
    return shlex.join([python, "-m", module, *arguments])


def _fail(message: str) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(FAILED)


def check_numbers(options: object, *, above_zero: Collection[str] = (), **lowest: float) -> None:
    """Raises UserError where an option is below its lowest value, absurdly large, or not a number.

    Args:
        options: a command's options; those that are None were not given.
        above_zero: names of options that must be above 0.
        lowest: lowest value of each other option to check.
    """
    for name, least in {**dict.fromkeys(above_zero, 0), **lowest}.items():
        value = getattr(options, name)
        option = f"--{name.replace('_', '-')}"
        if name in above_zero and value is not None and not 0 < value < math.inf:
            raise UserError(f"{option} must be above 0, not {value}")
        if isinstance(value, float):
            if not least <= value < math.inf:
                raise UserError(f"{option} must be a number from {least:g}, not {value}")
            continue
        most = MOST_SEED if name == "seed" else MOST
        if value is not None and not least <= value <= most:
            raise UserError(f"{option} must be from {least} to {most}, not {value}")


class Bar(Progress):
    """A progress bar with the time left, which leaves room for `console`'s lines.

    Where stderr is not a terminal but a log or a pipe, it prints a line once a minute.

    Args:
        amount: the column that shows how much is done.
        transient: whether the bar disappears at its end.
        auto_refresh: whether a thread redraws it, ten times a second.
    """

    def __init__(
        self,
        amount: ProgressColumn,
        *,
        disable: bool = False,
        transient: bool = False,
        auto_refresh: bool = True,
    ) -> None:
        self._next_line = time.monotonic() + LOG_EVERY
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=disable,
            transient=transient,
            auto_refresh=auto_refresh,
            speed_estimate_period=SPEED_OVER,
        )

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._log(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._log(task_id)

    def _log(self, task_id: TaskID) -> None:
        if self.disable or self.console.is_terminal or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LOG_EVERY
        task = self.tasks[self.task_ids.index(task_id)]
        left = TimeRemainingColumn().render(task)
        line = f"{task.description}: {task.percentage:.0f} %, {left} left"
        self.console.print(line, soft_wrap=True, markup=False)


def progress_bar(*, transient: bool = False) -> Bar:
    """A progress bar that counts items."""
    return Bar(MofNCompleteColumn(), transient=transient)


def track(items: Iterable[T], what: str, *, total: int | None = None) -> Iterator[T]:
    """Yield the items under a progress bar that disappears at the end.

    Args:
        total: number of items, where they have no length.
    """
    # Redrawn per item, not by a thread: an error in the caller's loop leaves the bar open for a
    # while, and a process forked then would wait for a lock that the thread held.
    with Bar(MofNCompleteColumn(), transient=True, auto_refresh=False) as bar:
        yield from bar.track(items, total, description=what)


def named_function(option: str, name: str) -> Any:
    """What `module:name`, given by an option, names; a class becomes an instance, made without
    arguments.

    Raises:
        UserError: there is no such thing, or its module can't be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        return found() if inspect.isclass(found) else found
    except Exception as error:  # a user's module may raise anything
        raise UserError(
            f"{option} {name} can't be imported: {one_line(error)}. It must name a function in a "
            "module that Python finds from here"
        ) from None


def usable_device(name: str, *, or_auto: bool = False) -> str:
    """ "cpu" or "cuda", as `name` says.

    Args:
        or_auto: whether "auto" is accepted: CUDA if there is a device.

    Raises:
        UserError: it is another name, or there is no CUDA device.
    """
    import torch  # late: `--help` shouldn't wait for it

    if name == "auto" and or_auto:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: {'auto, ' * or_auto}cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available: leave --device out")
    return name
