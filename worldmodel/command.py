"""How every command of the project runs: how it ends, what it says, how far it is."""

import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

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
FAILED = 2  # the exit status of errors; 1 is a verdict: a damaged data set, a replay that differs
INTERRUPTED = 130  # as shells say it of Ctrl-C
RESUMES = "stopped; the same command resumes here"
console = Console(stderr=True)
MOST = 2**31 - 1  # of any whole number but a seed: nothing here counts further
MOST_SEED = 2**63 - 1
LOG_EVERY = 60.0  # seconds
SPEED_OVER = 600.0  # seconds: single steps may take a minute


def run_command(work: Callable[[], object], *, stopped: str = RESUMES) -> None:
    """Do a command's work; exits unless it went well.

    The exit status is what `work` returns (0 unless an integer), 2 after an error that a user can
    put right, 130 after Ctrl-C. Errors are one line on stderr: "error: ...".

    Args:
        stopped: what Ctrl-C leaves, for the user.
    """
    try:
        done = work()
        status = done if isinstance(done, int) else 0
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of a pipe has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
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
    """A line on stderr, above a progress bar where one is shown. Text stays text: no markup, and
    nothing that the terminal would obey."""
    console.print(one_line(text, most=2000), soft_wrap=True, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """For people: "40 minutes", "3.5 hours"."""
    minutes = max(1, round(seconds / 60))
    if minutes == 1:
        return "a minute"
    return f"{minutes} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"


def _fail(message: str) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(FAILED)


def check_numbers(options: object, *, above_zero: Collection[str] = (), **lowest: float) -> None:
    """Raises UserError where an option is below its lowest value, absurdly large, or no number.

    Args:
        options: a dataclass of a command; an option that is None was not given.
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
    """A bar with the time that is left, beside `console`'s lines.

    Where stderr is no terminal, but a log or a pipe, a line says the same once in a while.

    Args:
        amount: what tells how much is done.
        transient: whether it goes away at its end.
        auto_refresh: whether a thread draws it anew, ten times a second.
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
    """Of what is done one by one."""
    return Bar(MofNCompleteColumn(), transient=transient)


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """The items one by one, under a bar that goes away at the end."""
    # Drawn item by item, by no thread: an error in the caller's loop leaves the bar open for a
    # while, and processes forked then would wait for a lock that a thread held.
    with Bar(MofNCompleteColumn(), transient=True, auto_refresh=False) as bar:
        yield from bar.track(items, description=what)
