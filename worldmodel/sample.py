"""Draw what could happen: python -m worldmodel.sample dream-doom --out futures.gif

From each start of a checkpoint, several futures. VideoGPT as published draws whole clips,
conditioned on what it was trained to take from a start. Given frames have a red border, as in the
paper. A .png holds frames side by side, a .gif or .mp4 moves.

    one start, many futures               --starts 3 --futures 8
    one action sequence, many worlds      --starts 0 1 2 3 --futures 1 --action right:8,forward
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from worldmodel import randomness
from worldmodel.checkpoint import (
    Checkpoint,
    GivenClips,
    Starts,
    VideoGPTCheckpoint,
    find_checkpoint,
    is_videogpt,
    load_checkpoint,
    load_videogpt,
    read_world,
)
from worldmodel.checkpoint.device import usable_device
from worldmodel.command import check_numbers, run_command
from worldmodel.data import Clips
from worldmodel.errors import UserError, printable
from worldmodel.evaluation.dreaming import dream_on
from worldmodel.evaluation.held_out import wander
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.media.film import (
    SAVERS,
    coloured,
    enlarged,
    framed,
    grid,
    save_gif,
    save_mp4,
    save_png,
    sheet,
    with_given,
)
from worldmodel.storage.files import refuse_existing
from worldmodel.videogpt.configs import VideoGPTConfig
from worldmodel.videogpt.stages import sample_clips

DREAM_STEPS = 32
MOST_DIGITS = 12  # of a number in --action
MOST_BYTES = 2**32  # of all films together
SHOWN_GIVEN = 4  # given frames in a .png
SHOWN_DREAMED = 12  # dreamed frames in a .png, spread evenly


@dataclass(frozen=True)
class Sample:
    """Draw several futures of a checkpoint's starts."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A shipped name, a folder, or a Hugging Face Hub id."""
    out: Path
    """File to write; ends in .png, .gif or .mp4."""
    starts: tuple[int, ...] = (0,)
    """Numbers of the recorded moments to start from."""
    futures: int = 4
    """Dreams of each start."""
    steps: int | None = None
    """Length of a dream, by default 32; clips as published have their own."""
    action: str | None = None
    """An action to repeat, by name or number, or a sequence: right:8,forward. By default random
    actions, each held for a while; clips as published take those of their starts."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class of all clips as published, by name; by default those of their starts."""
    same_actions: bool = False
    """Use the same actions for all starts and futures: what differs is the start, and chance."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How dreams and clips are sampled; clips as published at a temperature of 1 by default."""
    scale: int = 2
    """Pixels of the picture, along each side, for a pixel of a frame."""
    overwrite: bool = False
    """Replace the file at --out."""
    seed: int = 0
    """Seed of actions and dreams."""
    device: str = "cpu"
    """cpu or cuda."""


def main() -> None:
    options = tyro.cli(Sample, prog="python -m worldmodel.sample", description=__doc__)
    run_command(lambda: sample(options))


def sample(options: Sample) -> None:
    """Do what `Sample` says.

    Raises:
        UserError: the checkpoint is missing or damaged, an option is out of range, or the file
            exists.
    """
    refuse_existing(options.out, overwrite=options.overwrite)
    folder = str(find_checkpoint(options.checkpoint))  # once: a hub's may change meanwhile
    if is_videogpt(folder):
        if options.sampling.guidance:
            raise UserError("--guidance is for dreams, which are stepped; these are whole clips")
        sampling = _check(options, Sampling())
        _sample_clips(load_videogpt(folder, device=options.device), options, sampling)
    else:
        sampling = _check(options, read_world(folder).sampling)
        _sample_dreams(load_checkpoint(folder, device=options.device), options, sampling)


def _sample_dreams(checkpoint: Checkpoint, options: Sample, sampling: Sampling) -> None:
    if options.class_name is not None:
        raise UserError(f"{options.checkpoint} is a dream and knows no classes: leave --class out")
    steps = DREAM_STEPS if options.steps is None else options.steps
    _check_size(options, steps, checkpoint.model.config.tokenizer.frame_shape)
    starts = _begin(checkpoint.starts, options)
    given, num_dreams = starts.frames.shape[1], len(starts.frames)
    actions = _actions(checkpoint.model.config.actions, options, num_dreams, steps)
    dreamed = dream_on(
        checkpoint.model,
        starts,
        given,
        actions,
        rng=randomness.generator(options.seed, "samples"),
        sampling=sampling,
    )
    known, frames = coloured(starts.frames), coloured(dreamed.frames)
    if options.out.suffix == ".png":
        at = np.linspace(0, steps - 1, min(steps, SHOWN_DREAMED)).round()
        known, frames = known[:, -SHOWN_GIVEN:], frames[:, at.astype(int)]
    _save(np.concatenate([framed(known), frames], 1), options, checkpoint.world.fps)


