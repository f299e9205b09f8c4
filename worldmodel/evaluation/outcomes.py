"""Rewards, ends and game variables: foretold for the next step, and along dreams."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from worldmodel.data import ClipSampler
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import HeldOut, console, dream_on
from worldmodel.evaluation.horizon import steps_ahead
from worldmodel.metrics import auroc, brier, calibration, mean_interval
from worldmodel.model import WorldModel
from worldmodel.prior.frame_gpt import Prediction

MAX_EPISODES = 256
MAX_STEPS = 256  # the last of an episode: attention over a longer one takes memory
MAX_ENDING_CLIPS = 128
NUM_DRAWS = 64  # of the next variables, over which a reward and an end are averaged
END_BINS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # ends are rare


def measure_outcomes(held_out: HeldOut, out: Path) -> dict[str, Any]:
    """Errors of rewards, ends and variables on the test split.

    "next_step": test episodes (the last MAX_STEPS steps of longer ones), each step given the
    real past. "dreamed": after dreaming under the recorded actions. Writes ends.png, the
    calibration of ends.
    """
    reward, ended, expected, probability = _next_steps(held_out)
    bins = calibration(probability, ended, END_BINS)
    plots.draw_calibration(out / "ends.png", bins)
    return {
        "next_step": {
            "num_steps": len(reward),
            "reward_mae": float(np.abs(expected - reward).mean()),
            "reward_mae_of_the_mean": float(np.abs(reward.mean() - reward).mean()),
            "reward_mae_unless_ended": float(np.abs(expected - reward)[~ended].mean()),
            "num_ends": int(ended.sum()),
            "end_auroc": auroc(probability, ended),
            "end_brier": brier(probability, ended),
            "end_brier_of_the_mean": brier(np.full(len(ended), ended.mean()), ended),
            "end_calibration": [bin._asdict() for bin in bins],
        },
        "dreamed": {
            **_dreamed_values(held_out),
            "ends": _dreamed_ends(held_out),
        },
    }


@torch.no_grad()
def _next_steps(held_out: HeldOut) -> tuple[np.ndarray, ...]:
    """Real reward and end, then expected reward and probability of an end, (steps,) each."""
    model, reader, device = held_out.model, held_out.reader, held_out.device
    rng = np.random.default_rng(held_out.settings.seed)
    chosen = rng.permutation(reader.split("test"))[:MAX_EPISODES]
    parts: list[tuple[np.ndarray, ...]] = []

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)[None]

    for i in track(chosen.tolist(), "outcomes", console=console, transient=True):
        first = max(0, int(reader.index["episode_length"][i]) - MAX_STEPS)
        steps = {name: array[first:] for name, array in reader.steps(i).items()}
        frames = torch.from_numpy(reader.frames(i, first))
        codes = torch.cat([model.encode(part.to(device)) for part in frames.split(64)])[None]
        variables = tensor(steps["variables"])
        prediction = model.prior(
            codes[:, :-1],
            model.config.actions.encode(tensor(steps["action"])),
            variables[:, :-1],
            codes[:, 1:],
            variables[:, 1:],
        )
        expected, probability = _before_the_variables(model, prediction, variables[:, :-1])
        parts.append((steps["reward"], steps["terminated"], expected[0], probability[0]))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _before_the_variables(
    model: WorldModel, prediction: Prediction, variables: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Expected reward and probability of an end, (B, T) each, where the next variables are not
    known: means over `NUM_DRAWS` drawn ones.
    """
    prior, generator = model.prior, torch.Generator().manual_seed(0)
    expected, probability = [], []
    for _ in range(NUM_DRAWS):
        uniforms = torch.rand(variables.shape, generator=generator).to(variables.device)
        drawn = prior.draw_variables(prediction.foretold, variables, uniforms)
        outcomes = prior.once_arrived(prediction.foretold, variables, drawn)
        expected.append(prior.outcome.expected(outcomes, 0))
        probability.append(outcomes.terminated.sigmoid())
    return torch.stack(expected).mean(0).cpu().numpy(), torch.stack(probability).mean(
        0
    ).cpu().numpy()


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


def _dreamed_ends(held_out: HeldOut) -> dict[str, float]:
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
    probabilities = [held_out.dreams.end_probability]
    happened = [held_out.clips.terminated[:, given - 1 :]]
    if ending:
        clips = sampler.read(np.asarray(ending))
        rng = np.random.default_rng([settings.seed, 4])
        actions = clips.action[:, given - 1 :]
        dreamed = dream_on(
            held_out.model, clips, given, actions, rng=rng, sampling=settings.sampling
        )
        probabilities.append(dreamed.end_probability)
        happened.append(clips.terminated[:, given - 1 :])
    is_end = np.concatenate(happened).ravel()
    return {
        "num_steps": len(is_end),
        "num_ends": int(is_end.sum()),
        "auroc": auroc(np.concatenate(probabilities).ravel(), is_end),
    }
