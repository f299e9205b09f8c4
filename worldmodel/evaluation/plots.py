"""Curves with intervals, and how every plot of a report is saved."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.metrics.statistics import Interval
from worldmodel.storage.files import written_whole

# The same thing has the same colour in every plot.
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


def draw_curves(
    axes: Axes, curves: Mapping[str, Mapping[int, Interval]], names: Mapping[str, str]
) -> None:
    """Values by a number of frames, with their intervals: those of `names`, in this order."""
    for name, title in names.items():
        if name in curves:
            steps, found = list(curves[name]), list(curves[name].values())
            axes.plot(steps, [of.value for of in found], label=title, color=COLOURS[name])
            low, high = [of.low for of in found], [of.high for of in found]
            axes.fill_between(steps, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
    # Below the axes, where it hides no curve.
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def save(figure: Figure, path: Path) -> None:
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
