"""Train a world model: python -m worldmodel.train --data data/car --out runs/car

Sizes are chosen from the data, or by a preset: `python -m worldmodel.train dream-doom`. The
tokenizer is trained first, then the prior on its codes. However training is interrupted, rerunning
the command resumes it. The folder becomes a checkpoint: play it, ship it, use it as an environment.
"""

from worldmodel.training.options import TrainDream as Train
from worldmodel.training.options import main_of


def main() -> None:
    main_of(Train, train, "worldmodel.train", __doc__)


def train(options: Train, *, command: str = "the same command") -> None:
    """Train as the options say; see `worldmodel.training.dream.train`."""
    from worldmodel.training import dream  # late: `--help` shouldn't wait for torch

    dream.train(options, command=command)


if __name__ == "__main__":
    main()
