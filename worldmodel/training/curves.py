"""What training tells while it goes: a progress bar, curves, and that Ctrl-C was heard."""

import json
import math
import signal
from pathlib import Path

from rich.progress import TextColumn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.command import say
from worldmodel.data.progress import Bar
from worldmodel.training.schedule import Progressed


class Interruption:
    """Ctrl-C asks the loop to stop after its step; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interruption":
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say("stopping after this step; Ctrl-C again stops at once")


class Curves:
    """Numbers over steps: JSON lines, TensorBoard, and a progress bar with the time left.

    Args:
        folder, name: lines go to folder/name.jsonl, TensorBoard's files to folder/tensorboard.
        step: where training goes on; lines of later steps, left by a killed run, are dropped.
        shown: False writes and shows nothing: one process of several does that for all.
    """

    def __init__(self, folder: Path, name: str, step: int, *, shown: bool) -> None:
        self.name, self.shown = name, shown
        self.path = folder / f"{name}.jsonl"
        if shown:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            kept = [line for line in lines if _step_of(line) <= step]
            self.path.write_text("".join(line + "\n" for line in kept))
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        self.bar = Bar(TextColumn("{task.percentage:.0f} %"), disable=not shown)
        self.task = self.bar.add_task(name, total=1.0)

    def __enter__(self) -> "Curves":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.shown:
            self.board.close()

    def write(self, progressed: Progressed, numbers: dict[str, float], prefix: str = "") -> None:
        if not self.shown:
            return
        named = {prefix + name: value for name, value in numbers.items()}
        with self.path.open("a") as file:
            line = {"step": progressed.step, "seconds": round(progressed.seconds, 1), **named}
            file.write(json.dumps(line) + "\n")
        for name, value in named.items():
            self.board.add_scalar(f"{self.name}/{name}", value, progressed.step)

    def show(self, done: float, progressed: Progressed, loss: float) -> None:
        what = f"{self.name}: step {progressed.step}, loss {loss:.3f}"
        self.bar.update(self.task, completed=done, description=what)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be cut
        return math.inf
