"""What training reports while it runs: a progress bar, curves, and a line after Ctrl-C."""

import json
import math
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rich.progress import TextColumn
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from worldmodel.command import Bar, say
from worldmodel.storage.files import naming, parse_json, written_whole
from worldmodel.training.state import Progress


class Interruption:
    """Ctrl-C asks the loop to stop after its step, a second one stops at once. SIGTERM, which
    clusters send before a job's time is up, asks too."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interruption":
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.asked:
            # Not SIGTERM: a cluster and torchrun both send it to each process.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = True
        say("stopping after this step; a second Ctrl-C stops at once")


# Generated code, whose names a type checker doesn't see.
Event, SessionLog = event_pb2.Event, event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
Summary = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]


class Board:
    """A file of scalars for TensorBoard, each written at once.

    torch's SummaryWriter writes in a thread, where a full disk ends in a traceback.

    Args:
        step: where training resumes; TensorBoard drops later steps, written by a killed run.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._file = self.path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            started = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=step + 1, session_log=started))

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Write scalars of one step. Raises OSError where they can't be written."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        with suppress(OSError):  # a full disk was reported when the scalars were written
            self._file.close()

    def _write(self, event: event_pb2.Event) -> None:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self._records.write(event.SerializeToString())
            self._file.flush()
        except OSError:
            self.close()
            raise


class Curves:
    """Numbers over steps: JSON lines, TensorBoard, and a progress bar with the time left.

    Args:
        folder, name: lines go to folder/name.jsonl, TensorBoard's files to folder/tensorboard.
        step: where training resumes; lines of later steps, left by a killed run, are dropped.
        shown: False in all processes but the first: nothing is written or shown.

    Raises:
        OSError: a file, which it names, can't be written; also in `write`.
    """

    def __init__(self, folder: Path, name: str, step: int, *, shown: bool) -> None:
        self.name, self.shown = name, shown
        self.path = folder / f"{name}.jsonl"
        if shown:
            folder.mkdir(parents=True, exist_ok=True)
            content = self.path.read_text(errors="replace") if self.path.exists() else ""
            lines = content.splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            if kept != lines or not content.endswith("\n"):
                with written_whole(self.path) as unfinished:
                    unfinished.write_text("".join(line + "\n" for line in kept))
            with naming(folder / "tensorboard"):
                self.board = Board(folder / "tensorboard", step)
        self.bar = Bar(TextColumn("{task.percentage:.0f} %"), disable=not shown)
        self.task = self.bar.add_task(name, total=1.0)

    def __enter__(self) -> "Curves":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()
        if self.shown:
            self.board.close()

    def write(self, progress: Progress, numbers: dict[str, float], prefix: str = "") -> None:
        if not self.shown:
            return
        named = {prefix + name: value for name, value in numbers.items()}
        line = {"step": progress.step, "seconds": round(progress.seconds, 1), **named}
        with naming(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        with naming(self.board.path):
            scalars = {f"{self.name}/{name}": value for name, value in named.items()}
            self.board.add(scalars, progress.step)

    def show(self, fraction: float, progress: Progress, loss: float) -> None:
        what = f"{self.name}: step {progress.step}, loss {loss:.3f}"
        self.bar.update(self.task, completed=fraction, description=what)


def _step_of(line: str) -> float:
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be cut
        return math.inf
