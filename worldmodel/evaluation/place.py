"""Where the dream thinks it is, against where the game was under the same actions."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import UserError
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import HeldOut
from worldmodel.evaluation.tables import Blocks, Table, interval
from worldmodel.interface.pose import PoseSpec
from worldmodel.metrics.pictures import (
    psnr_difference,
    psnr_interval,
    squared_errors,
)
from worldmodel.metrics.statistics import median_interval

STEPS_AHEAD = (1, 4, 8, 16, 32, 64, 100, 150, 200, 300)
FEWEST_EPISODES = 8  # that are long enough for the farthest step
DRAWN_PATHS = 6
READING = (
    "Whether the dream stays in its place. Pose error: how far the predicted pose has gone from "
    "the recorded one. Pictures, above copying the last given frame: of the dream as it goes, and "
    "of one that is told the recorded poses, which says what the dream knows of the place. A dream "
    "that only knew places would hold its line however far ahead."
)


def measure_place(held_out: HeldOut, out: Path) -> dict[str, Any]:
    """Errors of the predicted poses, and of pictures under predicted and under recorded poses, up
    to STEPS_AHEAD. Writes place.png: paths of game and dream.

    Raises:
        UserError: no test episode is long enough.
    """
    far = _far_ahead(held_out)
    given, spec = far.num_given, far.model.config.pose
    poses = far.clips.pose[:, given:]
    told = far.dream(far.actions, what="dreaming along recorded poses", poses=poses)
    errors = {
        "one": squared_errors(far.plain(far.dreams), far.real),
        "told": squared_errors(far.plain(told), far.real),
        "copy": squared_errors(
            np.broadcast_to(far.clips.frames[:, given - 1, None], far.real.shape), far.real
        ),
    }
    off, turned = pose_errors(spec, far.dreams.pose, poses)
    steps = [k for k in STEPS_AHEAD if k <= far.settings.horizon]
    groups, seed = far.episodes, far.settings.seed
    plots.draw_paths(out / "place.png", far.clips.pose, far.dreams.pose[:DRAWN_PATHS], given)

    def at(measure: Any, *arrays: np.ndarray) -> dict[int, Any]:
        return {k: measure(*(a[:, k - 1] for a in arrays), groups, seed=seed) for k in steps}

    return {
        "num_clips": len(far),
        "num_episodes": len(np.unique(groups)),
        "num_given": given,
        "names": list(spec.position),
        "off": at(median_interval, off),
        "off_90": {k: float(np.quantile(off[:, k - 1], 0.9)) for k in steps},
        "turned": None if turned is None else at(median_interval, turned),
        "psnr": {name: at(psnr_interval, of) for name, of in errors.items()},
        "over_copy": {
            name: at(psnr_difference, errors[name], errors["copy"]) for name in ("one", "told")
        },
    }


def pose_errors(
    spec: PoseSpec, poses: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Distances (...) between poses (..., P), in the units of the position; and, where there is a
    heading, the degrees between them."""
    position = len(spec.position)
    off = np.linalg.norm((poses - truth)[..., :position], axis=-1)
    if spec.heading is None:
        return off, None
    turned = spec.radians(poses) - spec.radians(truth)
    turned = (turned + math.pi) % (2 * math.pi) - math.pi
    return off, np.degrees(np.abs(turned))


def _far_ahead(held_out: HeldOut) -> HeldOut:
    """Clips that go as far as STEPS_AHEAD, or as the data do."""
    reader, given = held_out.reader, held_out.num_given
    told = [i for i in reader.split("test") if np.isfinite(reader.steps(int(i))["pose"]).all()]
    if not told:
        raise UserError(f"{reader.folder}: no test episode tells its pose")
    longest = np.sort(reader.index["episode_length"][told])[::-1]
    reached = int(longest[min(FEWEST_EPISODES, len(longest)) - 1]) + 1 - given
    if reached < 1:
        raise UserError(f"{reader.folder}: no test episode is longer than {given} frames")
    horizon = min(STEPS_AHEAD[-1], reached)
    settings = replace(held_out.settings, horizon=horizon)
    return HeldOut(held_out.model, reader, settings, with_pose=True)


def place_blocks(n: dict[str, Any]) -> Blocks:
    steps = list(n["off"])
    rows = [
        [
            f"pose error, median, units of {', '.join(n['names'])}",
            *[interval(n["off"][k], 1) for k in steps],
        ],
        ["pose error, 90th percentile", *[f"{n['off_90'][k]:.1f}" for k in steps]],
    ]
    if n["turned"] is not None:
        rows.append(
            ["heading error, median, degrees", *[interval(n["turned"][k], 1) for k in steps]]
        )
    for name, title in (("one", "dream"), ("told", "dream told the recorded poses")):
        rows += [
            [f"{title}, PSNR, dB", *[interval(n["psnr"][name][k], 1) for k in steps]],
            [
                f"{title}, over copying, dB",
                *[interval(n["over_copy"][name][k], 1) for k in steps],
            ],
        ]
    return [
        Table(["at steps ahead", *steps], rows),
        f"{n['num_clips']} clips of {n['num_episodes']} test episodes, {n['num_given']} frames "
        "given; one dream of each, drawn by the decoder that learned the squared error.",
    ]
