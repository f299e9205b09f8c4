"""The training loop of every stage: time-limited, resumable, the same for any process count."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from worldmodel import randomness
from worldmodel.command import say
from worldmodel.configs.presets import StageRecipe
from worldmodel.errors import UserError
from worldmodel.training.curves import Curves, Interruption
from worldmodel.training.muon import Muon
from worldmodel.training.state import (
    Progress,
    load_optimizers,
    load_state,
    save_state,
    state_path,
)
from worldmodel.vqvae.codebook import Codebook

LOG_EVERY = 20  # steps
SHOW_EVERY = 2.0  # seconds
WARM_UP, JUDGED = 2, 10  # steps of a call: which set up much; and whose speed is taken for all
FEW_STEPS = 500  # learn little
LARGEST_NORM = 1.0  # of the gradient; longer ones are clipped


@dataclass(frozen=True)
class Timing:
    """When to stop, save and validate.

    Attributes:
        max_minutes: stop this call after so many minutes of wall time, validation included, ready
            to resume; None: stop when the schedule ends.
        schedule_minutes: the learning rate falls over so many minutes of training, over all calls
            and without validation, instead of over the recipe's steps. Such a run can't be
            repeated to the bit: how far it gets depends on the machine.
        save_minutes: between saves of the training state.
        validate_minutes: between validations, each with a preview picture.
    """

    max_minutes: float | None = None
    schedule_minutes: float | None = None
    save_minutes: float = 2.0
    validate_minutes: float = 5.0

    def fraction(self, recipe: StageRecipe, progress: Progress) -> float:
        """The fraction of the schedule that is done, in [0, 1]."""
        if self.schedule_minutes is not None:
            return min(1.0, progress.seconds / (60 * self.schedule_minutes))
        return min(1.0, progress.step / recipe.steps)


class Stage(ABC):
    """A part of a model to train.

    Attributes:
        inputs: digest of the tokenizer whose codes this stage learns; "" where it learns none.
        module: holds the weights to train.
    """

    name: str
    inputs: str = ""
    module: Any
    recipe: StageRecipe

    def prepare(self, step: int) -> None:  # noqa: B027  most prepare nothing
        """Called before each step."""

    @abstractmethod
    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        """Named means over part of a batch; training minimises "loss". The batch is drawn from
        `rng` in full, whichever part is computed."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Named numbers on the validation split."""

    @abstractmethod
    def preview(self, path: Path) -> None:
        """Save a picture of what the model makes of validation clips."""


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
    """Train `stage` until its schedule or `timing.max_minutes` ends, from where it stopped.

    Args:
        fabric: launched; see `worldmodel.training.run.make_fabric`.
        folder: for the training state, curves and pictures.
        seed: of the batches. A batch depends only on it and on its step, so a resumed run sees
            the batches that an uninterrupted one would have seen.
        compiled: whether to compile the module.
        accumulate: micro-batches per process and step: less memory for activations, the same step.

    Returns:
        Whether the schedule is done.

    Raises:
        UserError: the saved state is damaged or of another model, a batch can't be divided like
            that, or a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    parts = _parts_of_batch(stage.recipe.batch_size, fabric, accumulate)
    path = state_path(folder, stage.name)
    progress = load_state(path, stage.module, stage.inputs)
    if timing.fraction(stage.recipe, progress) >= 1:
        return True
    learner = Learner(stage, fabric, parts, seed=seed, compiled=compiled)
    load_optimizers(path, learner.optimizers)
    interrupted = _learn(stage, learner, progress, timing, folder)
    fabric.barrier()
    if interrupted:
        raise KeyboardInterrupt
    return timing.fraction(stage.recipe, progress) >= 1


def _learn(
    stage: Stage, learner: "Learner", progress: Progress, timing: Timing, folder: Path
) -> bool:
    """Train, save and validate until the time is up; returns whether Ctrl-C ended it."""
    recipe, fabric = stage.recipe, learner.fabric
    is_first = fabric.global_rank == 0
    seconds_before, clock, pace = progress.seconds, Clock(timing), Pace()
    with (
        Curves(folder, stage.name, progress.step, shown=is_first) as curves,
        Interruption() as interruption,
    ):
        while True:
            fraction = timing.fraction(recipe, progress)
            rate = learning_rate(recipe, progress.step, fraction)
            stage.prepare(progress.step)
            numbers = learner.step(progress.step, rate)
            # Every process follows the first one's clock and keyboard: they must stop together.
            due, interrupted = fabric.broadcast((clock.read(), interruption.asked))
            progress.step += 1
            progress.seconds = seconds_before + due.seconds
            fraction = timing.fraction(recipe, progress)
            last = interrupted or due.stop or fraction >= 1
            logged = progress.step % LOG_EVERY == 1
            if logged or last or due.show:
                means = {k: float(cast(Tensor, fabric.all_reduce(v))) for k, v in numbers.items()}
                curves.show(fraction, progress, means["loss"])
                clock.restart_show_timer()
                if logged:
                    curves.write(progress, {**means, "learning_rate": rate})
            pace.count(progress)
            if is_first and (fraction >= 1 or pace.steps == JUDGED):
                pace.warn_of_few_steps(stage.name, timing, progress)
            if (last or due.save) and is_first:
                save_state(
                    state_path(folder, stage.name),
                    stage.module,
                    learner.optimizers,
                    progress,
                    stage.inputs,
                )
                clock.restart_save_timer()
            if (last or due.validate) and not interrupted and is_first:
                with clock.validating():
                    _validate(stage, progress, folder, curves)
            if last:
                return interrupted


class Pace:
    """The speed of one call's steps.

    Attributes:
        steps: so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._warmed_up_at = 0.0
        self._has_warned = False

    def count(self, progress: Progress) -> None:
        """Note a step that was just taken."""
        self.steps += 1
        if self.steps == WARM_UP:
            self._warmed_up_at = progress.seconds

    def warn_of_few_steps(self, stage: str, timing: Timing, progress: Progress) -> None:
        """Tell the user, once, if the schedule's minutes end after few steps."""
        if timing.schedule_minutes is None or self._has_warned:
            return
        left, num_steps = 60 * timing.schedule_minutes - progress.seconds, progress.step
        if left > 0:
            pace = (progress.seconds - self._warmed_up_at) / max(1, self.steps - WARM_UP)
            num_steps += round(left / max(pace, 1e-9))
        if num_steps < FEW_STEPS:
            self._has_warned = True
            say(
                f"note: in {timing.schedule_minutes:g} minutes the {stage} stage takes about "
                f"{num_steps} steps here, and learns little from fewer than {FEW_STEPS}: give it "
                f"more --{stage}-minutes, or smaller networks"
            )


