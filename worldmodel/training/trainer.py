"""The training loop that both stages share: time-boxed, resumable, and told as it goes."""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.configs import StageRecipe
from worldmodel.training.learner import Learner
from worldmodel.training.sharding import sliced_like, whole_tensor

LOG_EVERY = 20  # steps
console = Console(stderr=True)


class TrainingError(ValueError):
    """Training can't start or go on; the message says what to do."""


@runtime_checkable
class Stage(Protocol):
    """One of the two things to train."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> str:
        """Of which tokenizer the codes are that this stage learns; "" where it learns none."""
        ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def recipe(self) -> StageRecipe: ...

    def losses(
        self, module: nn.Module, rng: np.random.Generator, share: slice
    ) -> dict[str, Tensor]:
        """Named means over a share of one batch, drawn from `rng` as a whole; training
        minimises "loss"."""
        ...

    def validate(self) -> dict[str, float]:
        """Named numbers on the validation split."""
        ...

    def preview(self, path: Path) -> None:
        """Draw what the model does on validation clips."""
        ...


@dataclass(frozen=True)
class Timing:
    """When to stop, and when to write.

    Attributes:
        max_minutes: stop this call then, ready to go on; None: when the schedule ends.
        schedule_minutes: the learning rate falls over so many minutes of training, in all
            calls together, in place of over the recipe's steps. Such a run can't be repeated
            to the bit: how far it gets depends on the machine.
        save_minutes: between saves of the training state.
        validate_minutes: between validations, with a preview picture.
    """

    max_minutes: float | None = None
    schedule_minutes: float | None = None
    save_minutes: float = 2.0
    validate_minutes: float = 5.0


@dataclass
class Progressed:
    """How far training has come, over all calls."""

    step: int = 0
    seconds: float = 0.0

    def share(self, recipe: StageRecipe, timing: Timing) -> float:
        """In [0, 1] of the whole schedule."""
        if timing.schedule_minutes is not None:
            return min(1.0, self.seconds / (60 * timing.schedule_minutes))
        return min(1.0, self.step / recipe.steps)


def learning_rate(recipe: StageRecipe, step: int, share: float) -> float:
    """Up a line over the warm-up, then down a cosine to zero."""
    rising = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * share))


def train_stage(
    stage: Stage,
    fabric: Fabric,
    folder: Path,
    timing: Timing,
    *,
    seed: int,
    compiled: bool = False,
    accumulate: int = 1,
    checkpoint_activations: bool = False,
) -> bool:
    """Train `stage` until its schedule or `timing.max_minutes` ends; go on where it was.

    Args:
        fabric: launched; `worldmodel.training.devices` makes it.
        folder: for the training state, curves and pictures.
        seed: of the batches. A batch depends on it and on its step alone, so that a resumed
            run sees what an uninterrupted one would have.
        accumulate: parts in which each process works through its share of a batch; as many
            times less memory for activations, and the same step.
        checkpoint_activations: compute them again in the backward pass, a block at a time.

    Returns:
        Whether the whole schedule is done.

    Raises:
        TrainingError: the saved state is damaged or of another model, a batch can't be cut
            like that, or the module can't do what is asked.
    """
    recipe = stage.recipe
    shares = _shares(recipe.batch_size, fabric, accumulate)
    if checkpoint_activations:
        if not hasattr(stage.module, "checkpoint_activations"):
            raise TrainingError(
                f"this {stage.name} can't compute its activations again: leave "
                "--checkpoint-activations out, and cut the memory with --accumulate"
            )
        stage.module.checkpoint_activations = True  # type: ignore[assignment]
    state_path = folder / f"{stage.name}.state.safetensors"
    progressed = load_state(state_path, stage.module, stage.inputs)
    if progressed.share(recipe, timing) >= 1:
        return True
    learner = Learner(stage.module, recipe, fabric, shares, compiled=compiled)
    load_optimizer(state_path, learner.optimizer)
    main_process = fabric.global_rank == 0
    seconds_before = progressed.seconds
    began = time.monotonic()
    asked = False  # to stop, by Ctrl-C
    saved = validated = 0.0  # seconds of this call
    with (
        Curves(folder, stage.name, progressed.step, shown=main_process) as curves,
        Interruption() as interruption,
    ):
        while (done := progressed.share(recipe, timing)) < 1:
            rate = learning_rate(recipe, progressed.step, done)
            numbers, norm = learner.gradients(stage.losses, [seed, progressed.step])
            if not math.isfinite(norm):  # before it reaches the weights
                raise TrainingError(
                    f"the {stage.name}'s gradient is not finite at step {progressed.step}: "
                    "lower --learning-rate; the state saved last is kept"
                )
            learner.step(rate)
            # Every process goes by the first one's clock and keyboard, or they would stop at
            # different steps.
            elapsed, asked = fabric.broadcast((time.monotonic() - began, interruption.asked))
            progressed.step += 1
            progressed.seconds = seconds_before + elapsed
            if progressed.step % LOG_EVERY == 1:
                means = {k: float(cast(Tensor, fabric.all_reduce(v))) for k, v in numbers.items()}
                curves.write(progressed, {**means, "learning_rate": rate})
                curves.show(progressed.share(recipe, timing), progressed, means["loss"])
            stop = asked or (timing.max_minutes is not None and elapsed > 60 * timing.max_minutes)
            last = stop or progressed.share(recipe, timing) >= 1
            if last or elapsed - saved > 60 * timing.save_minutes:
                saved = elapsed
                save_state(
                    state_path,
                    learner.state,
                    learner.optimizer,
                    progressed,
                    stage.inputs,
                    written=main_process,
                )
            if (last and not asked) or elapsed - validated > 60 * timing.validate_minutes:
                validated = elapsed
                with learner.whole(here=main_process):
                    if main_process:
                        stage.module.eval()
                        curves.write(progressed, stage.validate(), prefix="validation/")
                        stage.preview(folder / f"{stage.name}-{progressed.step:07d}.png")
            if stop:
                break
    fabric.barrier()
    if asked:
        raise KeyboardInterrupt
    learner.finish()
    return progressed.share(recipe, timing) >= 1


def _shares(batch_size: int, fabric: Fabric, accumulate: int) -> list[slice]:
    """The clips of a batch that this process works through, part by part."""
    num_parts = fabric.world_size * accumulate
    if batch_size % num_parts and accumulate == 1:
        raise TrainingError(
            f"a batch of {batch_size} can't be shared evenly by {num_parts} processes: choose "
            "another --batch-size"
        )
    if batch_size % num_parts:
        raise TrainingError(
            f"a batch of {batch_size} can't be cut evenly into {num_parts} parts, {accumulate} "
            "for each process: choose another --accumulate or --batch-size"
        )
    size = batch_size // num_parts
    first = fabric.global_rank * accumulate * size
    return [slice(start, start + size) for start in range(first, first + accumulate * size, size)]


def save_state(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progressed: Progressed,
    inputs: str = "",
    *,
    written: bool = True,
) -> None:
    """Write weights, optimiser and progress as one file, whole or not at all.

    The file is the same whatever number of processes trained, and however.

    Args:
        written: by this process. All processes have to call, to give their slices.
    """
    state = {f"model.{name}": value for name, value in module.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            state[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors = {}
    for name, value in state.items():
        gathered = whole_tensor(value)
        if written:
            tensors[name] = gathered.detach().cpu().contiguous()
    if not written:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    metadata = {"progress": json.dumps(vars(progressed)), "inputs": inputs}
    try:
        save_file(tensors, unfinished, metadata=metadata)
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise TrainingError(
            f"the training state can't be written to {path} ({error}): free some space and run "
            "the same command again; it goes on from the state saved before"
        ) from None


def load_state(path: Path, module: nn.Module, inputs: str = "") -> Progressed:
    """Load the weights that `save_state` wrote; nothing where there is nothing.

    Raises:
        TrainingError: the file is damaged, holds another model, or learned other inputs.
    """
    if not path.exists():
        return Progressed()
    with _opened(path) as file:
        metadata = file.metadata()
        if metadata["inputs"] != inputs:
            raise TrainingError(
                f"{path} learned the codes of another tokenizer: remove it to train the "
                "prior again, or choose another --out"
            )
        progressed = Progressed(**json.loads(metadata["progress"]))
        names = [name for name in file.keys() if name.startswith("model.")]  # noqa: SIM118
        module.load_state_dict({n.removeprefix("model."): file.get_tensor(n) for n in names})
    return progressed


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimiser's state that `save_state` wrote, or this process's slices of it.

    Raises:
        TrainingError: the file is damaged or holds another model.
    """
    if not path.exists():
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118
            if name.startswith("optimizer."):
                _, index, entry = name.split(".")
                value = sliced_like(file.get_tensor(name), parameters[int(index)])
                state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The training state, every fault in it told as one."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except TrainingError:
        raise
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
    ) as error:
        raise TrainingError(
            f"{path} is damaged or of another model ({str(error)[:200]}): choose another --out, "
            "or remove it to train from the beginning"
        ) from None


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
        console.print("stopping after this step; Ctrl-C again stops at once")


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
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not shown,
        )
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
