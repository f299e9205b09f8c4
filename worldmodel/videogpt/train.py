"""Train VideoGPT as published: python -m worldmodel.videogpt.train bair --data data/bair

The tokenizer of clips is trained first, then the prior on its codes. However training is
interrupted, rerunning the command resumes it. The folder is a checkpoint: draw clips from it,
measure it.
"""

import shlex
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from worldmodel.command import run_command
from worldmodel.training.options import PUBLISHED_PRESETS, TrainOptions


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
    prog = "python -m worldmodel.videogpt.train"
    options = tyro.cli(Train, prog=prog, description=__doc__)
    command = shlex.join([*prog.split(), *sys.argv[1:]])

    def work() -> None:
        if options.describe:
            print(described(options))
        else:
            train(options, command=command)

    run_command(work, stopped=f"stopped; to resume from the state saved last: {command}")


# What trains is imported after the options are read: `--help` shouldn't wait for torch.


def train(options: Train, *, command: str = "the same command") -> None:
    """Do what `Train` says.

    Args:
        command: that resumes the training, for the user.

    Raises:
        UserError: --init can't be loaded; the data are missing, damaged or unsound; an option,
            the run's folder or its device is not usable; or another process trains there.
    """
    from worldmodel.videogpt import training

    training.train(options, command=command)


def described(options: Train) -> str:
    """What `Train` would train, as text for people or as JSON.

    Raises:
        UserError: an option is not usable.
    """
    from worldmodel.videogpt import training

    return training.described(options)


if __name__ == "__main__":
    main()
