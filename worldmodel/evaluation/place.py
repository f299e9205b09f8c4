"""The part "place": the dream's pose against the game's under the same actions."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from worldmodel.errors import UserError
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import SAMPLING_OPTIONS, HeldOut
from worldmodel.evaluation.report import Picture, Section
from worldmodel.evaluation.tables import Blocks, row, steps_table
from worldmodel.interface.pose import PoseSpec
from worldmodel.metrics.bootstrap import at_steps
from worldmodel.metrics.pictures import squared_errors
from worldmodel.metrics.statistics import Interval

OPTIONS = ("clips", *SAMPLING_OPTIONS, "batch_size")
STEPS_AHEAD = (1, 4, 8, 16, 32, 64, 100, 150, 200, 300)
FEWEST_EPISODES = 8  # that are long enough for the farthest step
DRAWN_PATHS = 6
BySteps = dict[int, Interval]


@dataclass(frozen=True)
class Place:
    """Up to STEPS_AHEAD."""

    num_clips: int
    num_episodes: int
    num_given: int
    names: list[str]
    """Of the position's coordinates."""
    pose_error: BySteps
    """Distance of the dream's position from the recorded one, median."""
    pose_error_90: dict[int, float]
    """Its 90th percentile."""
    heading_error: BySteps | None
    """In degrees, median; None without a heading."""
    psnr: dict[str, BySteps]
    """"free" is a dream as it goes, "posed" one with the recorded poses, "copy" the last given
    frame."""
    over_copy: dict[str, BySteps]
    """PSNR of dreams less that of copying."""


def measure(held_out: HeldOut, out: Path) -> Place:
    """Raises UserError where no test episode is long enough."""
    far = _far_ahead(held_out)
    given, spec, boot = far.num_given, far.model.config.pose, far.bootstrap
    poses = far.clips.pose[:, given:]
    posed = far.dream(far.actions, what="dreaming along recorded poses", poses=poses)
    shown = {"free": far.plain(far.dreams), "posed": far.plain(posed), "copy": far.last_given}
    errors = {name: squared_errors(frames, far.real) for name, frames in shown.items()}
    off, turned = pose_errors(spec, far.dreams.pose, poses)
    steps = [k for k in STEPS_AHEAD if k <= far.settings.horizon]
    _draw(out / "place.png", far.clips.pose, far.dreams.pose[:DRAWN_PATHS], given)
    return Place(
        num_clips=len(far),
        num_episodes=len(np.unique(far.episodes)),
        num_given=given,
        names=list(spec.position),
        pose_error=at_steps(boot.median, off, steps=steps),
        pose_error_90={k: float(np.quantile(off[:, k - 1], 0.9)) for k in steps},
        heading_error=None if turned is None else at_steps(boot.median, turned, steps=steps),
        psnr={name: at_steps(boot.psnr, of, steps=steps) for name, of in errors.items()},
        over_copy={
            name: at_steps(boot.psnr_gain, errors[name], errors["copy"], steps=steps)
            for name in ("free", "posed")
        },
    )


def pose_errors(
    spec: PoseSpec, poses: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Distances (...) between poses (..., P), in the units of the position; and, where there is a
    heading, the degrees between them."""
    off = np.linalg.norm((poses - truth)[..., : len(spec.position)], axis=-1)
    if spec.heading is None:
        return off, None
    turned = (spec.radians(poses) - spec.radians(truth) + math.pi) % (2 * math.pi) - math.pi
    return off, np.degrees(np.abs(turned))


def _far_ahead(held_out: HeldOut) -> HeldOut:
    """Clips that go as far as STEPS_AHEAD, or as the data do."""
    reader, given = held_out.reader, held_out.num_given
    posed = [i for i in reader.split("test") if np.isfinite(reader.steps(int(i))["pose"]).all()]
    if not posed:
        raise UserError(f"{reader.folder}: no test episode has poses")
    reached = np.sort(reader.index["episode_length"][posed] + 1 - given)[::-1]
    reached = reached[reached > 0]
    if not len(reached):
        raise UserError(f"{reader.folder}: no test episode is longer than {given} frames")
    farthest = int(reached[min(FEWEST_EPISODES, len(reached)) - 1])
    settings = replace(held_out.settings, horizon=min(STEPS_AHEAD[-1], farthest))
    return HeldOut(held_out.model, reader, settings, with_pose=True)


def _draw(path: Path, recorded: np.ndarray, dreamed: np.ndarray, num_given: int) -> None:
    """Paths of game and dream from above, a panel for each of the first m clips.

    Args:
        recorded: poses (n, T, P); all are drawn in grey, as a floor plan.
        dreamed: poses (m, T - num_given, P).
    """
    num_rows, columns = -(-len(dreamed) // 3), 3
    figure = Figure(figsize=(9, 3.2 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, columns, squeeze=False).ravel()
    plane = (0, min(1, recorded.shape[-1] - 1))
    for axes in panels:
        axes.set_axis_off()
    for axes, real, dream in zip(panels, recorded, dreamed, strict=False):
        axes.plot(*recorded[..., plane].reshape(-1, 2).T, ",", color="0.8")
        real = real[num_given - 1 :, plane]
        axes.plot(*real.T, color="tab:orange", label="game")
        path_of_dream = np.concatenate([real[:1], dream[:, plane]])
        axes.plot(*path_of_dream.T, color="tab:blue", label="dream")
        axes.plot(*real[:1].T, "o", color="black", markersize=3)
        axes.set_aspect("equal")
    figure.axes[0].legend(fontsize="small")
    plots.save(figure, path)


def blocks(n: Place) -> Blocks:
    position = f"pose error, median, units of {', '.join(n.names)}"
    shown = steps_table("at steps ahead", {position: n.pose_error}, 1)
    tail = [f"{of:.1f}" for of in n.pose_error_90.values()]
    shown.rows.append(["pose error, 90th percentile", *tail])
    if n.heading_error is not None:
        shown.rows.append(row("heading error, median, degrees", n.heading_error, 1))
    for name, title in (("free", "dream"), ("posed", "dream with the recorded poses")):
        shown.rows.append(row(f"{title}, PSNR, dB", n.psnr[name], 1))
        shown.rows.append(row(f"{title}, over copying, dB", n.over_copy[name], 1))
    return [
        shown,
        f"{n.num_clips} clips of {n.num_episodes} test episodes, {n.num_given} frames given; one "
        "dream of each, by the tokenizer's decoder, which was trained on the squared error.",
    ]


SECTION = Section(
    blocks,
    "Whether the dream stays in its place. Pose error: how far the predicted pose is from the "
    "recorded one. PSNR over copying the last given frame: of the dream as it goes, and of one "
    "with the recorded poses, which shows what the model knows of the level: with perfect "
    "knowledge its line would stay level however far ahead.",
    (Picture("place.png", "Paths of game and dream under the same actions, from above"),),
    numbers=Place,
)
