"""Inception score of videos (Salimans et al. 2016; VideoGPT Table 2)."""

from typing import Any

import numpy as np

from worldmodel.errors import UserError
from worldmodel.evaluation.fvd import features_of, source_line, source_of
from worldmodel.evaluation.tables import Blocks, Table, number
from worldmodel.metrics.features import FeatureNetwork

READING = "Whether samples look like distinct classes; samples hardly ever score above real clips."


def inception_score(probabilities: np.ndarray, *, num_splits: int = 10) -> tuple[float, float]:
    """exp E KL(p(class | clip) || p(class)): mean and standard deviation over splits.

    Each split has its own p(class), so the score grows with the clips of a split, up to the number
    of classes (Salimans et al. 2016).

    Args:
        probabilities: (n, K), rows sum to 1; they are split in their order.

    Raises:
        ValueError: there are fewer rows than splits.
    """
    if len(probabilities) < num_splits:
        raise ValueError(f"{len(probabilities)} clips can't be cut into {num_splits} splits")
    scores = []
    for part in np.array_split(probabilities.astype(np.float64), num_splits):
        marginal = np.broadcast_to(part.mean(0), part.shape)
        seen = part > 0  # 0 log 0 = 0
        divergence = (part[seen] * np.log(part[seen] / marginal[seen])).sum() / len(part)
        scores.append(np.exp(divergence))
    return float(np.mean(scores)), float(np.std(scores))


def measure_inception_score(
    sampled: np.ndarray, real: np.ndarray, network: FeatureNetwork, *, num_splits: int = 10
) -> dict[str, Any]:
    """Inception score of samples, and of real clips for comparison (Table 2).

    Args:
        sampled, real: uint8 (n, T, H, W, C) and (m, T, H, W, C), in random order.
        network: has logits of classes as features.

    Raises:
        UserError: there are fewer clips than splits, or the network refuses them.
    """
    numbers = {**source_of(network, sampled.shape[1]), "num_splits": num_splits}
    for kind, clips in (("sampled", sampled), ("real", real)):
        if len(clips) < num_splits:
            raise UserError(
                f"the inception score needs at least {num_splits} clips, not {len(clips)}"
            )
        logits = features_of(clips, network, f"classes of {kind} clips")
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        mean, deviation = inception_score(chances, num_splits=num_splits)
        numbers[kind] = {"mean": mean, "standard_deviation": deviation, "num_clips": len(clips)}
    return numbers


def inception_score_blocks(n: dict[str, Any]) -> Blocks:
    """The table of `measure_inception_score`."""
    rows = [
        [
            name,
            str(n[kind]["num_clips"]),
            f"{number(n[kind]['mean'])} ± {number(n[kind]['standard_deviation'])}",
        ]
        for name, kind in (("samples", "sampled"), ("real clips", "real"))
    ]
    return [
        Table(["", "clips", n["metric"]], rows),
        f"{source_line(n)} Mean and standard deviation over {n['num_splits']} splits; a score "
        "grows with the clips of a split.",
    ]
