"""How long a stage trains, and its learning rate meanwhile."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from worldmodel.configs.presets import StageRecipe


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


@dataclass
class Progress:
    """Steps and seconds of training so far, over all calls."""

    step: int = 0
    seconds: float = 0.0

    def fraction(self, recipe: StageRecipe, timing: Timing) -> float:
        """The fraction of the schedule that is done, in [0, 1]."""
        if timing.schedule_minutes is not None:
            return min(1.0, self.seconds / (60 * timing.schedule_minutes))
        return min(1.0, self.step / recipe.steps)


def learning_rate(recipe: StageRecipe, step: int, fraction: float) -> float:
    """A linear warm-up, then the recipe's decay to zero.

    Args:
        fraction: of the schedule that is done.
    """
    warmed_up = min(1.0, (step + 1) / recipe.warmup)
    if recipe.decay < 1:
        return recipe.learning_rate * warmed_up * min(1.0, (1 - fraction) / recipe.decay)
    return recipe.learning_rate * warmed_up * 0.5 * (1 + math.cos(math.pi * fraction))


class Due(NamedTuple):
    """What is due after a step, and the seconds of training in this call so far."""

    seconds: float
    stop: bool
    save: bool
    validate: bool


class Clock:
    """Tells what is due in one call; validation doesn't count as training time."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.began = self.saved = self.validated = time.monotonic()
        self.seconds_validating = 0.0

    def read(self) -> Due:
        now, timing = time.monotonic(), self.timing
        seconds = now - self.began
        return Due(
            seconds - self.seconds_validating,
            stop=timing.max_minutes is not None and seconds > 60 * timing.max_minutes,
            save=now - self.saved > 60 * timing.save_minutes,
            validate=now - self.validated > 60 * timing.validate_minutes,
        )

    def restart_save_timer(self) -> None:
        self.saved = time.monotonic()

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Leave what is done inside out of the training time, and restart the timer."""
        began = time.monotonic()
        yield
        self.validated = time.monotonic()
        self.seconds_validating += self.validated - began
