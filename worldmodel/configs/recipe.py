"""How a stage is trained."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StageRecipe:
    """How to train one stage.

    Attributes:
        steps: optimiser steps of the whole schedule.
        batch_size: clips a step over all processes; frames a clip in `num_frames`.
        learning_rate: peak; it rises over `warmup` steps.
        decay: share of the schedule over which it falls to zero, at the end: 1: along a cosine, all
            the time; less: constant before, then along a line.
        optimizer: "muon": for the matrices between hidden layers, AdamW for all else.
        corruption: most of the past tokens that are replaced at random (prior only).
        hidden: share of recorded clips whose past can't be seen, in worlds that tell a pose (prior
            only).
        momentum: of the gradient, Adam's first beta.
        dreamed: share of a batch whose past the prior dreamed itself, likewise.
    """

    steps: int
    batch_size: int
    num_frames: int
    learning_rate: float
    warmup: int = 200
    decay: float = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.0
    corruption: float = 0.0
    hidden: float = 0.0
    dreamed: float = 0.0
    momentum: float = 0.9
