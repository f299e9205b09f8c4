"""Progress of long work: a bar on a terminal, a line a minute in a log."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

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

from worldmodel.command import console

T = TypeVar("T")
LOG_EVERY = 60.0  # seconds
SPEED_OVER = 600.0  # seconds: single steps may take a minute


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
