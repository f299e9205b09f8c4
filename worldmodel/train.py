"""Train a world model: python -m worldmodel.train --data data/car --out runs/car

Sizes are chosen from the data, or named: `python -m worldmodel.train dream-doom`. The tokenizer is
trained first, then the prior on its codes. However training is interrupted, rerunning the command
resumes it. The folder is a checkpoint: play it, make an environment of it, ship it.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from worldmodel.command import run_command

# What trains is imported after the options are read: `--help` shouldn't wait for torch.
if TYPE_CHECKING:
    from worldmodel.configs.presets import Preset
    from worldmodel.videogpt.presets import PublishedPreset

AUTO = "auto"
KNOWN_PRESETS = (
    AUTO,
    "dream-doom",
    "dream-battle2",
    "dream-pushing",
    "tiny",
    "moving-mnist",
    "bair",
    "robonet",
    "vizdoom-hgs",
    "vizdoom-battle2",
    "ucf101",
    "ucf101-128",
    "tgif",
    "tiny-videogpt",
)


@dataclass(frozen=True)
class Train:
    """Train a world model on recorded episodes: the tokenizer, then the prior on its codes.
    However training is interrupted, rerunning the command resumes it."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            help="Sizes and recipe; auto chooses those of a dream from --data. One of: "
            f"{', '.join(KNOWN_PRESETS)}."
        ),
    ] = AUTO
    data: Path | None = None
    """Folder of episodes; by default the preset's own."""
    out: Path | None = None
    """Folder of the run, which becomes a checkpoint; by default runs/PRESET, for auto runs/DATA."""
    stage: Literal["both", "tokenizer", "prior", "decoder"] = "both"
    """What to train: both is the tokenizer, then the prior; decoder, after them, a decoder of
    sharper pictures, which needs the extra "perceptual"."""
    conditions: str | None = None
    """What VideoGPT as published is conditioned on, comma-separated: actions, class, frames; or
    none. By default as the preset says."""
    init: str | None = None
    """Checkpoint to start from instead of random weights: a shipped name, a folder, or a Hugging
    Face Hub id. With --stage prior its tokenizer stays as it is."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Floating-point precision of the computation; weights stay fp32. auto: bf16 where the hardware
    supports it."""
    max_minutes: float | None = None
    """Stop each stage after so many minutes; the same command resumes."""
    tokenizer_minutes: float | None = None
    """Minutes of training, over all calls, in which the tokenizer's learning rate falls to zero;
    by default it falls over --tokenizer-steps."""
    prior_minutes: float | None = None
    """The same for the prior."""
    decoder_minutes: float | None = None
    """The same for the sharp decoder."""
    tokenizer_steps: int | None = None
    """Steps of the tokenizer's schedule; by default the preset's."""
    prior_steps: int | None = None
    """Steps of the prior's schedule; by default the preset's."""
    decoder_steps: int | None = None
    """Steps of the sharp decoder's schedule; by default the preset's."""
    batch_size: int | None = None
    """Clips in a step of any stage, over all processes; by default the preset's."""
    learning_rate: float | None = None
    """Peak learning rate of the stages; by default the preset's."""
    describe: bool = False
    """Only print the preset's parts, parameters, latents, and what a step costs in fp32 with the
    whole batch at once; only auto needs data."""
    json: bool = False
    """With --describe: print JSON."""
    seed: int = 0
    """Seed of the initial weights and of the batches."""
    accumulate: int = 1
    """Micro-batches in which a process works through its share of a batch: less memory, the same
    step."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the model first: takes about a minute, then steps are faster."""
    save_minutes: float = 2.0
    """Minutes between saves of the training state."""
    validate_minutes: float = 5.0
    """Minutes between validations, each with a preview picture."""
    memory_gb: float = 8.0
    """Frames are kept unpacked in memory up to this size, otherwise read from disk as needed."""


def main() -> None:
    options = tyro.cli(Train, prog="python -m worldmodel.train", description=__doc__)
    command = shlex.join(["python", "-m", "worldmodel.train", *sys.argv[1:]])

    def work() -> None:
        if options.describe:
            print(described(options))
        else:
            train(options, command=command)

    run_command(work, stopped=f"stopped; to resume from the state saved last: {command}")


def train(options: Train, *, command: str = "the same command") -> None:
    """Do what `Train` says.

    Args:
        command: that resumes the training, for the user.

    Raises:
        UserError: --init can't be loaded; the data are missing, damaged or unsound; an option,
            the run's folder or its device is not usable; or another process trains there.
    """
    from worldmodel.training import run

    run.train(options, command=command)


def described(options: Train) -> str:
    """What `Train` would train, as text for people or as JSON.

    Raises:
        UserError: auto's data are missing or damaged, or an option is not usable.
    """
    from worldmodel.training import run

    return run.described(options)


def train_preset(
    preset: "Preset | PublishedPreset", options: Train, *, command: str = "the same command"
) -> None:
    """Train what a preset says, its recipes as they stand; raises what `train` does.

    Args:
        options: all but those that `train` has worked into the preset.
        command: that resumes the training, for the user.
    """
    from worldmodel.training import run

    run.train_preset(preset, options, command=command)


if __name__ == "__main__":
    main()
