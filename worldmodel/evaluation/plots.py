"""The pictures of a report: curves with their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.metrics.statistics import Calibration, Interval
from worldmodel.storage.files import written_whole

HORIZON_NAMES = {
    "ceiling": "the tokenizer's own picture of the real frame",
    "best": "dream, best sample",
    "mean": "dream, mean over samples",
    "one": "dream, one sample",
    "sharp": "the same as it is shown",
    "copy": "copying the last given frame",
}
SEEN_NAMES = {
    "prior": "prior",
    "copy": "copying the frame before, else unigram",
    "unigram": "unigram",
}
AHEAD_NAMES = {
    "prior": "prior, past dreamed",
    "teacher_forced": "prior, past real",
    "copy": "copying the last given frame, else unigram",
    "unigram": "unigram",
}
# A name has its colour in every picture.
COLOURS = {
    "ceiling": "tab:green",
    "best": "tab:purple",
    "mean": "tab:cyan",
    "one": "tab:blue",
    "sharp": "tab:red",
    "prior": "tab:blue",
    "teacher_forced": "tab:cyan",
    "copy": "tab:orange",
    "unigram": "tab:grey",
}
SURPRISE_BINS = 60


Curves = Mapping[str, Mapping[int, Interval]]


def draw_horizon(path: Path, curves: Curves, measure: str) -> None:
    """A measure over steps ahead, one curve for each of HORIZON_NAMES that there is."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    _draw_curves(axes, curves, HORIZON_NAMES)
    axes.set(
        xlabel="steps ahead",
        ylabel=measure,
        title="Dreams against the real future, same actions (95 % intervals)",
    )
    axes.legend(fontsize="small")
    _save(figure, path)


def draw_likelihood(path: Path, curves: Mapping[str, Curves]) -> None:
    """Nats a token by frames seen, and by steps ahead under a dreamed past."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_curves(left, curves["frames_seen"], SEEN_NAMES)
    left.set(xlabel="real frames seen", ylabel="nats a token", title="The next frame, real past")
    _draw_curves(right, curves["steps_ahead"], AHEAD_NAMES)
    right.set(xlabel="steps ahead", title="The real frame k steps ahead (95 % intervals)")
    for axes in (left, right):
        axes.set_ylim(0, None)
        axes.legend(fontsize="small")
    _save(figure, path)


def draw_surprise(path: Path, nats: Mapping[str, np.ndarray]) -> None:
    """How often each surprise occurs, one row a kind of frames; the line is the median.

    Args:
        nats: a token, of each frame (n,), by kind; the first kind is what others are told from.
    """
    figure = Figure(figsize=(8, 0.55 * len(nats) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(nats))[::-1]
    shared = np.histogram_bin_edges(np.concatenate(list(nats.values())), SURPRISE_BINS)
    for place, values in zip(places, nats.values(), strict=True):
        counts, edges = np.histogram(values, shared)
        heights = 0.8 * counts / counts.max()
        colour = "tab:blue" if place == places[0] else "tab:orange"
        axes.stairs(place + heights, edges, baseline=place, fill=True, color=colour, alpha=0.6)
        axes.vlines(np.median(values), place, place + 0.8, color="black", linewidth=1)
    recorded = np.median(next(iter(nats.values())))
    axes.axvline(recorded, color="tab:blue", linewidth=0.8, linestyle=":")
    axes.set_yticks(places + 0.3, list(nats))
    axes.set(xlabel="surprise, nats a token", title="Surprise of single frames", xlim=(0, None))
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
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    steps = (np.arange(dreamed.shape[1]) + 1) * block_steps
    for s, (name, axes) in enumerate(zip(names, figure.subplots(1, len(names)), strict=True)):
        low, high = np.quantile(real[:, s], (0.05, 0.95))
        axes.axhspan(
            low, high, color="tab:green", alpha=0.2, label="real, reconstructed, 5 to 95 %"
        )
        axes.plot(steps, dreamed[:, :, s].T, color="tab:blue", alpha=0.35, linewidth=0.8)
        axes.plot(steps, dreamed[:, :, s].mean(0), color="tab:blue", label="dreams, and their mean")
        axes.set(title=name.replace("_", " "), xlabel="step", ylim=(0, None))
    figure.axes[0].legend(fontsize="small")
    _save(figure, path)


def draw_paths(path: Path, recorded: np.ndarray, dreamed: np.ndarray, num_given: int) -> None:
    """Where the game went under the same actions as the dream, a panel each, from above.

    Args:
        recorded: poses of clips (n, T, P); all are drawn in grey, as the floor plan.
        dreamed: poses of the first m dreams, (m, T - num_given, P).
    """
    columns = 3
    figure = Figure(figsize=(9, 3.2 * -(-len(dreamed) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(dreamed) // columns), columns, squeeze=False).ravel()
    second = min(1, recorded.shape[-1] - 1)
    for axes in panels:
        axes.set_axis_off()
    for axes, real, dream in zip(panels, recorded, dreamed, strict=False):
        axes.plot(*recorded[..., (0, second)].reshape(-1, 2).T, ",", color="0.8")
        start = real[num_given - 1 : num_given]
        axes.plot(*real[num_given - 1 :, (0, second)].T, color="tab:orange", label="game")
        axes.plot(
            *np.concatenate([start, dream])[:, (0, second)].T, color="tab:blue", label="dream"
        )
        axes.plot(*start[:, (0, second)].T, "o", color="black", markersize=3)
        axes.set_aspect("equal")
    figure.axes[0].legend(fontsize="small")
    _save(figure, path)


def draw_calibration(path: Path, bins_of: Mapping[str, Sequence[Calibration]]) -> None:
    """What share of steps brought what was predicted, over its probability: a panel each.

    Args:
        bins_of: by what is predicted.
    """
    figure = Figure(figsize=(4.5 * len(bins_of), 4.5), layout="constrained")
    panels = figure.subplots(1, len(bins_of), squeeze=False)[0]
    for axes, (what, bins) in zip(panels, bins_of.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.plot([b.mean_probability for b in bins], [b.share_happened for b in bins], "o-")
        for b in bins:
            axes.annotate(f"{b.count}", (b.mean_probability, b.share_happened), fontsize="x-small")
        axes.set(
            xlabel="predicted probability",
            ylabel="share of steps that brought it",
            title=f"{what} (steps a bin)",
        )
    _save(figure, path)


def _draw_curves(axes: Axes, curves: Curves, names: Mapping[str, str]) -> None:
    """Curves with their intervals, those of `names` in this order."""
    for name, title in names.items():
        if name not in curves:
            continue
        steps = list(curves[name])
        colour = COLOURS[name]
        axes.plot(steps, [curves[name][s].value for s in steps], label=title, color=colour)
        axes.fill_between(
            steps,
            [curves[name][s].low for s in steps],
            [curves[name][s].high for s in steps],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
