"""How well the prior foretells the codes of frames: one step ahead, and further."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation import plots
from worldmodel.evaluation.baselines import best_copy, unigram_chances
from worldmodel.evaluation.held_out import HeldOut
from worldmodel.metrics.statistics import Interval, mean_interval


def measure_likelihood(held_out: HeldOut, out: Path) -> dict[str, Any]:
    """Nats and bits of the test clips' codes, each frame given all the real ones before it.

    And by horizon: "frames_seen", the same by the number of real frames before; "steps_ahead",
    the real frame k steps ahead, when of the frames before it the last k - 1 were dreamed under
    the recorded actions. Writes likelihood.png, both as curves.
    """
    settings, model, given = held_out.settings, held_out.model, held_out.num_given
    codes = held_out.real_codes.numpy()  # (clips, T, h, w, q)
    after = held_out.foretold.steps(slice(given - 1, None))
    num_codes = model.config.tokenizer.num_codes
    train = held_out.train_codes.numpy()
    flat = codes.reshape(-1, *codes.shape[2:])
    unigram, by_position = (
        of.reshape(codes.shape) for of in unigram_chances(flat, train, num_codes)
    )
    is_copy = codes[:, given:] == codes[:, given - 1 : -1]
    copy_nats, copy_weight = best_copy(is_copy, unigram[:, given:])
    mean = mean_interval(after.nats.mean(1), held_out.episodes, seed=settings.seed)
    bits = mean.value / math.log(2)
    tokens_a_frame = math.prod(codes.shape[2:])
    values_a_token = math.prod(model.config.tokenizer.frame_shape) / tokens_a_frame
    curves = _by_horizon(held_out, codes, unigram)
    plots.draw_likelihood(out / "likelihood.png", curves)
    return {
        "num_clips": len(held_out),
        "num_tokens": is_copy.size,
        "nats_a_token": mean,
        "pose_nats": _mean_where_known(after.pose_nats),
        "bits_a_token": bits,
        "bits_a_pixel_channel": bits / values_a_token,
        "accuracy": float(after.hits.mean()),
        "unigram_nats": float(-np.log(unigram[:, given:]).mean()),
        "position_unigram_nats": float(-np.log(by_position[:, given:]).mean()),
        "copy_nats": float(copy_nats.mean()),
        "copy_weight": copy_weight,
        "copy_accuracy": float(is_copy.mean()),
        "num_given": given,
        **curves,
    }


def _mean_where_known(nats: np.ndarray) -> float | None:
    known = nats[np.isfinite(nats)]
    return float(known.mean()) if known.size else None


def _by_horizon(
    held_out: HeldOut, codes: np.ndarray, unigram: np.ndarray
) -> dict[str, dict[str, dict[int, Interval]]]:
    """Nats a token by frames seen and by steps ahead, of the prior and of who knows less.

    "copy" takes the last real frame's token, one step or k steps old, with the probability that
    suits the clips best at each horizon, else the unigram.
    """
    given, seed = held_out.num_given, held_out.settings.seed
    open_loop = held_out.foretell(
        held_out.dream_codes,
        held_out.actions,
        "likelihood along dreams",
        next_codes=held_out.real_codes,
        variables=held_out.dream_variables,
        dreamed=True,
    ).steps(slice(given - 1, None))

    def curve(nats: np.ndarray) -> dict[int, Interval]:  # (clips, horizon)
        return {
            k + 1: mean_interval(nats[:, k], held_out.episodes, seed=seed)
            for k in range(nats.shape[1])
        }

    def copying(known: np.ndarray, truth: np.ndarray, chances: np.ndarray) -> np.ndarray:
        costs = [
            best_copy(known[:, k] == truth[:, k], chances[:, k])[0] for k in range(truth.shape[1])
        ]
        return np.stack([cost.mean((1, 2, 3)) for cost in costs], 1)

    nats_of_unigram = -np.log(unigram).mean((2, 3, 4))
    future = codes[:, given:]
    last = np.broadcast_to(codes[:, given - 1, None], future.shape)
    return {
        "frames_seen": {
            "prior": curve(held_out.foretold.nats),
            "copy": curve(copying(codes[:, :-1], codes[:, 1:], unigram[:, 1:])),
            "unigram": curve(nats_of_unigram[:, 1:]),
        },
        "steps_ahead": {
            "prior": curve(open_loop.nats),
            "teacher_forced": curve(held_out.foretold.nats[:, given - 1 :]),
            "copy": curve(copying(last, future, unigram[:, given:])),
            "unigram": curve(nats_of_unigram[:, given:]),
        },
    }
