"""Whether things are where they were when one comes back to them.

Recorded players look away and back, walk out and back, and around: the dream is taken along under
their actions, and when they return, its picture is held against the recorded one.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import randomness
from worldmodel.data import Clips, EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.dreaming import dream_on
from worldmodel.evaluation.held_out import HeldOut
from worldmodel.evaluation.tables import Blocks, Table, interval
from worldmodel.interface.pose import PoseSpec
from worldmodel.media.film import save_png, sheet
from worldmodel.metrics.pictures import psnr_interval, squared_errors

STEPS_AWAY = ((3, 6), (7, 12), (13, 24), (25, 48))  # fewest and most, while the view was elsewhere
MOST_STEPS = 96  # from a moment to its return
BACK = (1 / 48, math.radians(12))  # so near, in sizes of the level, and so little turned
AWAY = (1 / 12, math.radians(60))  # so far, or turned so much
TURNED_ONLY = 1 / 24  # sizes of the level: farther, and one has walked
MOST_RETURNS = 32  # of a kind and length
APART = 12  # steps between two moments of one episode
SHOWN_RETURNS = 8
READING = (
    "Whether rooms stay while one looks elsewhere. The recorded return: how alike the recorded "
    "frames before and after are, though time has passed. A dream that remembers comes near the "
    "recorded return; one that forgets falls to what any two frames have in common."
)


@dataclass(frozen=True)
class Return:
    """A moment of an episode, and the later one at which its player is back."""

    episode: int
    moment: int
    back: int
    steps_away: int
    walked: bool


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
        if not away.any():
            continue
        after = np.flatnonzero(back & (np.cumsum(away) >= STEPS_AWAY[0][0]))
        if len(after):
            n = int(after[0])
            walked = bool((off[:n] > TURNED_ONLY).any())
            found.append(Return(episode, t, t + 1 + n, int(away[:n].sum()), walked))
            free_from = t + APART
    return found


def measure_returns(held_out: HeldOut, out: Path) -> dict[str, Any]:
    """PSNR of the dream's return against the recorded one, by how long the view was elsewhere.
    Writes returns.png."""
    reader, given = held_out.reader, held_out.num_given
    everything = _recorded_returns(reader, held_out.model.config.pose, given)
    rng = randomness.generator(held_out.settings.seed, "returns")
    kinds: dict[str, Any] = {}
    rows: list[np.ndarray] = []
    for walked, name in ((False, "turned"), (True, "walked")):
        kinds[name] = {}
        for fewest, most in STEPS_AWAY:
            fitting = [
                r for r in everything if r.walked == walked and fewest <= r.steps_away <= most
            ]
            chosen = [fitting[i] for i in rng.permutation(len(fitting))[:MOST_RETURNS]]
            if chosen:
                kinds[name][f"{fewest} to {most}"] = _measured(held_out, chosen, rng, rows)
    if rows:
        save_png(out / "returns.png", sheet(rows[:SHOWN_RETURNS], scale=2))
    return {"kinds": kinds, "num_given": given}


def _recorded_returns(reader: EpisodeReader, spec: PoseSpec, given: int) -> list[Return]:
    members = reader.split("test")
    told = {int(i): reader.steps(int(i))["pose"] for i in members}
    poses = {i: pose for i, pose in told.items() if np.isfinite(pose).all()}
    if not poses:
        raise UserError(f"{reader.folder}: no test episode tells its pose")
    position = np.concatenate(list(poses.values()))[:, : len(spec.position)]
    size = float(np.ptp(position, axis=0).max())
    found = []
    for i, of in poses.items():
        found += find_returns(spec, of, episode=i, first=given - 1, size=size)
    return found


def _measured(
    held_out: HeldOut, chosen: list[Return], rng: np.random.Generator, rows: list[np.ndarray]
) -> dict[str, Any]:
    """Of returns of one kind and length; the first is drawn into `rows`."""
    given, reader = held_out.num_given, held_out.reader
    steps = np.array([r.back - r.moment for r in chosen])
    clips, actions, poses = _clips(reader, chosen, given, int(steps.max()))
    everyone = np.arange(len(chosen))
    sampling = held_out.settings.sampling
    one, told = (
        dream_on(held_out.model, clips, given, actions, rng=rng, sampling=sampling, poses=where)
        for where in (None, poses)
    )
    real = np.stack([reader.frames(r.episode, r.back, r.back + 1)[0] for r in chosen])
    start = clips.frames[:, -1]
    seen = {"start": start, "one": held_out.plain(one), "told": held_out.plain(told)}
    frames = {name: of[everyone, steps - 1] if of.ndim == 5 else of for name, of in seen.items()}
    middle = one.frames[0, (steps[0] - 1) // 2]
    halfway = chosen[0].moment + 1 + (int(steps[0]) - 1) // 2
    away = reader.frames(chosen[0].episode, halfway, halfway + 1)[0]
    rows.append(np.stack([start[0], away, middle, real[0], one.frames[0, steps[0] - 1]]))
    groups, seed = np.array([r.episode for r in chosen]), held_out.settings.seed
    return {
        "num_returns": len(chosen),
        "steps": float(np.median(steps)),
        **{
            name: psnr_interval(squared_errors(of, real), groups, seed=seed)
            for name, of in frames.items()
        },
    }


def _clips(
    reader: EpisodeReader, chosen: list[Return], given: int, num_steps: int
) -> tuple[Clips, np.ndarray, np.ndarray]:
    """The frames before each moment, the moment's last; then actions and poses, those of the
    return repeated after it."""
    parts: dict[str, list[np.ndarray]] = {}
    for r in chosen:
        steps = reader.steps(r.episode)
        before, frames = slice(r.moment + 1 - given, r.moment), r.moment + 1
        later = np.minimum(np.arange(num_steps) + r.moment, r.back - 1)
        for name, part in {
            "frames": reader.frames(r.episode, r.moment + 1 - given, frames),
            "action": steps["action"][before],
            "reward": steps["reward"][before],
            "terminated": steps["terminated"][before],
            "variables": steps["variables"][r.moment + 1 - given : frames],
            "pose": steps["pose"][r.moment + 1 - given : frames],
            "actions": steps["action"][later],
            "poses": steps["pose"][later + 1],
        }.items():
            parts.setdefault(name, []).append(part)
    stacked = {name: np.stack(arrays) for name, arrays in parts.items()}
    actions, poses = stacked.pop("actions"), stacked.pop("poses")
    return Clips(**stacked), actions, poses


def returns_blocks(n: dict[str, Any]) -> Blocks:
    rows = []
    for name, title in (("turned", "turned away and back"), ("walked", "walked away and back")):
        for steps, of in n["kinds"][name].items():
            rows.append(
                [
                    f"{title}, {steps} steps elsewhere",
                    str(of["num_returns"]),
                    f"{of['steps']:.0f}",
                    interval(of["one"], 1),
                    interval(of["told"], 1),
                    interval(of["start"], 1),
                ]
            )
    return [
        Table(
            [
                "PSNR against the recorded return, dB",
                "returns",
                "steps in all, median",
                "dream",
                "dream told the poses",
                "the recorded start",
            ],
            rows,
        ),
        "Test episodes whose player comes back to within a 48th of the level and 12 degrees; "
        f"{n['num_given']} frames before are given. returns.png: the recorded start and, halfway, "
        "the recorded and the dreamed frame; the recorded return and the dream's. Drawn by the "
        "decoder that learned the squared error.",
    ]
