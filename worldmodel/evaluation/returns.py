"""The part "returns": whether things are still where they were when a player comes back.

Recorded players look away and back, walk out and back, and around. The dream follows their actions;
when they are back, its frame is compared with the recorded one.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel import randomness
from worldmodel.data import Clips, EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.dreaming import dream_on
from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut
from worldmodel.evaluation.report import Picture, Section
from worldmodel.evaluation.tables import Blocks, Table, interval
from worldmodel.interface.pose import PoseSpec
from worldmodel.media.film import save_png, sheet
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.pictures import squared_errors
from worldmodel.metrics.statistics import Interval

OPTIONS = DREAM_OPTIONS
STEPS_AWAY = ((3, 6), (7, 12), (13, 24), (25, 48))  # fewest and most, while the view was elsewhere
MOST_STEPS = 96  # from a moment to its return
BACK = (1 / 48, math.radians(12))  # closer, in sizes of the level, and turned less
AWAY = (1 / 12, math.radians(60))  # farther, or turned more
TURNED_ONLY = 1 / 24  # sizes of the level: farther counts as walking
MOST_RETURNS = 32  # of a kind and length
APART = 12  # steps between two moments of one episode
SHOWN_RETURNS = 8


@dataclass(frozen=True)
class Return:
    """A moment of an episode, and the later one at which its player is back."""

    episode: int
    moment: int
    back: int
    steps_away: int
    walked: bool


@dataclass(frozen=True)
class OfReturns:
    """PSNR against the recorded return."""

    num_returns: int
    steps: float
    """From moment to return, median."""
    start: Interval
    """Of the recorded frame at the start."""
    free: Interval
    """Of a dream as it goes."""
    posed: Interval
    """Of a dream with the recorded poses."""


@dataclass(frozen=True)
class Returns:
    kinds: dict[str, dict[str, OfReturns]]
    """"turned" or "walked", then by how many steps the view was elsewhere."""
    num_given: int


def find_returns(
    spec: PoseSpec, poses: np.ndarray, *, episode: int, first: int, size: float
) -> list[Return]:
    """Where a player comes back.

    Args:
        poses: (T, P), of an episode.
        episode: its number, for the result.
        first: no moment lies before it.
        size: of the level, in units of the position.
    """
    found, free_from = [], first
    position, heading = poses[:, : len(spec.position)], spec.radians(poses)
    for t in range(first, len(poses) - 2):
        if t < free_from:
            continue
        later = slice(t + 1, t + 1 + MOST_STEPS)
        off = np.linalg.norm(position[later] - position[t], axis=1) / size
        turned = np.abs((heading[later] - heading[t] + math.pi) % (2 * math.pi) - math.pi)
        away = (off > AWAY[0]) | (turned > AWAY[1])
        back = (off < BACK[0]) & (turned < BACK[1])
        after = np.flatnonzero(back & (np.cumsum(away) >= STEPS_AWAY[0][0]))
        if len(after):
            n = int(after[0])
            walked = bool((off[:n] > TURNED_ONLY).any())
            found.append(Return(episode, t, t + 1 + n, int(away[:n].sum()), walked))
            free_from = t + APART
    return found


def measure(held_out: HeldOut, out: Path) -> Returns:
    everything = _recorded_returns(held_out)
    rng = randomness.generator(held_out.settings.seed, "returns")
    kinds: dict[str, dict[str, OfReturns]] = {"turned": {}, "walked": {}}
    rows: list[np.ndarray] = []
    for kind, of_kind in kinds.items():
        for fewest, most in STEPS_AWAY:
            fitting = [
                r
                for r in everything
                if r.walked == (kind == "walked") and fewest <= r.steps_away <= most
            ]
            chosen = [fitting[i] for i in rng.permutation(len(fitting))[:MOST_RETURNS]]
            if chosen:
                of_kind[f"{fewest} to {most}"], example = _measure(held_out, chosen, rng)
                rows.append(example)
    if rows:
        save_png(out / "returns.png", sheet(rows[:SHOWN_RETURNS], scale=2))
    return Returns(kinds, held_out.num_given)


def _recorded_returns(held_out: HeldOut) -> list[Return]:
    reader, spec = held_out.reader, held_out.model.config.pose
    poses = {int(i): reader.steps(int(i))["pose"] for i in reader.split("test")}
    poses = {i: pose for i, pose in poses.items() if np.isfinite(pose).all()}
    if not poses:
        raise UserError(f"{reader.folder}: no test episode has poses")
    position = np.concatenate(list(poses.values()))[:, : len(spec.position)]
    size, first = float(np.ptp(position, axis=0).max()), held_out.num_given - 1
    return [
        found
        for i, of in poses.items()
        for found in find_returns(spec, of, episode=i, first=first, size=size)
    ]


def _measure(
    held_out: HeldOut, chosen: list[Return], rng: np.random.Generator
) -> tuple[OfReturns, np.ndarray]:
    """Numbers of returns of one kind and length, and frames of the first one."""
    given, reader = held_out.num_given, held_out.reader
    steps = np.array([r.back - r.moment for r in chosen])
    clips, actions, poses = _clips(reader, chosen, given, int(steps.max()))
    sampling = held_out.settings.sampling
    free, posed = (
        dream_on(held_out.model, clips, given, actions, rng=rng, sampling=sampling, poses=where)
        for where in (None, poses)
    )
    real = np.stack([reader.frames(r.episode, r.back, r.back + 1)[0] for r in chosen])
    start, end = clips.frames[:, -1], (np.arange(len(chosen)), steps - 1)
    half = (int(steps[0]) - 1) // 2
    halfway = chosen[0].moment + 1 + half
    away = reader.frames(chosen[0].episode, halfway, halfway + 1)[0]
    boot = Bootstrap(np.array([r.episode for r in chosen]), held_out.settings.seed)
    numbers = OfReturns(
        num_returns=len(chosen),
        steps=float(np.median(steps)),
        start=boot.psnr(squared_errors(start, real)),
        free=boot.psnr(squared_errors(held_out.plain(free)[end], real)),
        posed=boot.psnr(squared_errors(held_out.plain(posed)[end], real)),
    )
    shown = [start[0], away, free.frames[0, half], real[0], free.frames[0, steps[0] - 1]]
    return numbers, np.stack(shown)


def _clips(
    reader: EpisodeReader, chosen: list[Return], given: int, num_steps: int
) -> tuple[Clips, np.ndarray, np.ndarray]:
    """The frames before each moment, the moment's last; then actions and poses, those of the
    return repeated after it."""
    parts: dict[str, list[np.ndarray]] = {}
    for r in chosen:
        steps = reader.steps(r.episode)
        frames = slice(r.moment + 1 - given, r.moment + 1)
        before = slice(frames.start, r.moment)
        later = np.minimum(np.arange(num_steps) + r.moment, r.back - 1)
        for name, part in {
            "frames": reader.frames(r.episode, frames.start, frames.stop),
            **{name: steps[name][before] for name in ("action", "reward", "terminated")},
            **{name: steps[name][frames] for name in ("variables", "pose")},
            "actions": steps["action"][later],
            "poses": steps["pose"][later + 1],
        }.items():
            parts.setdefault(name, []).append(part)
    stacked = {name: np.stack(arrays) for name, arrays in parts.items()}
    actions, poses = stacked.pop("actions"), stacked.pop("poses")
    return Clips(**stacked), actions, poses


def blocks(n: Returns) -> Blocks:
    rows = [
        [
            f"{kind} away and back, {steps} steps elsewhere",
            str(of.num_returns),
            f"{of.steps:.0f}",
            *[interval(psnr, 1) for psnr in (of.free, of.posed, of.start)],
        ]
        for kind, lengths in n.kinds.items()
        for steps, of in lengths.items()
    ]
    header = ["PSNR against the recorded return, dB", "returns", "steps in all, median"]
    return [
        Table([*header, "dream", "dream with the poses", "the recorded start"], rows),
        "Test episodes whose player comes back to within a 48th of the level and 12 degrees; "
        f"{n.num_given} frames before are given. returns.png: the recorded start and, halfway, "
        "the recorded and the dreamed frame; the recorded return and the dream's. By the "
        "tokenizer's decoder, which was trained on the squared error.",
    ]


SECTION = Section(
    blocks,
    "Whether rooms stay the same while the player looks elsewhere. The recorded start shows how "
    "alike the recorded frames before and after are, though time has passed. A dream that "
    "remembers comes near it; one that forgets falls to what any two frames have in common.",
    (
        Picture(
            "returns.png",
            "A row each: recorded start; halfway recorded, dreamed; return recorded, dreamed",
        ),
    ),
    numbers=Returns,
)
