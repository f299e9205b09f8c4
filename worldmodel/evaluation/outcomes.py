"""Rewards, ends and game variables: foretold for the next step, and along dreams."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import ClipSampler
from worldmodel.evaluation import plots
from worldmodel.evaluation.dreaming import dream_on
from worldmodel.evaluation.foretelling import foretell_outcomes
from worldmodel.evaluation.held_out import HeldOut
from worldmodel.evaluation.horizon import steps_ahead
from worldmodel.metrics.statistics import (
    Interval,
    auroc_interval,
    brier,
    calibration,
    calibration_error,
    mean_interval,
)

MAX_EPISODES = 256
MAX_STEPS = 256  # the last of an episode: attention over a longer one takes memory
MAX_ENDING_CLIPS = 128
RARE_BINS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # ends and events are rare


@dataclass(frozen=True)
class NextSteps:
    """S steps of test episodes and what was foretold of them, each given the real past.

    Attributes:
        episodes: (S,), the episode of each.
        reward, ended: what came.
        changes: of the variables, (S, V).
        expected, end_chance, event_chance: what was foretold, as in `ForetoldOutcomes`.
        rise_chance, fall_chance: the same of each variable, (S, V).
    """

    episodes: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    changes: np.ndarray
    expected: np.ndarray
    end_chance: np.ndarray
    event_chance: np.ndarray
    rise_chance: np.ndarray
    fall_chance: np.ndarray


def measure_outcomes(held_out: HeldOut, out: Path) -> dict[str, Any]:
    """Errors of rewards, ends and variables on the test split.

    "next_step": test episodes (the last MAX_STEPS steps of longer ones), each step given the
    real past. "dreamed": after dreaming under the recorded actions. An event is a step with
    another reward than the commonest one; there are none where no reward is common. Writes
    calibration.png, of ends and events.
    """
    steps = _next_steps(held_out)
    seed, common = held_out.settings.seed, held_out.common_reward
    ends = _foretold_well(steps.end_chance, steps.ended, steps.episodes, seed)
    bins_of = {"ends": ends["calibration"]}
    events = None
    if common is not None:
        events = _foretold_well(steps.event_chance, steps.reward != common, steps.episodes, seed)
        bins_of["events"] = events["calibration"]
    plots.draw_calibration(out / "calibration.png", bins_of)
    missed = np.abs(steps.expected - steps.reward)
    return {
        "common_reward": common,
        "next_step": {
            "num_steps": len(steps.reward),
            "reward_mae": float(missed.mean()),
            "reward_mae_of_the_mean": float(np.abs(steps.reward.mean() - steps.reward).mean()),
            "reward_mae_unless_ended": float(missed[~steps.ended].mean()),
            "ends": _plain(ends),
            "events": None if events is None else _plain(events),
            "changes": _foretold_changes(steps, held_out.model.config.variable_names, seed),
        },
        "dreamed": {
            **_dreamed_values(held_out),
            "changes": _dreamed_changes(held_out),
            "ends": _dreamed_ends(held_out),
            "events": None if common is None else _dreamed_events(held_out, common),
        },
    }


def _foretold_well(
    chances: np.ndarray, happened: np.ndarray, episodes: np.ndarray, seed: int
) -> dict[str, Any]:
    """How well chances (n,) foretell what happened, bool (n,)."""
    bins = calibration(chances, happened, RARE_BINS)
    return {
        "count": int(happened.sum()),
        "auroc": auroc_interval(chances, happened, episodes, seed=seed),
        "brier": brier(chances, happened),
        "brier_of_the_rate": brier(np.full(len(happened), happened.mean()), happened),
        "calibration_error": calibration_error(bins),
        "calibration": bins,
    }


def _plain(foretold: dict[str, Any]) -> dict[str, Any]:
    return {**foretold, "calibration": [of._asdict() for of in foretold["calibration"]]}


def _next_steps(held_out: HeldOut) -> NextSteps:
    model, reader, device = held_out.model, held_out.reader, held_out.device
    rng = randomness.generator(held_out.settings.seed, "outcome episodes")
    chosen = rng.permutation(reader.split("test"))[:MAX_EPISODES]
    parts: list[tuple[np.ndarray, ...]] = []

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)[None]

    for i in track(chosen.tolist(), "outcomes"):
        first = max(0, int(reader.index["episode_length"][i]) - MAX_STEPS)
        steps = {name: array[first:] for name, array in reader.steps(i).items()}
        frames = torch.from_numpy(reader.frames(i, first))
        codes = torch.cat([model.encode(part.to(device)) for part in frames.split(64)])[None]
        foretold = foretell_outcomes(
            model,
            codes[:, :-1],
            tensor(steps["action"]),
            tensor(steps["variables"][:-1]),
            codes[:, 1:],
            model.prior.whole_past(codes[:, :-1], tensor(steps["pose"])),
            common_reward=held_out.common_reward,
        )
        parts.append(
            (
                np.full(len(steps["reward"]), i),
                steps["reward"],
                steps["terminated"],
                np.diff(steps["variables"], axis=0),
                foretold.reward[0],
                foretold.end_chance[0],
                foretold.event_chance[0],
                foretold.rise_chance[0],
                foretold.fall_chance[0],
            )
        )
    return NextSteps(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _dreamed_values(held_out: HeldOut) -> dict[str, Any]:
    """Mean absolute errors along the dreams of the clips, beside keeping the given value."""
    given, seed = held_out.num_given, held_out.settings.seed
    truth = held_out.clips.variables[:, given:]
    kept = held_out.clips.variables[:, given - 1, None]
    reward = held_out.clips.reward[:, given - 1 :]
    chosen = steps_ahead(held_out.settings.horizon)

    def means(errors: np.ndarray) -> dict[int, Any]:
        return {
            steps: mean_interval(errors[:, steps - 1], held_out.episodes, seed=seed)
            for steps in chosen
        }

    variables = {
        name: {
            "dreamed": means(np.abs(held_out.dreams.variables - truth)[..., v]),
            "kept": means(np.abs(kept - truth)[..., v]),
        }
        for v, name in enumerate(held_out.model.config.variable_names)
    }
    return {
        "reward_mae": means(np.abs(held_out.dreams.reward - reward)),
        "variable_mae": variables,
    }


def _foretold_changes(
    steps: NextSteps, names: tuple[str, ...], seed: int
) -> dict[str, dict[str, Any]]:
    """How often each variable rose and fell, how often it was said to, and whether when it did."""

    def of(happened: np.ndarray, chances: np.ndarray) -> dict[str, Any]:
        return {
            "count": int(happened.sum()),
            "recorded": mean_interval(happened.astype(np.float64), steps.episodes, seed=seed),
            "foretold": mean_interval(chances, steps.episodes, seed=seed),
            "auroc": auroc_interval(chances, happened, steps.episodes, seed=seed),
        }

    return {
        name: {
            "rises": of(steps.changes[:, v] > 0, steps.rise_chance[:, v]),
            "falls": of(steps.changes[:, v] < 0, steps.fall_chance[:, v]),
        }
        for v, name in enumerate(names)
    }


def _dreamed_changes(held_out: HeldOut) -> dict[str, dict[str, Any]]:
    """How often each variable rises and falls a step, in the clips and in dreams of them."""
    given, seed = held_out.num_given, held_out.settings.seed
    recorded = held_out.clips.variables[:, given - 1 :]
    dreamed = np.concatenate([recorded[:, :1], held_out.dreams.variables], 1)
    recorded_changes, dreamed_changes = np.diff(recorded, axis=1), np.diff(dreamed, axis=1)

    def rate(happened: np.ndarray) -> Interval:
        return mean_interval(happened.mean(1), held_out.episodes, seed=seed)

    return {
        name: {
            kind: {
                "recorded": rate(sign * recorded_changes[..., v] > 0),
                "dreamed": rate(sign * dreamed_changes[..., v] > 0),
            }
            for kind, sign in (("rises", 1), ("falls", -1))
        }
        for v, name in enumerate(held_out.model.config.variable_names)
    }


def _dreamed_ends(held_out: HeldOut) -> dict[str, Any]:
    """Whether dreams end where real episodes did.

    The clips, and beside them windows whose last step ends a real episode: dreams under their
    actions, steps pooled. These hold more ends than the data do, so only their order counts.
    """
    settings, given = held_out.settings, held_out.num_given
    sampler = ClipSampler(held_out.reader, "test", given + settings.horizon, memory_limit_bytes=0)
    ending = [
        (int(i), int(held_out.reader.index["episode_length"][i]) + 1 - sampler.num_frames)
        for i in sampler.episodes
        if held_out.reader.steps(int(i))["terminated"][-1]
    ][:MAX_ENDING_CLIPS]
    chances = [held_out.dreams.end_probability]
    happened = [held_out.clips.terminated[:, given - 1 :]]
    episodes = [held_out.episodes]
    batches = [
        np.asarray(ending[i : i + settings.batch_size])
        for i in range(0, len(ending), settings.batch_size)
    ]
    for b, rows in enumerate(track(batches, "dreaming up to ends")):
        clips = sampler.read(rows)
        dreamed = dream_on(
            held_out.model,
            clips,
            given,
            clips.action[:, given - 1 :],
            rng=randomness.generator(settings.seed, "dreams up to ends", b),
            sampling=settings.sampling,
        )
        chances.append(dreamed.end_probability)
        happened.append(clips.terminated[:, given - 1 :])
        episodes.append(rows[:, 0])
    return _ordered_well(
        np.concatenate(chances), np.concatenate(happened), np.concatenate(episodes), settings.seed
    )


def _dreamed_events(held_out: HeldOut, common_reward: float) -> dict[str, Any]:
    """Whether dreams bring other rewards than the common one where real episodes did."""
    given = held_out.num_given
    chances = held_out.foretell_outcomes(
        held_out.dream_codes, held_out.dream_variables, "events along dreams", dreamed=True
    ).event_chance[:, given - 1 :]
    happened = held_out.clips.reward[:, given - 1 :] != common_reward
    return _ordered_well(chances, happened, held_out.episodes, held_out.settings.seed)


def _ordered_well(
    chances: np.ndarray, happened: np.ndarray, episodes: np.ndarray, seed: int
) -> dict[str, Any]:
    """AUROC of chances (clips, steps), steps pooled; the clips' episodes are drawn again."""
    groups = np.repeat(episodes, happened.shape[1])
    return {
        "num_steps": happened.size,
        "count": int(happened.sum()),
        "auroc": auroc_interval(chances.ravel(), happened.ravel(), groups, seed=seed),
    }
