"""The training loop that both stages share: time-boxed, resumable, and told as it goes."""

import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

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
        """Named means over this process's share of one batch; training minimises "loss"."""
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
) -> bool:
    """Train `stage` until its schedule or `timing.max_minutes` ends; go on where it was.

    Args:
        folder: for the training state, curves and pictures.
        seed: of the batches. A batch depends on it and on its step alone, so that a resumed
            run sees what an uninterrupted one would have.

    Returns:
        Whether the whole schedule is done.

    Raises:
        TrainingError: the saved state is damaged or of another model.
    """
    recipe = stage.recipe
    state_path = folder / f"{stage.name}.state.safetensors"
    optimizer = make_optimizer(stage.module, recipe)
    progressed = load_state(state_path, stage.module, optimizer, stage.inputs)
    if progressed.share(recipe, timing) >= 1:
        return True
    trained = cast(nn.Module, torch.compile(stage.module)) if compiled else stage.module
    module, fabric_optimizer = fabric.setup(trained, optimizer)
    if recipe.batch_size % fabric.world_size:
        raise TrainingError(
            f"a batch of {recipe.batch_size} can't be shared evenly by {fabric.world_size} "
            "processes: choose another --batch-size"
        )
    share_size = recipe.batch_size // fabric.world_size
    share = slice(fabric.global_rank * share_size, (fabric.global_rank + 1) * share_size)
    main_process = fabric.global_rank == 0
    seconds_before = progressed.seconds
    began = time.monotonic()
    saved = validated = 0.0  # seconds of this call
    with (
        Curves(folder, stage.name, progressed.step, shown=main_process) as curves,
        Interruption() as interruption,
    ):
        while (done := progressed.share(recipe, timing)) < 1:
            rate = learning_rate(recipe, progressed.step, done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            module.train()
            numbers = stage.losses(module, np.random.default_rng([seed, progressed.step]), share)
            fabric.backward(numbers["loss"])
            norm = fabric.clip_gradients(
                module, fabric_optimizer, max_norm=1.0, error_if_nonfinite=False
            )
            if not math.isfinite(float(cast(Tensor, norm))):  # before it reaches the weights
                raise TrainingError(
                    f"the {stage.name}'s gradient is not finite at step {progressed.step}: "
                    "lower --learning-rate; the state saved last is kept"
                )
            fabric_optimizer.step()
            fabric_optimizer.zero_grad()
            # Every process goes by the first one's clock, or they would stop at different steps.
            elapsed = fabric.broadcast(time.monotonic() - began)
            progressed.step += 1
            progressed.seconds = seconds_before + elapsed
            if progressed.step % LOG_EVERY == 1:
                means = {
                    k: float(cast(Tensor, fabric.all_reduce(v.detach())))
                    for k, v in numbers.items()
                }
                curves.write(progressed, {**means, "learning_rate": rate})
                curves.show(progressed.share(recipe, timing), progressed, means["loss"])
            stop = fabric.broadcast(interruption.asked) or (
                timing.max_minutes is not None and elapsed > 60 * timing.max_minutes
            )
            last = stop or progressed.share(recipe, timing) >= 1
            if main_process and (last or elapsed - saved > 60 * timing.save_minutes):
                saved = elapsed
                save_state(state_path, stage.module, optimizer, progressed, stage.inputs)
            if main_process and (
                (last and not interruption.asked)
                or elapsed - validated > 60 * timing.validate_minutes
            ):
                validated = elapsed
                stage.module.eval()
                curves.write(progressed, stage.validate(), prefix="validation/")
                stage.preview(folder / f"{stage.name}-{progressed.step:07d}.png")
            if stop:
                break
    fabric.barrier()
    if interruption.asked:
        raise KeyboardInterrupt
    return progressed.share(recipe, timing) >= 1


def make_optimizer(module: nn.Module, recipe: StageRecipe) -> torch.optim.AdamW:
    """AdamW; what has two dimensions or more decays, biases don't."""
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    others = [p for p in module.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
    )


def save_state(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progressed: Progressed,
    inputs: str = "",
) -> None:
    """Write weights, optimiser and progress as one file, whole or not at all."""
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).cpu().contiguous()
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


def load_state(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    inputs: str = "",
) -> Progressed:
    """Load what `save_state` wrote; nothing where there is nothing.

    Raises:
        TrainingError: the file is damaged, holds another model, or learned other inputs.
    """
    if not path.exists():
        return Progressed()
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if metadata["inputs"] != inputs:
                raise TrainingError(
                    f"{path} learned the codes of another tokenizer: remove it to train the "
                    "prior again, or choose another --out"
                )
            progressed = Progressed(**json.loads(metadata["progress"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        if optimizer is not None:
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith("optimizer."):
                    _, index, entry = name.split(".")
                    state.setdefault(int(index), {})[entry] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except TrainingError:
        raise
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is damaged or of another model ({str(error)[:200]}): choose another --out, "
            "or remove it to train from the beginning"
        ) from None
    return progressed


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
