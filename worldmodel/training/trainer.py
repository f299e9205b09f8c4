"""The training loop that all stages share: time-boxed, resumable, and reported as it runs."""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning_fabric import Fabric
from torch import Tensor, nn

from worldmodel.command import say
from worldmodel.configs.recipe import StageRecipe
from worldmodel.errors import UserError
from worldmodel.training.curves import Curves, Interruption
from worldmodel.training.learner import Learner
from worldmodel.training.schedule import Clock, Progressed, Timing, learning_rate
from worldmodel.training.state import load_optimizers, load_state, save_state

LOG_EVERY = 20  # steps


class Stage(ABC):
    """One of the things to train.

    Attributes:
        inputs: of which tokenizer the codes are that this stage learns; "" where it learns none.
        module: with the weights to train.
    """

    name: str
    inputs: str = ""
    module: Any
    recipe: StageRecipe

    @property
    def kept(self) -> dict[str, Tensor]:
        """What has to be saved besides the module, on the CPU; loaded in place."""
        return {}

    def prepare(self, step: int) -> None:  # noqa: B027  most stages have nothing to prepare
        """Called before each step."""

    @abstractmethod
    def losses(
        self, module: nn.Module, rng: np.random.Generator, share: slice
    ) -> dict[str, Tensor]:
        """Named means over a share of one batch, drawn from `rng` as a whole; training
        minimises "loss"."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Named numbers on the validation split."""

    @abstractmethod
    def preview(self, path: Path) -> None:
        """Draw what the model does on validation clips."""


def train_stage(
    stage: Stage,
    fabric: Fabric,
    folder: Path,
    timing: Timing,
    *,
    seed: int,
    compiled: bool = False,
    accumulate: int = 1,
) -> bool:
    """Train `stage` until its schedule or `timing.max_minutes` ends; resume where it was.

    Args:
        fabric: launched; `worldmodel.training.devices` makes it.
        folder: for the training state, curves and pictures.
        seed: of the batches. A batch depends on it and on its step alone, so that a resumed
            run sees what an uninterrupted one would have.
        accumulate: parts in which each process works through its share of a batch; as many
            times less memory for activations, and the same step.

    Returns:
        Whether the whole schedule is done.

    Raises:
        UserError: the saved state is damaged or of another model, or a batch can't be cut
            like that.
    """
    shares = _shares(stage.recipe.batch_size, fabric, accumulate)
    state_path = _state_path(stage, folder)
    progressed = load_state(state_path, stage.module, stage.inputs, stage.kept)
    if progressed.share(stage.recipe, timing) >= 1:
        return True
    learner = Learner(stage.module, stage.recipe, fabric, shares, compiled=compiled)
    load_optimizers(state_path, learner.optimizers)
    asked = _learn(stage, learner, progressed, timing, folder, seed=seed)
    fabric.barrier()
    if asked:
        raise KeyboardInterrupt
    return progressed.share(stage.recipe, timing) >= 1


def _learn(
    stage: Stage,
    learner: Learner,
    progressed: Progressed,
    timing: Timing,
    folder: Path,
    *,
    seed: int,
) -> bool:
    """Train, saving and validating, until the time is up; returns whether Ctrl-C ended it."""
    recipe, fabric = stage.recipe, learner.fabric
    is_first = fabric.global_rank == 0
    seconds_before, clock = progressed.seconds, Clock(timing)
    with (
        Curves(folder, stage.name, progressed.step, shown=is_first) as curves,
        Interruption() as interruption,
    ):
        while True:
            rate = learning_rate(recipe, progressed.step, progressed.share(recipe, timing))
            batch = (seed, f"{stage.name} batch", progressed.step)
            stage.prepare(progressed.step)
            numbers = _step(stage, learner, batch, rate)
            # Every process goes by the first one's clock and keyboard, or they would stop at
            # different steps.
            moment, asked = fabric.broadcast((clock.read(), interruption.asked))
            progressed.step += 1
            progressed.seconds = seconds_before + moment.seconds
            done = progressed.share(recipe, timing)
            last = asked or moment.out_of_time or done >= 1
            if progressed.step % LOG_EVERY == 1 or last:
                means = {k: float(cast(Tensor, fabric.all_reduce(v))) for k, v in numbers.items()}
                curves.show(done, progressed, means["loss"])
                if progressed.step % LOG_EVERY == 1:
                    curves.write(progressed, {**means, "learning_rate": rate})
            if (last or moment.save) and is_first:
                path = _state_path(stage, folder)
                save_state(
                    path, stage.module, learner.optimizers, progressed, stage.inputs, stage.kept
                )
                clock.saves()
            if (last or moment.validate) and not asked and is_first:
                with clock.paused():
                    _validate(stage, progressed, folder, curves)
            if last:
                return asked


def _step(
    stage: Stage, learner: Learner, batch: tuple[int, str, int], rate: float
) -> dict[str, Tensor]:
    """One step of the optimiser; returns the losses' means."""
    numbers, norm = learner.gradients(stage.losses, batch)
    if not math.isfinite(norm):  # before it reaches the weights
        raise UserError(
            f"the {stage.name}'s gradient is not finite at step {batch[-1]}: "
            "lower --learning-rate; the state saved last is kept"
        )
    learner.step(rate)
    return numbers


def _validate(stage: Stage, progressed: Progressed, folder: Path, curves: Curves) -> None:
    stage.module.eval()
    numbers = stage.validate()
    curves.write(progressed, numbers, prefix="validation/")
    measured = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    say(f"{stage.name} at step {progressed.step}, held-out episodes: {measured}")
    stage.preview(folder / f"{stage.name}-{progressed.step:07d}.png")


def _state_path(stage: Stage, folder: Path) -> Path:
    return folder / f"{stage.name}.state.safetensors"


def _shares(batch_size: int, fabric: Fabric, accumulate: int) -> list[slice]:
    """The clips of a batch that this process works through, part by part."""
    num_parts = fabric.world_size * accumulate
    if batch_size % num_parts and accumulate == 1:
        raise UserError(
            f"a batch of {batch_size} can't be shared evenly by {num_parts} processes: choose "
            "another --batch-size"
        )
    if batch_size % num_parts:
        raise UserError(
            f"a batch of {batch_size} can't be cut evenly into {num_parts} parts, {accumulate} "
            "for each process: choose another --accumulate or --batch-size"
        )
    size = batch_size // num_parts
    first = fabric.global_rank * accumulate * size
    return [slice(start, start + size) for start in range(first, first + accumulate * size, size)]