def _validate(stage: Stage, progress: Progress, folder: Path, curves: Curves) -> None:
    stage.module.eval()
    numbers = stage.validate()
    curves.write(progress, numbers, prefix="validation/")
    measured = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    say(f"{stage.name} at step {progress.step}, held-out episodes: {measured}")
    stage.preview(folder / f"{stage.name}-{progress.step:07d}.png")


def _parts_of_batch(batch_size: int, fabric: Fabric, accumulate: int) -> list[slice]:
    """The parts of a batch that this process computes, one after the other."""
    num_parts = fabric.world_size * accumulate
    if batch_size % num_parts and accumulate == 1:
        raise UserError(
            f"a batch of {batch_size} can't be divided evenly among {num_parts} processes: choose "
            "another --batch-size"
        )
    if batch_size % num_parts:
        raise UserError(
            f"a batch of {batch_size} can't be divided evenly into {num_parts} parts, {accumulate} "
            "for each process: choose another --accumulate or --batch-size"
        )
    size = batch_size // num_parts
    first = fabric.global_rank * accumulate * size
    return [slice(start, start + size) for start in range(first, first + accumulate * size, size)]


class Learner:
    """Optimiser steps of a stage, the same whatever the number of processes and micro-batches.

    Args:
        parts: of a batch that this process computes, one after the other.
    """

    def __init__(
        self, stage: Stage, fabric: Fabric, parts: list[slice], *, seed: int, compiled: bool
    ) -> None:
        self.stage, self.fabric, self.parts, self.seed = stage, fabric, parts, seed
        module: nn.Module = stage.module
        for submodule in module.modules():
            if isinstance(submodule, Codebook):
                submodule.num_parts = len(parts)
        trained = cast(nn.Module, torch.compile(module)) if compiled else module
        self._wrapped = fabric.setup_module(trained)
        # Even if bf16 was asked for: where it is emulated, Muon would take most of the time.
        dtype = torch.bfloat16 if has_bf16(fabric.device.type) else torch.float32
        self.optimizers = make_optimizers(module, stage.recipe, dtype)
        self._wrapped_optimizers = [
            cast(torch.optim.Optimizer, fabric.setup_optimizers(optimizer))
            for optimizer in self.optimizers
        ]

    def step(self, step: int, rate: float) -> dict[str, Tensor]:
        """Take one step at this learning rate.

        Returns:
            The named means of the losses over this process's clips.

        Raises:
            UserError: the gradient is not finite; the weights are left as they were.
        """
        self._wrapped.train()
        batch = (self.seed, f"{self.stage.name} batch", step)
        totals: dict[str, Tensor] = {}
        for part in self.parts:
            is_last = part == self.parts[-1]  # processes exchange gradients once a step
            # Seeded for each part: the same after a stop and resume.
            randomness.seed_torch(*batch, "dropout", part.start)
            with self.fabric.no_backward_sync(self._wrapped, enabled=not is_last):
                losses = self.stage.losses(self._wrapped, randomness.generator(*batch), part)
                self.fabric.backward(losses["loss"] / len(self.parts))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.detach() / len(self.parts)
        # In the optimisers' order, as Fabric does it: the rounding of the norm depends on it.
        moved = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        if not math.isfinite(float(nn.utils.clip_grad_norm_(moved, LARGEST_NORM))):
            raise UserError(
                f"the {self.stage.name}'s gradient is not finite at step {step}: lower "
                "--learning-rate; the last saved state is unchanged"
            )
        for optimizer, wrapped in zip(self.optimizers, self._wrapped_optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            wrapped.step()
            wrapped.zero_grad()
        return totals


def has_bf16(device: str) -> bool:
    """Whether "cuda" or "cpu" has instructions for bf16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def make_optimizers(
    module: nn.Module, recipe: StageRecipe, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """AdamW and, where the recipe asks for it, Muon for the module's `hidden_matrices`. Weights of
    two dimensions or more decay, biases don't.

    Args:
        dtype: of Muon's computation.
    """
    hidden: list[nn.Parameter] = []
    if recipe.optimizer == "muon":
        hidden = module.hidden_matrices()  # pyright: ignore[reportCallIssue]
    chosen = {id(parameter) for parameter in hidden}
    rest = [p for p in module.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(recipe.momentum, 0.99),
    )
    if not hidden:
        return [adamw]
    muon = Muon(hidden, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, dtype=dtype)
    return [adamw, muon]


def learning_rate(recipe: StageRecipe, step: int, fraction: float) -> float:
    """A linear warm-up, over a tenth of the schedule at most, then the recipe's decay to zero.

    Args:
        fraction: of the schedule that is done.
    """
    warmed_up = min(1.0, max((step + 1) / recipe.warmup, 10 * fraction))
    if recipe.decay < 1:
        return recipe.learning_rate * warmed_up * min(1.0, (1 - fraction) / recipe.decay)
    return recipe.learning_rate * warmed_up * 0.5 * (1 + math.cos(math.pi * fraction))


class Due(NamedTuple):
    """What is due after a step, and the seconds of training in this call so far."""

    seconds: float
    stop: bool
    show: bool
    save: bool
    validate: bool


class Clock:
    """Tells what is due in one call; validation doesn't count as training time."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.began = self.shown = self.saved = self.validated = time.monotonic()
        self.seconds_validating = 0.0

    def read(self) -> Due:
        now, timing = time.monotonic(), self.timing
        seconds = now - self.began
        return Due(
            seconds - self.seconds_validating,
            stop=timing.max_minutes is not None and seconds > 60 * timing.max_minutes,
            show=now - self.shown > SHOW_EVERY,
            save=now - self.saved > 60 * timing.save_minutes,
            validate=now - self.validated > 60 * timing.validate_minutes,
        )

    def restart_show_timer(self) -> None:
        self.shown = time.monotonic()

    def restart_save_timer(self) -> None:
        self.saved = time.monotonic()

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Leave what is done inside out of the training time, and restart the timer."""
        began = time.monotonic()
        yield
        self.validated = time.monotonic()
        self.seconds_validating += self.validated - began
