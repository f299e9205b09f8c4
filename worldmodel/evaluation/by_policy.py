"""Dreams and likelihood by who acted: habits make a future easier to foretell."""

from typing import Any

import numpy as np

from worldmodel.evaluation.held_out import HeldOut
from worldmodel.metrics.pictures import (
    psnr_difference,
    psnr_interval,
    squared_errors,
)
from worldmodel.metrics.statistics import mean_interval

STEPS_SHOWN = (1, 8, 16, 32)


def measure_by_policy(held_out: HeldOut) -> dict[str, Any]:
    """PSNR of one dream, alone and over copying the last given frame, and nats a token given the
    real past, of the test clips of each policy."""
    given, seed = held_out.num_given, held_out.settings.seed
    real = held_out.real
    one = squared_errors(held_out.dreams.frames, real)
    last = held_out.clips.frames[:, given - 1, None]
    copy = squared_errors(np.broadcast_to(last, real.shape), real)
    nats = held_out.foretold.steps(slice(given - 1, None)).nats.mean(1)
    policies = held_out.reader.index["policy"][held_out.episodes]
    chosen = [steps for steps in STEPS_SHOWN if steps <= real.shape[1]]
    found = {}
    for policy in np.unique(policies):
        rows = policies == policy
        groups = held_out.episodes[rows]
        found[policy.decode(errors="replace")] = {
            "num_clips": int(rows.sum()),
            "num_episodes": len(np.unique(groups)),
            "nats_a_token": mean_interval(nats[rows], groups, seed=seed),
            "psnr": {k: psnr_interval(one[rows, k - 1], groups, seed=seed) for k in chosen},
            "over_copy": {
                k: psnr_difference(one[rows, k - 1], copy[rows, k - 1], groups, seed=seed)
                for k in chosen
            },
        }
    return {"steps": chosen, "policies": found}
