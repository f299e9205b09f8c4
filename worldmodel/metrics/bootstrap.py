"""Intervals of what is measured on clips, by resampling their episodes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.metrics.pictures import decibels, psnr
from worldmodel.metrics.statistics import (
    Interval,
    auroc,
    bootstrap_means,
    interval,
    times_drawn,
)


@dataclass(frozen=True)
class Bootstrap:
    """Intervals over the same clips. Draws with the same clips and seed are the same, so a
    difference of two results is paired.

    Attributes:
        episodes: (clips,), the episode of each clip: clips of one episode resemble each other.
    """

    episodes: np.ndarray
    seed: int

    def of(self, clips: np.ndarray) -> "Bootstrap":
        """Over some of the clips."""
        return Bootstrap(self.episodes[clips], self.seed)

    def mean(self, values: np.ndarray) -> Interval:
        """Of values (clips,)."""
        draws = bootstrap_means(values, self.episodes, seed=self.seed)
        return interval(float(values.mean()), draws, self.episodes)

    def median(self, values: np.ndarray) -> Interval:
        """Of values (clips,)."""
        order = np.argsort(values, kind="stable")
        names, inverse = np.unique(self.episodes, return_inverse=True)
        weights = times_drawn(len(names), self.seed)[:, inverse[order]]  # (draws, clips)
        shares = np.cumsum(weights, 1) / weights.sum(1, keepdims=True)
        draws = values[order][np.argmax(shares >= 0.5, 1)]
        if len(names) < 2:  # every draw is the same
            draws = np.full(len(draws), np.nan)
        return interval(float(np.median(values)), draws, self.episodes)

    def psnr(self, errors: np.ndarray) -> Interval:
        """PSNR of the mean of squared errors (clips,)."""
        draws = decibels(bootstrap_means(errors, self.episodes, seed=self.seed))
        return interval(psnr(float(errors.mean())), draws, self.episodes)

    def psnr_gain(self, errors: np.ndarray, others: np.ndarray) -> Interval:
        """PSNR of `errors` less that of `others`, both (clips,), in dB."""
        draws = [
            decibels(bootstrap_means(of, self.episodes, seed=self.seed)) for of in (errors, others)
        ]
        value = psnr(float(errors.mean())) - psnr(float(others.mean()))
        return interval(value, draws[0] - draws[1], self.episodes)

    def ratio(self, values: np.ndarray, others: np.ndarray) -> Interval:
        """Mean of values (clips,) over mean of others; NaN where the latter isn't above 0."""
        draws = bootstrap_means(np.stack([values, others], 1), self.episodes, seed=self.seed)
        draws = draws[draws[:, 1] > 0]
        if others.mean() <= 0 or not len(draws):
            return Interval(math.nan, math.nan, math.nan, len(np.unique(self.episodes)))
        return interval(values.mean() / others.mean(), draws[:, 0] / draws[:, 1], self.episodes)

    def auroc(self, scores: np.ndarray, is_positive: np.ndarray) -> Interval:
        """AUROC of scores (clips, ...) by which positives should stand out.

        NaN where there are no positives or no negatives; draws without either are left out.
        """
        groups = np.repeat(self.episodes, scores[0].size)
        scores, is_positive = scores.ravel(), is_positive.ravel()
        value = auroc(scores, is_positive)
        names, group = np.unique(groups, return_inverse=True)
        if len(names) == 1 or math.isnan(value):
            return Interval(value, math.nan, math.nan, len(names))
        positives, negatives = (
            np.bincount(group[chosen], minlength=len(names))
            for chosen in (is_positive, ~is_positive)
        )
        # wins[i, j]: how often a positive of group i scores above a negative of group j. A draw
        # counts each pair as often as both of its groups are drawn.
        wins = np.zeros((len(names), len(names)))
        ours, theirs = scores[is_positive], group[is_positive]
        for j in np.flatnonzero(negatives):
            others = np.sort(scores[(group == j) & ~is_positive])
            below, not_above = (np.searchsorted(others, ours, side) for side in ("left", "right"))
            wins[:, j] = np.bincount(theirs, (below + not_above) / 2, minlength=len(names))
        times = times_drawn(len(names), self.seed)
        pairs = (times @ positives) * (times @ negatives)
        draws = ((times @ wins) * times).sum(1)[pairs > 0] / pairs[pairs > 0]
        return interval(value, draws, groups)


def at_steps(
    measure: Callable[..., Interval], *arrays: np.ndarray, steps: Sequence[int]
) -> dict[int, Any]:
    """A measure of arrays (clips, T) at chosen numbers of steps ahead, counted from 1."""
    return {k: measure(*(array[:, k - 1] for array in arrays)) for k in steps}
