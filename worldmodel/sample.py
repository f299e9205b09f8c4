"""Sample possible futures: python -m worldmodel.sample dream-doom --out futures.gif

Several futures of each of a checkpoint's starts. Given frames have a red border. A .png holds
frames side by side, a .gif or .mp4 moves.

    one start, many futures               --starts 3 --futures 8
    one action sequence, many worlds      --starts 0 1 2 3 --futures 1 --action right:8,forward
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from worldmodel import randomness
from worldmodel.checkpoint import Checkpoint, Starts, find_kind, load_checkpoint, read_world
from worldmodel.command import check_numbers, parse_options, run_command
from worldmodel.data import Clips
from worldmodel.evaluation.dreaming import dream_on
from worldmodel.evaluation.futures import (
    FuturesOptions,
    check_options,
    check_size,
    save_futures,
    start_rows,
)
from worldmodel.evaluation.held_out import wander
from worldmodel.interface.actions import ActionSpec, action_sequence
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.media.film import coloured, framed
from worldmodel.storage.files import refuse_existing

SHOWN_GIVEN = 4  # given frames in a .png
SHOWN_DREAMED = 12  # dreamed frames in a .png, spread evenly


@dataclass(frozen=True)
class Sample(FuturesOptions):
    """Sample several futures of a checkpoint's starts."""

    steps: int = 32
    """Length of a dream."""
    action: str | None = None
    """An action to repeat, by name or number, or a sequence: right:8,forward. By default random
    actions, each held for a while."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How dreams are sampled."""


def main() -> None:
    options = parse_options(Sample, "worldmodel.sample", __doc__)
    run_command(lambda: sample(options))


def sample(options: Sample) -> None:
    """Sample dreams as the options say.

    Raises:
        UserError: the checkpoint is missing or damaged, an option is out of range, or the file
            exists.
    """
    refuse_existing(options.out, overwrite=options.overwrite)
    clips = ("worldmodel.videogpt.sample", options.checkpoint, "--out", str(options.out))
    folder = find_kind(options.checkpoint, Checkpoint.kind, *clips)
    check_options(options)
    check_numbers(options, steps=1)
    sampling = options.sampling.applied_to(read_world(str(folder)).sampling)
    _sample(load_checkpoint(str(folder), device=options.device), options, sampling)


def _sample(checkpoint: Checkpoint, options: Sample, sampling: Sampling) -> None:
    steps, config = options.steps, checkpoint.model.config
    check_size(options, steps, config.tokenizer.frame_shape)
    starts = _begin(checkpoint.starts, options)
    given, num_dreams = starts.frames.shape[1], len(starts.frames)
    dreamed = dream_on(
        checkpoint.model,
        starts,
        given,
        _actions(config.actions, options, num_dreams),
        rng=randomness.generator(options.seed, "samples"),
        sampling=sampling,
    )
    known, frames = coloured(starts.frames), coloured(dreamed.frames)
    if options.out.suffix == ".png":
        at = np.linspace(0, steps - 1, min(steps, SHOWN_DREAMED)).round()
        known, frames = known[:, -SHOWN_GIVEN:], frames[:, at.astype(int)]
    save_futures(np.concatenate([framed(known), frames], 1), options, checkpoint.world.fps)


def _begin(starts: Starts, options: Sample) -> Clips:
    rows = start_rows(len(starts), options)
    nothing = np.zeros((len(rows), starts.actions.shape[1]), np.float32)
    return Clips(
        frames=starts.frames[rows],
        action=starts.actions[rows],
        reward=nothing,
        terminated=nothing.astype(bool),
        variables=starts.variables[rows],
        pose=starts.poses[rows],
    )


def _actions(spec: ActionSpec, options: Sample, num_dreams: int) -> np.ndarray:
    """(num_dreams, steps, *shape)"""
    if options.action is not None:
        return np.tile(action_sequence(spec, options.action, options.steps), (num_dreams, 1))
    rng = randomness.generator(options.seed, "wandering")
    if options.same_actions:
        return wander(rng, spec, 1, options.steps).repeat(num_dreams, 0)
    return wander(rng, spec, num_dreams, options.steps)


if __name__ == "__main__":
    main()
