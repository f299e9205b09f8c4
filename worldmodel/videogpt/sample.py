"""Sample clips: python -m worldmodel.videogpt.sample runs/bair --starts 0 --futures 8 --out a.gif

Clips by VideoGPT as published, under the conditions that it was trained on (given frames, actions,
class), taken from a recorded clip. Given frames have a red border, as in the paper. A .png holds
frames side by side, a .gif or .mp4 moves.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

from worldmodel import randomness
from worldmodel.checkpoint import find_kind
from worldmodel.checkpoint.files import VIDEOGPT
from worldmodel.command import parse_options, run_command
from worldmodel.errors import UserError
from worldmodel.evaluation.futures import (
    FuturesOptions,
    check_options,
    check_size,
    save_futures,
    start_rows,
)
from worldmodel.interface.actions import action_sequence
from worldmodel.interface.sampling import ClipSamplingOptions
from worldmodel.media.film import with_given
from worldmodel.storage.files import refuse_existing
from worldmodel.videogpt.checkpoint import load_videogpt
from worldmodel.videogpt.configs import VideoGPTConfig
from worldmodel.videogpt.stages import sample_clips


@dataclass(frozen=True)
class Sample(ClipSamplingOptions, FuturesOptions):
    """Sample several clips under the conditions of each recorded one."""

    action: str | None = None
    """An action to repeat, by name or number, or a sequence: right:8,forward. By default the
    recorded actions."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class of all clips, by name; by default the recorded one."""


def main() -> None:
    options = parse_options(Sample, "worldmodel.videogpt.sample", __doc__)
    run_command(lambda: sample(options))


def sample(options: Sample) -> None:
    """Sample clips as the options say.

    Raises:
        UserError: the checkpoint is missing or damaged, an option is out of range, or the file
            exists.
    """
    refuse_existing(options.out, overwrite=options.overwrite)
    dream = ("worldmodel.sample", options.checkpoint, "--out", str(options.out))
    folder = find_kind(options.checkpoint, VIDEOGPT, *dream)
    check_options(options)
    sampling = options.sampling
    checkpoint = load_videogpt(str(folder), device=options.device)
    config, starts = checkpoint.model.config, checkpoint.starts
    num_frames, *frame_shape = config.tokenizer.clip_shape
    check_size(options, num_frames, frame_shape)
    rows = start_rows(len(starts), options)
    frames, actions, classes = (
        torch.from_numpy(array[rows]) for array in (starts.frames, starts.actions, starts.classes)
    )
    if options.action is not None:
        if not config.prior.num_actions:
            raise UserError(
                f"{options.checkpoint} isn't conditioned on actions: leave --action out"
            )
        taken = action_sequence(config.actions, options.action, actions.shape[1])
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
    save_futures(shown, options, checkpoint.world.fps)


def _class(config: VideoGPTConfig, options: Sample) -> int:
    names = config.class_names
    if not config.prior.on_class:
        raise UserError(f"{options.checkpoint} takes no class: leave --class out")
    if options.class_name not in names:
        known = ", ".join(names)
        raise UserError(f"unknown class {options.class_name!r}; the known ones are: {known}")
    return names.index(options.class_name)


if __name__ == "__main__":
    main()
