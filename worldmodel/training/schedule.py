"""How long a stage trains, and how fast it learns meanwhile."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from worldmodel.configs.recipe import StageRecipe


@dataclass(frozen=True)
class Timing:
    """When to stop, and when to write.

    Attributes:
        max_minutes: stop this call then, ready to be resumed; None: when the schedule ends. On the
            wall: validation counts.
        schedule_minutes: the learning rate falls over so many minutes of training, in all
            calls together and validation left out, in place of over the recipe's steps. Such
            a run can't be repeated to the bit: how far it gets depends on the machine.
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
    """Up a line over the warm-up, then down to zero as the recipe says."""
    rising = min(1.0, (step + 1) / recipe.warmup)
    if recipe.decay < 1:
        return recipe.learning_rate * rising * min(1.0, (1 - share) / recipe.decay)
    return recipe.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * share))


class Moment(NamedTuple):
    """What is due after a step.

    Attributes:
        seconds: of training in this call.
    """

    seconds: float
    out_of_time: bool
    save: bool
    validate: bool


class Clock:
    """Of one call: says what is due, and stands still while the model is validated."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.began = self.saved = self.validated = time.monotonic()
        self.seconds_paused = 0.0

    def read(self) -> Moment:
        now, timing = time.monotonic(), self.timing
        seconds = now - self.began
        return Moment(
            seconds - self.seconds_paused,
            out_of_time=timing.max_minutes is not None and seconds > 60 * timing.max_minutes,
            save=now - self.saved > 60 * timing.save_minutes,
            validate=now - self.validated > 60 * timing.validate_minutes,
        )

    def saves(self) -> None:
        """To be said when the state is saved."""
        self.saved = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While the model is validated."""
        began = time.monotonic()
        yield
        self.validated = time.monotonic()
        self.seconds_paused += self.validated - began
