"""The pictures of a report: curves with their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from worldmodel.metrics import Calibration, Interval

HORIZON_NAMES = {
    "ceiling": "the tokenizer's own picture of the real frame",
    "best": "dream, best sample",
    "mean": "dream, mean over samples",
    "one": "dream, one sample",
    "copy": "copying the last given frame",
}


def draw_horizon(path: Path, curves: Mapping[str, Mapping[int, Interval]]) -> None:
    """PSNR over steps ahead, one curve for each of HORIZON_NAMES."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, title in HORIZON_NAMES.items():
        steps = list(curves[name])
        axes.plot(steps, [curves[name][s].value for s in steps], label=title)
        axes.fill_between(
            steps,
            [curves[name][s].low for s in steps],
            [curves[name][s].high for s in steps],
            alpha=0.15,
        )
    axes.set(
        xlabel="steps ahead",
        ylabel="PSNR of the mean squared error, dB",
        title="Dreams against the real future, same actions (95 % intervals)",
    )
    axes.legend(fontsize="small")
    _save(figure, path)


def draw_stability(
    path: Path,
    names: Sequence[str],
    real: np.ndarray,
    dreamed: np.ndarray,
    block_steps: int,
) -> None:
    """Each statistic over a long dream, beside the 5th to 95th percentile of real blocks as the
    tokenizer gives them back.

    Args:
        names: of S statistics.
        real: (real blocks, S).
        dreamed: (dreams, blocks, S).
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    steps = (np.arange(dreamed.shape[1]) + 1) * block_steps
    for s, (name, axes) in enumerate(zip(names, figure.subplots(2, 2).flat, strict=True)):
        low, high = np.quantile(real[:, s], (0.05, 0.95))
        axes.axhspan(
            low, high, color="tab:green", alpha=0.2, label="real, reconstructed, 5 to 95 %"
        )
        axes.plot(steps, dreamed[:, :, s].T, color="tab:blue", alpha=0.35, linewidth=0.8)
        axes.plot(steps, dreamed[:, :, s].mean(0), color="tab:blue", label="dreams, and their mean")
        axes.set(title=name.replace("_", " "), xlabel="step", ylim=(0, None))
    figure.axes[0].legend(fontsize="small")
    _save(figure, path)


def draw_calibration(path: Path, bins: Sequence[Calibration]) -> None:
    """What share of steps ended, over the probability that was foretold."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.plot([b.mean_probability for b in bins], [b.share_happened for b in bins], "o-")
    for b in bins:
        axes.annotate(f"{b.count}", (b.mean_probability, b.share_happened), fontsize="x-small")
    axes.set(
        xlabel="foretold probability of an end",
        ylabel="share that ended",
        title="Calibration of ends (steps a bin)",
    )
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
