"""Where players were, drawn from above."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from worldmodel.interface.pose import PoseSpec

BINS = 160  # along the longer side
INCHES = 6.0


def draw_floor_plan(path: Path, spec: PoseSpec, poses: np.ndarray) -> None:
    """Draw how often players were where, by their first two coordinates.

    Args:
        path: of a .png.
        poses: (N, P), N at least 1.

    Raises:
        OSError: the picture can't be written.
    """
    x, y = poses[:, 0], poses[:, min(1, poses.shape[1] - 1)]
    spans = max(float(np.ptp(x)), 1e-6), max(float(np.ptp(y)), 1e-6)
    bins = [max(1, round(BINS * span / max(spans))) for span in spans]
    figure = Figure(figsize=(INCHES, INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts, x_edges, y_edges = np.histogram2d(x, y, bins)
    mesh = axes.pcolormesh(
        x_edges, y_edges, np.where(counts > 0, counts, np.nan).T, norm=LogNorm(), cmap="viridis"
    )
    figure.colorbar(mesh, ax=axes, shrink=0.7, label="frames")
    axes.set_aspect("equal")
    axes.set_xlabel(spec.names[0])
    axes.set_ylabel(spec.names[min(1, len(spec) - 1)])
    axes.set_title(f"where players were, {len(poses):,} frames")
    figure.savefig(path, dpi=120)
