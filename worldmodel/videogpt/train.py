"""Train VideoGPT as published: python -m worldmodel.videogpt.train bair --data data/bair

The tokenizer of clips is trained first, then the prior on its codes. However training is
interrupted, rerunning the command resumes it. The folder becomes a checkpoint: sample clips from
it, evaluate it.
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
    default the preset's conditions."""
    accumulate: int = 1
    """Micro-batches per process and step: more take less memory, for the same step."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""


def main() -> None:
    main_of(Train, train, "worldmodel.videogpt.train", __doc__)


def train(options: Train, *, command: str = "the same command") -> None:
    """Train as the options say; see `worldmodel.videogpt.training.train`."""
    from worldmodel.videogpt import training  # late: `--help` shouldn't wait for torch

    training.train(options, command=command)


if __name__ == "__main__":
    main()
