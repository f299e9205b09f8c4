"""Draw what could happen next: python -m worldmodel.sample dream-doom --out futures.gif

From each start of a checkpoint, several futures. Given frames have a red border, as in the
paper. A .png holds frames side by side, a .gif or .mp4 moves.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from worldmodel.actions import ActionSpec
from worldmodel.checkpoint import CheckpointError, Starts, load_checkpoint
from worldmodel.data import Clips
from worldmodel.evaluation.held_out import dream_on, wander
from worldmodel.film import SAVERS, enlarged, framed, grid, save_gif, save_mp4, save_png, sheet
from worldmodel.prior.sampling import Sampling

SHOWN_GIVEN = 4  # given frames in a .png
SHOWN_DREAMED = 12  # dreamed frames in a .png, spread evenly


class SampleError(ValueError):
    """An option is not usable; the message says what to do."""


@dataclass(frozen=True)
class Sample:
    """Draw several futures of a checkpoint's starts."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A shipped name, a folder, or a Hugging Face Hub id."""
    out: Path
    """What to write; ends in .png, .gif or .mp4."""
    starts: tuple[int, ...] = (0,)
    """Numbers of the moments to begin from."""
    futures: int = 4
    """Dreams of each start."""
    steps: int = 32
    """Length of a dream."""
    action: str | None = None
    """Held all the time, by name or number; by default random ones are held for a while."""
    same_actions: bool = False
    """All futures of a start take the same actions: what differs is chance alone."""
    temperature: float = 0.8
    """0 takes the likeliest token, 1 draws from the model itself."""
    top_k: int | None = None
    """Sample each token among its k likeliest."""
    scale: int = 2
    """Pixels of the picture for a pixel of a frame."""
    seed: int = 0
    """Of actions and dreams."""


def main() -> None:
    options = tyro.cli(Sample, prog="python -m worldmodel.sample", description=__doc__)
    try:
        sample(options)
    except (CheckpointError, SampleError) as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        raise SystemExit(f"error: {options.out} can't be written: {error}") from None


def sample(options: Sample) -> None:
    """Do what `Sample` says.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        SampleError: an option is out of range.
    """
    sampling = _check(options)
    checkpoint = load_checkpoint(options.checkpoint)
    starts = _begin(checkpoint.starts, options)
    given, num_dreams = starts.frames.shape[1], len(starts.frames)
    actions = _actions(checkpoint.model.config.actions, options, num_dreams)
    dreamed = dream_on(
        checkpoint.model,
        starts,
        given,
        actions,
        rng=np.random.default_rng([options.seed, 1]),
        sampling=sampling,
    )
    known = framed(starts.frames)
    if options.out.suffix == ".png":
        at = np.linspace(0, options.steps - 1, min(options.steps, SHOWN_DREAMED)).round()
        shown = dreamed.frames[:, at.astype(int)]
        rows = np.concatenate([known[:, -SHOWN_GIVEN:], shown], 1)
        save_png(options.out, sheet(list(rows), scale=options.scale))
        return
    films = enlarged(np.concatenate([known, dreamed.frames], 1), options.scale)
    save = save_gif if options.out.suffix == ".gif" else save_mp4
    save(options.out, grid(list(films), columns=options.futures), fps=checkpoint.world.fps)


def _check(options: Sample) -> Sampling:
    if options.out.suffix not in SAVERS:
        raise SampleError(f"--out {options.out}: the name must end in {', '.join(SAVERS)}")
    for name in ("futures", "steps", "scale"):
        if getattr(options, name) < 1:
            raise SampleError(f"--{name} must be at least 1, not {getattr(options, name)}")
    if options.seed < 0:
        raise SampleError(f"--seed must be at least 0, not {options.seed}")
    try:
        return Sampling(options.temperature, options.top_k)
    except ValueError as error:
        raise SampleError(str(error)) from None


def _begin(starts: Starts, options: Sample) -> Clips:
    """The chosen starts, each as often as it has futures."""
    for start in options.starts:
        if not 0 <= start < len(starts):
            raise SampleError(f"there is no start {start}: they go from 0 to {len(starts) - 1}")
    rows = np.repeat(options.starts, options.futures)
    nothing = np.zeros((len(rows), starts.actions.shape[1]), np.float32)
    return Clips(
        frames=starts.frames[rows],
        action=starts.actions[rows],
        reward=nothing,
        terminated=nothing.astype(bool),
        variables=starts.variables[rows],
    )


def _actions(spec: ActionSpec, options: Sample, num_dreams: int) -> np.ndarray:
    """(num_dreams, steps, *shape)"""
    if options.action is not None:
        held = np.full((num_dreams, options.steps), _numbered(spec, options.action), np.int64)
        return held
    rng = np.random.default_rng([options.seed, 0])
    if not options.same_actions:
        return wander(rng, spec, num_dreams, options.steps)
    return wander(rng, spec, len(options.starts), options.steps).repeat(options.futures, 0)


def _numbered(spec: ActionSpec, action: str) -> int:
    if spec.kind != "discrete":
        raise SampleError("--action goes with worlds of one discrete action: leave it out")
    names = [*spec.meanings, *map(str, range(len(spec.meanings), spec.sizes[0]))]
    if action in names:
        return names.index(action)
    if action.isdecimal() and int(action) < spec.sizes[0]:
        return int(action)
    raise SampleError(f"unknown action {action!r}; the known ones are: {', '.join(names)}")


if __name__ == "__main__":
    main()
