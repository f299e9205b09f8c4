"""Train a world model: python -m worldmodel.train --data data/car --out runs/car

Sizes are chosen from the data, or named: `python -m worldmodel.train dream-doom`. The tokenizer is
trained first, then the prior on its codes. However training is interrupted, rerunning the command
resumes it. The folder is a checkpoint: play it, make an environment of it, ship it.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from worldmodel.command import run_command
from worldmodel.training.options import AUTO, DREAM_PRESETS, TrainOptions


@dataclass(frozen=True)
class Train(TrainOptions):
    """Train a world model on recorded episodes: the tokenizer, then the prior on its codes.
    However training is interrupted, rerunning the command resumes it."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            help="Sizes and recipe; auto chooses those of a dream from --data. One of: "
            f"{', '.join(DREAM_PRESETS)}."
        ),
    ] = AUTO
    out: Path | None = None
    """Folder of the run, which becomes a checkpoint; by default runs/PRESET, for auto runs/DATA."""
    stage: Literal["both", "tokenizer", "prior", "decoder"] = "both"
    """What to train: both is the tokenizer, then the prior; decoder, after them, a decoder of
    sharper pictures, which needs the extra "perceptual"."""
    decoder_minutes: float | None = None
    """As --tokenizer-minutes, for the sharp decoder."""
    decoder_steps: int | None = None
    """Steps of the sharp decoder's schedule; by default the preset's."""


def main() -> None:
    options = tyro.cli(Train, prog="python -m worldmodel.train", description=__doc__)
    command = shlex.join(["python", "-m", "worldmodel.train", *sys.argv[1:]])

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
    from worldmodel.training import dream

    dream.train(options, command=command)


def described(options: Train) -> str:
    """What `Train` would train, as text for people or as JSON.

    Raises:
        UserError: auto's data are missing or damaged, or an option is not usable.
    """
    from worldmodel.training import dream

    return dream.described(options)


if __name__ == "__main__":
    main()
