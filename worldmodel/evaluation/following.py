"""Whether dreams do what the actions say, and what the actions are worth to the model."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import ClipSampler
from worldmodel.evaluation.held_out import RANDOM_PLAYERS, HeldOut
from worldmodel.evaluation.horizon import steps_ahead
from worldmodel.evaluation.inverse_dynamics import (
    CLIP_FRAMES,
    InverseDynamics,
    inverse_dynamics_of,
)
from worldmodel.interface.actions import ActionSpec
from worldmodel.metrics.pictures import psnr_difference, squared_errors
from worldmodel.metrics.statistics import (
    Interval,
    bootstrap_means,
    interval,
    mean_interval,
)

EDGE_FRAMES = 10  # at the beginning and at the end of a dream
POLICY_CLIPS = 128  # of the test split, to see whom the network reads best
POLICY_FRAMES = 9  # in each
MIN_RANDOM_STEPS = 2000  # in the train split: an eighth of the pairs that a network learns from


def measure_actions(held_out: HeldOut, out: Path, *, training_steps: int) -> dict[str, Any]:
    """Accuracy of an inverse-dynamics network on real frames and on dreams under their actions.

    For a box, "accuracy" is the share of the actions' variance that it explains. "still" is that
    of the first frame of each real pair, shown twice: what habits tell without any motion. The
    network is kept at out/inverse-dynamics.safetensors; beside it one that learned from random
    players alone, whose actions hang on nothing that is seen, where there are enough of them beside
    others.

    Args:
        training_steps: of each network.
    """
    network = inverse_dynamics_of(
        held_out.model,
        held_out.reader,
        out / "inverse-dynamics.safetensors",
        steps=training_steps,
    )
    actions, seen = held_out.actions, _seen(network, held_out)
    edge = min(EDGE_FRAMES, actions.shape[1])
    return {
        "num_clips": len(held_out),
        "num_pairs": int(np.prod(actions.shape[:2])),
        "measure": "R^2" if network.spec.kind == "box" else "accuracy",
        "edge_frames": edge,
        **_measured(network, held_out, seen),
        "first": {name: float(values[:, :edge].mean()) for name, values in seen.items()},
        "last": {name: float(values[:, -edge:].mean()) for name, values in seen.items()},
        "real_by_policy": _real_by_policy(network, held_out),
        "ratio_by_policy": _ratio_by_policy(network.spec, held_out, seen),
        "taught_by_random": _taught_by_random(held_out, out, training_steps),
        "random_actions": _under_random_actions(network, held_out),
        "shuffled": _shuffled(held_out),
    }


def _seen(network: InverseDynamics, held_out: HeldOut) -> dict[str, np.ndarray]:
    """The network's agreement with the recorded actions, (clips, steps, factors), by what it is
    shown."""
    actions, given = held_out.actions, held_out.num_given
    real = held_out.clips.frames[:, given - 1 :]
    return {
        "still": _agreement_when_still(network, real[:, :-1], actions),
        "real": network.agreement(real, actions),
        "reconstructed": network.agreement(held_out.reconstructions[:, given - 1 :], actions),
        "dreamed": _agreement(network, held_out, held_out.dreams.frames, actions),
    }


def _taught_by_random(held_out: HeldOut, out: Path, training_steps: int) -> dict[str, Any] | None:
    """What a network says of the clips that has seen random players alone; None where there are
    too few of them, or no others."""
    reader = held_out.reader
    members = reader.split("train")
    lengths = reader.index["episode_length"][members]
    is_random = reader.index["policy"][members] == RANDOM_PLAYERS
    num_steps = int(lengths[is_random & (lengths >= CLIP_FRAMES - 1)].sum())
    if num_steps < MIN_RANDOM_STEPS or is_random.all():
        return None
    network = inverse_dynamics_of(
        held_out.model,
        reader,
        out / "inverse-dynamics-random.safetensors",
        steps=training_steps,
        player=RANDOM_PLAYERS,
    )
    return {"num_steps": num_steps, **_measured(network, held_out, _seen(network, held_out))}


def _measured(
    network: InverseDynamics, held_out: HeldOut, seen: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Means over all clips of what `_seen` gives, their ratio, and the same of each action."""
    per_clip = {name: agreement.mean((1, 2)) for name, agreement in seen.items()}
    groups, seed = held_out.episodes, held_out.settings.seed
    return {
        **{name: mean_interval(values, groups, seed=seed) for name, values in per_clip.items()},
        "ratio": _ratio(per_clip["dreamed"], per_clip["real"], groups, seed),
        "each": _each(network, seen, held_out.actions, groups, seed),
    }


def _agreement(
    network: InverseDynamics, held_out: HeldOut, dreamed: np.ndarray, actions: np.ndarray
) -> np.ndarray:
    """Of dreams with the actions that they were told.

    The first pair begins with the last given frame as the tokenizer shows it, so that both of
    its frames are the decoder's.
    """
    before = held_out.reconstructions[:, held_out.num_given - 1, None]
    return network.agreement(np.concatenate([before, dreamed], 1), actions)


def _agreement_when_still(
    network: InverseDynamics, frames: np.ndarray, actions: np.ndarray
) -> np.ndarray:
    """Of pairs that are the same frame twice, each with the action taken there."""
    pairs = np.stack([frames, frames], 2)  # (clips, steps, 2, H, W, C)
    agreement = network.agreement(
        pairs.reshape(-1, *pairs.shape[2:]), actions.reshape(-1, 1, *actions.shape[2:])
    )
    return agreement.reshape(*actions.shape[:2], -1)


