"""Train VideoGPT as published: python -m worldmodel.videogpt.train bair --data data/bair

The tokenizer of clips is trained first, then the prior on its codes. However training is
interrupted, rerunning the command resumes it. The folder becomes a checkpoint: sample clips from
it, evaluate it.
"""

from worldmodel.training.options import TrainVideoGPT as Train
from worldmodel.training.options import main_of


def main() -> None:
    main_of(Train, train, "worldmodel.videogpt.train", __doc__)


def train(options: Train, *, command: str = "the same command") -> None:
    """Train as the options say; see `worldmodel.videogpt.training.train`."""
    from worldmodel.videogpt import training  # late: `--help` shouldn't wait for torch

    training.train(options, command=command)


if __name__ == "__main__":
    main()
