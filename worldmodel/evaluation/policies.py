"""The part "policies": dreams and likelihood by player; habits make a future easier to predict."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut
from worldmodel.evaluation.report import Section
from worldmodel.evaluation.tables import Blocks, Table, interval, row
from worldmodel.metrics.bootstrap import at_steps
from worldmodel.metrics.pictures import squared_errors
from worldmodel.metrics.statistics import Interval

OPTIONS = DREAM_OPTIONS
STEPS_AHEAD = (1, 8, 16, 32)


@dataclass(frozen=True)
class Policy:
    num_clips: int
    num_episodes: int
    nats_a_token: Interval
    """Of the next frame, given the real past."""
    psnr: dict[int, Interval]
    """Of one dream of each clip, by steps ahead."""
    over_copy: dict[int, Interval]
    """The same less that of copying the last given frame."""


@dataclass(frozen=True)
class Policies:
    steps: list[int]
    policies: dict[str, Policy]


def measure(held_out: HeldOut, out: Path) -> Policies:
    one = squared_errors(held_out.plain(held_out.dreams), held_out.real)
    copy = squared_errors(held_out.last_given, held_out.real)
    nats = held_out.predicted.steps(held_out.future).nats.mean(1)
    steps = [k for k in STEPS_AHEAD if k <= one.shape[1]]
    found = {}
    for policy, rows in held_out.policies.items():
        boot = held_out.bootstrap.of(rows)
        found[policy] = Policy(
            num_clips=len(rows),
            num_episodes=len(np.unique(boot.episodes)),
            nats_a_token=boot.mean(nats[rows]),
            psnr=at_steps(boot.psnr, one[rows], steps=steps),
            over_copy=at_steps(boot.psnr_gain, one[rows], copy[rows], steps=steps),
        )
    return Policies(steps, found)


def blocks(n: Policies) -> Blocks:
    over, psnr = [], []
    for name, of in n.policies.items():
        counts = [name, str(of.num_clips), str(of.num_episodes)]
        over.append([*counts, interval(of.nats_a_token), *row("", of.over_copy, 1)[1:]])
        psnr.append([*counts, *row("", of.psnr, 1)[1:]])
    steps = [str(k) for k in n.steps]
    header = ["dream over copying, dB, at steps ahead", "clips", "episodes", "nats a token"]
    return [
        Table([*header, *steps], over),
        Table(["PSNR of the dream, dB, at steps ahead", "clips", "episodes", *steps], psnr),
        "One dream of each clip; nats a token given the real past; intervals by resampling a "
        "policy's episodes.",
    ]


SECTION = Section(
    blocks,
    "The same by player: habits are easier to predict than random actions, and whoever trains "
    "agents in the dream meets both.",
    numbers=Policies,
)
