"""Whether surprise, the model's nats a token of a frame, tells frames that it hasn't learned.

It is `info["surprise"]` of a dream, there of the frame that was just drawn; here it is of real
next frames given the real past, and of frames that are not as recorded.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import randomness
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import HeldOut
from worldmodel.media.film import coloured, save_png, sheet
from worldmodel.metrics.statistics import auroc_interval, mean_interval, next_of_another

WEAK_NOISE, STRONG_NOISE = 0.05, 0.2  # standard deviations, pixels in [0, 1]
MEAN_FRAMES = 8  # about a second of Doom
SHOWN_FRAMES = 8
RECORDED, DREAMED = "recorded", "its own dreams"


def measure_surprise(held_out: HeldOut, out: Path) -> dict[str, Any]:
    """Surprise of recorded test clips and of others, and how well it alone tells them apart.

    In mirrored, inverted and noisy clips all frames are altered, the given ones too; a spliced
    frame is another episode's, after the real past. DREAMED are the model's own dreams of the
    clips, drawn as the settings say. Writes surprise.png (distributions) and
    surprise-frames.png (a frame of each kind).
    """
    given, seed = held_out.num_given, held_out.settings.seed
    future = slice(given - 1, None)
    surprise = {
        RECORDED: held_out.foretold.steps(future).nats,
        "actions of another clip": held_out.foretold_misled.steps(future).nats,
    }
    altered = altered_clips(held_out.clips.frames, seed=seed)
    for name, frames in altered.items():
        codes = held_out.encode(frames, f"encoding: {name}")
        foretold = held_out.foretell(codes, held_out.actions, f"surprise: {name}")
        surprise[name] = foretold.steps(future).nats
    others = next_of_another(held_out.episodes)
    if others is None:  # a single test episode: another place of it
        others = np.roll(np.arange(len(held_out)), -1)
    spliced = held_out.foretell(
        held_out.real_codes,
        held_out.actions,
        "surprise: spliced",
        next_codes=held_out.real_codes[torch.from_numpy(others)],
    )
    surprise["spliced from another episode"] = spliced.steps(future).nats
    surprise[DREAMED] = held_out.dreams.nats.astype(np.float64)
    plots.draw_surprise(
        out / "surprise.png", {name: nats.ravel() for name, nats in surprise.items()}
    )
    examples = [held_out.clips.frames, *altered.values(), held_out.clips.frames[others]]
    save_png(
        out / "surprise-frames.png",
        sheet([coloured(frames[:SHOWN_FRAMES, given]) for frames in examples], scale=2),
    )
    kinds = {
        name: _told_apart(nats, surprise[RECORDED], held_out.episodes, seed)
        for name, nats in surprise.items()
    }
    strange = {name: of for name, of in kinds.items() if name not in (RECORDED, DREAMED)}
    return {
        "num_clips": len(held_out),
        "frames_a_clip": held_out.settings.horizon,
        "frames_of_a_mean": min(MEAN_FRAMES, held_out.settings.horizon),
        "shown": [RECORDED, *altered, "spliced from another episode"],
        "kinds": kinds,
        "hardest": min(strange, key=lambda name: strange[name]["auroc"].value),
    }


def altered_clips(frames: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """Clips uint8 (..., H, W, C) as nobody recorded them, each under its name."""

    def noisy(strength: float) -> np.ndarray:
        rng = randomness.generator(seed, "surprise: noise")
        noise = rng.standard_normal(frames.shape, np.float32) * np.float32(255 * strength)
        return (frames + noise).round().clip(0, 255).astype(np.uint8)

    return {
        "mirrored left-right": np.ascontiguousarray(frames[..., ::-1, :]),
        "colours inverted": ~frames,
        f"pixel noise {WEAK_NOISE:g}": noisy(WEAK_NOISE),
        f"pixel noise {STRONG_NOISE:g}": noisy(STRONG_NOISE),
    }


def _told_apart(
    nats: np.ndarray, recorded: np.ndarray, episodes: np.ndarray, seed: int
) -> dict[str, Any]:
    """The mean, and the AUROC of telling frames from recorded ones by surprise: single ones, and
    means over MEAN_FRAMES that follow each other."""
    found: dict[str, Any] = {"nats_a_token": mean_interval(nats.mean(1), episodes, seed=seed)}
    if nats is recorded:
        return found
    found["rise"] = mean_interval((nats - recorded).mean(1), episodes, seed=seed)
    for name, length in (("auroc", 1), ("auroc_of_means", min(MEAN_FRAMES, nats.shape[1]))):
        whole = nats.shape[1] // length * length
        scores = np.stack(
            [of[:, :whole].reshape(len(of), -1, length).mean(2) for of in (nats, recorded)]
        )
        is_altered = np.zeros(scores.shape, bool)
        is_altered[0] = True
        groups = np.broadcast_to(episodes[:, None], scores.shape)
        found[name] = auroc_interval(scores.ravel(), is_altered.ravel(), groups.ravel(), seed=seed)
    return found
