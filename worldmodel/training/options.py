"""Options that both training commands share, and the presets' names; without torch, for --help."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from worldmodel.command import parse_options, python_command, run_command
from worldmodel.errors import UserError

Options = TypeVar("Options", bound="TrainOptions")
# Each command knows the other's presets, to name the command that trains them.
AUTO, AUTO_SMALL = "auto", "auto-small"
RANDOM_WEIGHTS = "none"  # for --init
DREAM_PRESETS = (AUTO, AUTO_SMALL, "dream-doom", "dream-battle2", "dream-pushing", "tiny")
PUBLISHED_PRESETS = (
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
class TrainOptions:
    """Train a tokenizer on recorded episodes, then a prior on its codes."""

    preset: tyro.conf.Positional[str]
    """Sizes and recipe."""
    data: Path | None = None
    """Folder of episodes; by default the preset's own."""
    out: Path | None = None
    """Folder of the run, which becomes a checkpoint; by default runs/PRESET."""
    stage: Literal["both", "tokenizer", "prior", "decoder"] = "both"
    """What to train: both is the tokenizer, then the prior."""
    init: str | None = None
    """Checkpoint to start from instead of random weights: a shipped name, a folder, or a Hugging
    Face Hub id. With --stage prior its tokenizer stays as it is."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Floating-point precision of the computation; weights stay fp32. auto: bf16 where the hardware
    supports it."""
    max_minutes: float | None = None
    """Stop each stage after so many minutes of this call; the same command resumes. How long the
    training is in all is set by the options that follow."""
    tokenizer_minutes: float | None = None
    """Length of the tokenizer's training in minutes, over all calls: its learning rate falls to
    zero at their end. Default: --tokenizer-steps."""
    prior_minutes: float | None = None
    """The same for the prior."""
    tokenizer_steps: int | None = None
    """Steps of the tokenizer's schedule; by default the preset's."""
    prior_steps: int | None = None
    """Steps of the prior's schedule; by default the preset's."""
    batch_size: int | None = None
    """Clips in a step of any stage that learns clips, over all processes; by default the
    preset's."""
    learning_rate: float | None = None
    """Peak learning rate of these stages; by default the preset's."""
    describe: bool = False
    """Only print the preset's parts, parameters and latents, and what a step on clips alone costs
    in fp32 with the full batch at once."""
    json: bool = False
    """With --describe: print JSON."""
    seed: int = 0
    """Seed of the initial weights and of the batches."""
    compile: bool = False
    """Compile the model first: takes about a minute, then steps are faster."""
    save_minutes: float = 2.0
    """Minutes between saves of the training state."""
    validate_minutes: float = 5.0
    """Minutes between validations, each with a preview picture."""
    memory_gb: float = 8.0
    """Frames are kept unpacked in memory up to this size; larger data are read from disk."""


@dataclass(frozen=True)
class TrainDream(TrainOptions):
    """Train a world model on recorded episodes: the tokenizer, then the prior on its codes.
    However training is interrupted, rerunning the command resumes it."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            help="Sizes and recipe; auto chooses them from --data, auto-small likewise, with a "
            "smaller prior and small batches: for an hour without a GPU. One of: "
            f"{', '.join(DREAM_PRESETS)}."
        ),
    ] = AUTO
    out: Path | None = None
    """Folder of the run, which becomes a checkpoint; by default runs/PRESET, for auto runs/DATA."""
    stage: Literal["both", "tokenizer", "prior", "decoder"] = "both"
    """What to train: both is the tokenizer, then the prior. decoder, after both, trains a decoder
    of sharper pictures; it needs the extra "perceptual"."""
    init: str | None = None
    """Checkpoint to start from: a shipped name, a folder, or a Hugging Face Hub id; none: random
    weights. By default auto and auto-small start from dream-doom's tokenizer, the others from
    random weights. Of another world's checkpoint, only the tokenizer is used. With --stage prior
    the tokenizer stays as it is."""
    place_minutes: float | None = None
    """As --tokenizer-minutes, for the stage before the prior in worlds with a pose, in which the
    map and the pose head learn alone. A checkpoint of --init that has learned them skips it."""
    place_steps: int | None = None
    """Steps of that stage's schedule; by default the preset's."""
    decoder_minutes: float | None = None
    """As --tokenizer-minutes, for the sharp decoder."""
    decoder_steps: int | None = None
    """Steps of the sharp decoder's schedule; by default the preset's."""


@dataclass(frozen=True)
class TrainVideoGPT(TrainOptions):
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


def main_of(
    kind: type[Options], train: Callable[..., None], module: str, description: str | None
) -> None:
    """Run a training command: read its options, train, and say how to resume."""
    options = parse_options(kind, module, description)
    command = python_command(module, *sys.argv[1:])
    run_command(
        lambda: train(options, command=command),
        stopped=f"stopped; to resume from the last saved state: {command}",
    )


def check_preset(
    options: TrainOptions, known: tuple[str, ...], others: tuple[str, ...], module: str
) -> None:
    """Raises UserError for a preset that is not among the known ones.

    Args:
        others: presets that `module` trains.
    """
    if options.preset in others:
        command = python_command(module, *main_arguments(options))
        raise UserError(f"{options.preset} is trained by `{command}`")
    if options.preset not in known:
        raise UserError(
            f"unknown preset {options.preset!r}; the known ones are: {', '.join(known)}"
        )


def main_arguments(options: TrainOptions) -> list[str]:
    """The options that both training commands need, as arguments."""
    named = {"data": options.data, "out": options.out, "init": options.init}
    given = [part for k, v in named.items() if v is not None for part in (f"--{k}", str(v))]
    return [options.preset, *given]