def _sample_clips(checkpoint: VideoGPTCheckpoint, options: Sample, sampling: Sampling) -> None:
    config = checkpoint.model.config
    clips = checkpoint.clips
    if options.steps is not None:
        raise UserError(
            f"{options.checkpoint} makes clips of {config.tokenizer.clip_shape[0]} frames: leave "
            "--steps out"
        )
    num_frames, *frame_shape = config.tokenizer.clip_shape
    _check_size(options, num_frames, frame_shape)
    rows = _rows(clips, options)
    frames, actions, classes = (
        torch.from_numpy(array[rows]) for array in (clips.frames, clips.actions, clips.classes)
    )
    if options.action is not None:
        if not config.prior.num_actions:
            raise UserError(
                f"{options.checkpoint} isn't conditioned on actions: leave --action out"
            )
        taken = _sequence(config.actions, options.action, actions.shape[1])
        actions = torch.from_numpy(taken).expand(len(rows), -1)
    elif options.same_actions:
        actions = actions[:1].expand(len(rows), *actions.shape[1:])
    if options.class_name is not None:
        classes = torch.full_like(classes, _class(config, options))
    sampled = sample_clips(
        checkpoint.model,
        (frames.to(options.device), actions.to(options.device), classes.to(options.device)),
        rng=randomness.generator(options.seed, "samples of clips"),
        sampling=sampling,
    )
    shown = with_given(sampled.cpu().numpy(), frames.numpy(), config.prior.given_frames)
    _save(shown, options, checkpoint.world.fps)


def _save(films: np.ndarray, options: Sample, fps: float) -> None:
    """Films (dreams, T, H, W, 3), those of one start in a row."""
    refuse_existing(options.out, overwrite=options.overwrite)  # it may have come meanwhile
    if options.out.suffix == ".png":
        save_png(options.out, sheet(list(films), scale=options.scale))
    else:
        save = save_gif if options.out.suffix == ".gif" else save_mp4
        shown = grid(list(enlarged(films, options.scale)), columns=options.futures)
        save(options.out, shown, fps=fps)
    print(printable(f"{options.out}: {options.futures} futures of {len(options.starts)} starts"))


def _check(options: Sample, own: Sampling) -> Sampling:
    """How to draw: as asked for, else as the checkpoint says."""
    if options.out.suffix not in SAVERS:
        raise UserError(f"--out {options.out}: the name must end in {', '.join(SAVERS)}")
    check_numbers(options, futures=1, steps=1, scale=1, seed=0)
    try:
        usable_device(options.device)
    except ValueError as error:
        raise UserError(str(error)) from None
    return options.sampling.applied_to(own)


def _check_size(options: Sample, num_frames: int, frame_shape: Sequence[int]) -> None:
    """Raises UserError where the film wouldn't fit into memory."""
    num_films = len(options.starts) * options.futures
    num_bytes = num_films * num_frames * math.prod(frame_shape[:2]) * 3 * options.scale**2
    if num_bytes > MOST_BYTES:
        raise UserError(
            f"{num_films} films of {num_frames} frames at --scale {options.scale} take "
            f"{num_bytes / 2**30:.3g} GiB, more than {MOST_BYTES // 2**30}: ask for fewer or "
            "smaller ones"
        )


def _rows(starts: Starts | GivenClips, options: Sample) -> np.ndarray:
    """The chosen starts, each as often as it has futures."""
    for start in options.starts:
        if not 0 <= start < len(starts):
            raise UserError(f"there is no start {start}: they go from 0 to {len(starts) - 1}")
    return np.repeat(options.starts, options.futures)


def _begin(starts: Starts, options: Sample) -> Clips:
    rows = _rows(starts, options)
    nothing = np.zeros((len(rows), starts.actions.shape[1]), np.float32)
    return Clips(
        frames=starts.frames[rows],
        action=starts.actions[rows],
        reward=nothing,
        terminated=nothing.astype(bool),
        variables=starts.variables[rows],
        pose=starts.poses[rows],
    )


def _class(config: VideoGPTConfig, options: Sample) -> int:
    names = config.class_names
    if not config.prior.on_class:
        raise UserError(f"{options.checkpoint} takes no class: leave --class out")
    if options.class_name not in names:
        known = ", ".join(names)
        raise UserError(f"unknown class {options.class_name!r}; the known ones are: {known}")
    return names.index(options.class_name)


def _actions(spec: ActionSpec, options: Sample, num_dreams: int, num_steps: int) -> np.ndarray:
    """(num_dreams, num_steps, *shape)"""
    if options.action is not None:
        return np.tile(_sequence(spec, options.action, num_steps), (num_dreams, 1))
    rng = randomness.generator(options.seed, "wandering")
    if options.same_actions:
        return wander(rng, spec, 1, num_steps).repeat(num_dreams, 0)
    return wander(rng, spec, num_dreams, num_steps)


def _sequence(spec: ActionSpec, text: str, num_steps: int) -> np.ndarray:
    """(num_steps,) of "right:8,forward": each as often as it says, the last to the end."""
    taken: list[int] = []
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        if count and not (count.isdecimal() and count.strip("0")):
            raise UserError(f"--action {text}: {count!r} is no number of steps")
        # No more digits than it takes to be too long: Python counts no further than 4,300.
        times = num_steps + 1 if len(count) > MOST_DIGITS else int(count or 1)
        taken += [_numbered(spec, name)] * min(times, num_steps + 1)
    if len(taken) > num_steps:
        raise UserError(f"--action {text} is longer than the {num_steps} steps there are")
    taken += taken[-1:] * (num_steps - len(taken))
    return np.asarray(taken, np.int64)


def _numbered(spec: ActionSpec, action: str) -> int:
    if spec.kind != "discrete":
        raise UserError("--action goes with worlds of one discrete action: leave it out")
    names = [*spec.meanings, *map(str, range(len(spec.meanings), spec.sizes[0]))]
    if action in names:
        return names.index(action)
    if action.isdecimal() and len(action) <= MOST_DIGITS and int(action) < spec.sizes[0]:
        return int(action)
    raise UserError(f"unknown action {action!r}; the known ones are: {', '.join(names)}")


if __name__ == "__main__":
    main()
