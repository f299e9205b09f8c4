"""Train VideoGPT as published: python -m worldmodel.videogpt.train bair --data data/bair

The tokenizer of clips is trained first, then the prior on its codes. However training is
interrupted, rerunning the command resumes it. The folder is a checkpoint: draw clips from it,
measure it.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from worldmodel.training.options import PUBLISHED_PRESETS, TrainOptions, main_of


@dataclass(frozen=True)
class Train(TrainOptions):
    """Train VideoGPT as published: the tokenizer of clips, then the prior on its codes."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(help=f"Sizes and recipe. One of: {', '.join(PUBLISHED_PRESETS)}."),
    ]
    stage: Literal["both", "tokenizer", "prior"] = "both"
    """What to train: both is the tokenizer, then the prior."""
    conditions: str | None = None
    """What the prior is conditioned on, comma-separated: actions, class, frames; or none. By
    default as the preset says."""
    accumulate: int = 1
    """Micro-batches in which a process works through its share of a batch: less memory, the same
    step."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""


def main() -> None:
    main_of(Train, train, "worldmodel.videogpt.train", __doc__)


def train(options: Train, *, command: str = "the same command") -> None:
    """Do what `Train` says.

    Args:
        command: that resumes the training, for the user.

    Raises:
        UserError: --init can't be loaded; the data are missing, damaged or unsound; an option,
            the run's folder or its device is not usable; or another process trains there.
    """
    from worldmodel.videogpt import (
        training,  # after the options are read: `--help` shouldn't wait for torch
    )

    training.train(options, command=command)


if __name__ == "__main__":
    main()
