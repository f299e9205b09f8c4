"""Means with intervals over episodes, and the quality of probabilities and scores."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BeforeValidator
from scipy.stats import mannwhitneyu, spearmanr

from worldmodel import randomness

BOOTSTRAP_DRAWS = 2000
# JSON writes null where a number is not finite.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Interval(NamedTuple):
    """A number and its 95 % bootstrap interval.

    Attributes:
        num_groups: episodes that were resampled, where known; over a handful the interval says
            little.
    """

    value: Number
    low: Number
    high: Number
    num_groups: int | None = None


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that counts (K,) of K things give; 0 for no counts."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())


def code_counts(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """How often each code of each codebook comes.

    Args:
        codes: (..., q).
        num_codes: K.

    Returns:
        int64 (q, K).
    """
    books = codes.reshape(-1, codes.shape[-1]).T
    return np.stack([np.bincount(book, minlength=num_codes) for book in books])


def auroc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Probability that a random positive scores above a random negative; ties count half.

    Args:
        scores: (n,).
        is_positive: bool (n,).

    Returns:
        In [0, 1]; NaN where there are no positives or no negatives.
    """
    num_positives = int(is_positive.sum())
    num_negatives = len(is_positive) - num_positives
    if num_positives == 0 or num_negatives == 0:
        return math.nan
    scores = scores.astype(np.float64)  # counts come in the type of the scores
    won = mannwhitneyu(scores[is_positive], scores[~is_positive]).statistic
    return float(won / (num_positives * num_negatives))


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's: correlation of ranks, equal values sharing their mean rank; NaN where all of
    one side are equal."""
    if len(set(left)) < 2 or len(set(right)) < 2:
        return math.nan
    return float(spearmanr(left, right)[0])  # pyright: ignore[reportArgumentType]


def brier(probabilities: np.ndarray, happened: np.ndarray) -> float:
    """Mean squared difference of probabilities (n,) and what happened, bool (n,)."""
    return float(np.square(probabilities - happened).mean())


class Calibration(NamedTuple):
    """One bin of predictions: what was said, and what happened."""

    mean_probability: float
    share_happened: float
    count: int


def calibration(
    probabilities: np.ndarray, happened: np.ndarray, edges: tuple[float, ...]
) -> list[Calibration]:
    """Sort predictions into bins between `edges`, empty bins left out.

    Args:
        probabilities: (n,) in [0, 1].
        happened: bool (n,).
        edges: ascending, from 0 to 1; a bin holds its lower edge, the last one 1 as well.
    """
    which = np.searchsorted(edges[1:-1], probabilities, side="right")
    return [
        Calibration(float(probabilities[chosen].mean()), float(happened[chosen].mean()), count)
        for i in range(len(edges) - 1)
        if (count := int((chosen := which == i).sum())) > 0
    ]


def calibration_error(bins: Sequence[Calibration]) -> float:
    """Expected calibration error: the mean distance over predictions of what a bin said from
    what happened in it; NaN without predictions."""
    total = sum(of.count for of in bins)
    missed = sum(of.count * abs(of.mean_probability - of.share_happened) for of in bins)
    return missed / total if total else math.nan


def bootstrap_means(values: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Means of `values` over clips, with whole groups drawn again with replacement.

    Clips of one episode resemble each other, so episodes are drawn, not clips. With the same
    groups and seed the draws are the same: differences of two results are paired.

    Args:
        values: (clips, ...).
        groups: (clips,), the episode of each clip.

    Returns:
        (BOOTSTRAP_DRAWS, ...); NaN for a single group, which says nothing of others.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        return np.full((BOOTSTRAP_DRAWS, *values.shape[1:]), np.nan)
    sizes = np.bincount(group)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, group, values)
    times = times_drawn(len(names), seed)
    return np.tensordot(times, sums, 1) / (times @ sizes).reshape(-1, *[1] * (values.ndim - 1))


def times_drawn(num_groups: int, seed: int) -> np.ndarray:
    """How often each group is drawn in each of the bootstrap's draws, (draws, groups)."""
    rng = randomness.generator(seed, "bootstrap")
    return rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), BOOTSTRAP_DRAWS)


def interval(value: float, draws: np.ndarray, groups: np.ndarray | None = None) -> Interval:
    """A value with the middle 95 % of its bootstrap draws (n,), of these groups (clips,)."""
    low, high = np.quantile(draws, (0.025, 0.975))
    num_groups = None if groups is None else len(np.unique(groups))
    return Interval(float(value), float(low), float(high), num_groups)


def next_of_another(kinds: np.ndarray) -> np.ndarray | None:
    """For each place the next one, going round, of another kind; None where all are of one."""
    if len(np.unique(kinds)) < 2:
        return None
    places = np.arange(len(kinds))
    return np.stack(
        [next(j for j in np.roll(places, -i - 1) if kinds[j] != kinds[i]) for i in places]
    )
