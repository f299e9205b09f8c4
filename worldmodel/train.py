"""Train a world model: python -m worldmodel.train --data data/car --out runs/car

Sizes are chosen from the data, or by a preset: `python -m worldmodel.train dream-doom`. The
tokenizer is trained first, then the prior on its codes. However training is interrupted, rerunning
the command resumes it. The folder becomes a checkpoint: play it, ship it, use it as an environment.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from worldmodel.training.options import AUTO, DREAM_PRESETS, TrainOptions, main_of


@dataclass(frozen=True)
class Train(TrainOptions):
    """Train a world model on recorded episodes: the tokenizer, then the prior on its codes.
    However training is interrupted, rerunning the command resumes it."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            help="Sizes and recipe; auto chooses them from --data. One of: "
            f"{', '.join(DREAM_PRESETS)}."
        ),
    ] = AUTO
    out: Path | None = None
    """Folder of the run, which becomes a checkpoint; by default runs/PRESET, for auto runs/DATA."""
    stage: Literal["both", "tokenizer", "prior", "decoder"] = "both"
    """What to train: both is the tokenizer, then the prior. decoder, after both, trains a decoder
    of sharper pictures; it needs the extra "perceptual"."""
    decoder_minutes: float | None = None
    """As --tokenizer-minutes, for the sharp decoder."""
    decoder_steps: int | None = None
    """Steps of the sharp decoder's schedule; by default the preset's."""


def main() -> None:
    main_of(Train, train, "worldmodel.train", __doc__)


def train(options: Train, *, command: str = "the same command") -> None:
    """Train as the options say; see `worldmodel.training.dream.train`."""
    from worldmodel.training import dream  # late: `--help` shouldn't wait for torch

    dream.train(options, command=command)


if __name__ == "__main__":
    main()