def _ratio(values: np.ndarray, others: np.ndarray, groups: np.ndarray, seed: int) -> Interval:
    """Mean over mean; NaN where the others' isn't above 0, as of an action never recognised."""
    draws = bootstrap_means(np.stack([values, others], 1), groups, seed=seed)
    draws = draws[draws[:, 1] > 0]
    if others.mean() <= 0 or not len(draws):
        return Interval(math.nan, math.nan, math.nan, len(np.unique(groups)))
    return interval(values.mean() / others.mean(), draws[:, 0] / draws[:, 1], groups)


def _each(
    network: InverseDynamics,
    seen: dict[str, np.ndarray],
    actions: np.ndarray,
    groups: np.ndarray,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Accuracy, and dreamed over real, for each choice of a discrete action, else for each
    component. Beside a component's, what always guessing its commonest choice would reach.
    """
    spec = network.spec

    def of(picked: np.ndarray, factor: int) -> dict[str, Any]:
        """Of the pairs of frames that are picked, (clips, steps) of 0 and 1."""
        sums = {name: (values[..., factor] * picked).sum(1) for name, values in seen.items()}
        return {
            **{name: float(values.sum() / picked.sum()) for name, values in sums.items()},
            "ratio": _ratio(sums["dreamed"], sums["real"], groups, seed),
        }

    if spec.kind == "discrete":
        choices = np.unique(actions).tolist()
        return {
            _name(spec, choice): {
                "count": int((actions == choice).sum()),
                **of((actions == choice).astype(float), 0),
            }
            for choice in choices
        }
    whole = np.ones(actions.shape[:2])
    each = {_name(spec, d): of(whole, d) for d in range(actions.shape[-1])}
    if spec.kind == "multi_discrete":
        for d, measured in enumerate(each.values()):
            counts = np.bincount(actions[..., d].ravel())
            measured["commonest"] = float(counts.max() / counts.sum())
    return each


def _name(spec: ActionSpec, i: int) -> str:
    return spec.meanings[i] if i < len(spec.meanings) else str(i)


def _real_by_policy(network: InverseDynamics, held_out: HeldOut) -> dict[str, float]:
    """Accuracy on real test frames, by who acted: habits make actions easier to guess."""
    reader = held_out.reader
    names = reader.index["policy"]
    num_frames = min(POLICY_FRAMES, held_out.clips.frames.shape[1])
    sampler = ClipSampler(reader, "test", num_frames, memory_limit_bytes=0)
    rng = randomness.generator(held_out.settings.seed, "following: real clips")
    rows = sampler.draw(rng, 16 * POLICY_CLIPS)
    found = {}
    policies = np.unique(names[rows[:, 0]]).tolist()
    for policy in track(policies, "actions by who acted"):
        clips = sampler.read(rows[names[rows[:, 0]] == policy][:POLICY_CLIPS])
        found[policy.decode(errors="replace")] = float(
            network.agreement(clips.frames, clips.action).mean()
        )
    return found


def _ratio_by_policy(
    spec: ActionSpec, held_out: HeldOut, seen: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Dreamed over real in the clips of each player: all factors, and where there are several,
    each. A habit whose reason the dream has lost counts against it, an order doesn't."""
    names = held_out.reader.index["policy"][held_out.episodes]
    found = {}
    for policy in np.unique(names).tolist():
        rows = np.flatnonzero(names == policy)
        groups, seed = held_out.episodes[rows], held_out.settings.seed
        dreamed, real = (seen[name][rows].mean(1) for name in ("dreamed", "real"))  # (n, factors)
        factors = range(dreamed.shape[1]) if dreamed.shape[1] > 1 else []
        found[policy.decode(errors="replace")] = {
            "num_clips": len(rows),
            "all": _ratio(dreamed.mean(1), real.mean(1), groups, seed),
            "each": {
                _name(spec, d): _ratio(dreamed[:, d], real[:, d], groups, seed) for d in factors
            },
        }
    return found


def _under_random_actions(network: InverseDynamics, held_out: HeldOut) -> dict[str, float]:
    """Dreams of the same clips under actions that nobody chose: off the recorded habits."""
    rng = randomness.generator(held_out.settings.seed, "following: random actions")
    actions = network.spec.sample(rng, held_out.actions.shape[:2])
    dreamed = held_out.dream(actions, what="dreaming under random actions")
    agreement = _agreement(network, held_out, dreamed.frames, actions)
    edge = min(EDGE_FRAMES, actions.shape[1])
    return {
        "dreamed": float(agreement.mean()),
        "dreamed_first": float(agreement[:, :edge].mean()),
        "dreamed_last": float(agreement[:, -edge:].mean()),
    }


def _mean_lost(misled: np.ndarray, told: np.ndarray) -> float | None:
    lost = (misled - told)[np.isfinite(misled)]
    return float(lost.mean()) if lost.size else None


def _shuffled(held_out: HeldOut) -> dict[str, Any]:
    """What is lost when each clip is told the actions of another one."""
    future = slice(held_out.num_given - 1, None)
    nats, nats_before = (
        of.steps(future).nats for of in (held_out.foretold_misled, held_out.foretold)
    )
    dreamed = held_out.dream(held_out.other_actions, what="dreaming under shuffled actions")
    told = squared_errors(held_out.dreams.frames, held_out.real)
    shuffled = squared_errors(dreamed.frames, held_out.real)
    groups, seed = held_out.episodes, held_out.settings.seed
    return {
        "nats_lost": mean_interval((nats - nats_before).mean(1), groups, seed=seed),
        "pose_nats_lost": _mean_lost(
            *(of.steps(future).pose_nats for of in (held_out.foretold_misled, held_out.foretold))
        ),
        "db_lost": {
            steps: psnr_difference(told[:, steps - 1], shuffled[:, steps - 1], groups, seed=seed)
            for steps in steps_ahead(held_out.settings.horizon)
        },
    }
