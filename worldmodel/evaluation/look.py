"""Whether pictures look like the game's: sharp, textured, and still where nothing moves."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.command import track
from worldmodel.evaluation.held_out import HeldOut, draw_frames
from worldmodel.evaluation.tables import Blocks, Table, interval, number
from worldmodel.media.frames import to_float
from worldmodel.metrics.frechet import frechet_distance
from worldmodel.metrics.perceptual import EfficientNetLite
from worldmodel.metrics.pictures import fine_energy
from worldmodel.metrics.statistics import mean_interval

FRAMES_AT_ONCE = 128
STILL = 1.5 / 255  # mean change of a pixel from one recorded frame to the next: nothing moves
READING = (
    "Whether a dream looks like the game. Perceptual distance: between a recorded frame and its "
    "picture, by a network that no decoder was trained with; lower is better. Fine detail: energy "
    "of the upper half of the spatial frequencies over that of recorded frames: below 1 is blur, "
    "above 1 is grain. Fréchet distance: between all dreamed and all recorded frames, beside that "
    "between recorded and recorded ones. Flicker: how much pictures change where the game stands "
    "still, in 255ths."
)


def measure_look(held_out: HeldOut, judge: EfficientNetLite) -> dict[str, Any]:
    """Of reconstructions and of dreams, by both decoders."""
    real = held_out.clips.frames[:, held_out.num_given :]
    seen = {
        "reconstructed": held_out.reconstructions[:, held_out.num_given :],
        "reconstructed, squared error": held_out.plain_reconstructions[:, held_out.num_given :],
        "dreamed": held_out.dreams.frames,
        "dreamed, squared error": held_out.plain(held_out.dreams),
    }
    groups, seed = held_out.episodes, held_out.settings.seed
    others, _ = draw_frames(
        held_out.reader, "train", int(np.prod(real.shape[:2])), seed=held_out.settings.seed
    )
    features = partial(_features, judge)
    real_features = features(real.reshape(-1, *real.shape[2:]), "features of recorded frames")
    energy = _energy(real)
    still = np.abs(np.diff(real.astype(np.float32), axis=1)).mean((2, 3, 4)) < STILL * 255
    found: dict[str, Any] = {}
    for name, frames in seen.items():
        distances = _distances(judge, frames, real, f"perceptual distance: {name}")
        flicker = np.abs(np.diff(frames.astype(np.float32), axis=1)).mean((2, 3, 4))
        found[name] = {
            "distance": mean_interval(distances.mean(1), groups, seed=seed),
            "fine_detail": float(_energy(frames).sum() / energy.sum()),
            "frechet": frechet_distance(
                features(frames.reshape(-1, *frames.shape[2:]), f"features: {name}"),
                real_features,
            ),
            "flicker": float(flicker[still].mean()) if still.any() else None,
        }
    real_flicker = np.abs(np.diff(real.astype(np.float32), axis=1)).mean((2, 3, 4))
    return {
        "num_clips": len(held_out),
        "num_frames": int(np.prod(real.shape[:2])),
        "judge": judge.network.name,
        "has_sharp_decoder": held_out.model.sharp is not None,
        "num_still": int(still.sum()),
        "pictures": found,
        "frechet_floor": frechet_distance(features(others, "features: floor"), real_features),
        "recorded_flicker": float(real_flicker[still].mean()) if still.any() else None,
    }


def _energy(frames: np.ndarray) -> np.ndarray:
    parts = np.array_split(frames.reshape(-1, *frames.shape[-3:]), max(1, frames.shape[0]))
    return np.concatenate([fine_energy(np.moveaxis(part, -1, 1)) for part in parts])


def _tensors(judge: EfficientNetLite, frames: np.ndarray, what: str) -> Any:
    device = next(judge.parameters()).device
    for part in track(torch.from_numpy(np.ascontiguousarray(frames)).split(FRAMES_AT_ONCE), what):
        yield to_float(part.to(device))


@torch.no_grad()
def _distances(
    judge: EfficientNetLite, frames: np.ndarray, real: np.ndarray, what: str
) -> np.ndarray:
    """Of each picture (clips, steps, H, W, C) from the recorded frame, (clips, steps)."""
    flat = (part.reshape(-1, *part.shape[2:]) for part in (frames, real))
    pairs = zip(*(_tensors(judge, part, what) for part in flat), strict=True)
    distances = torch.cat([judge.distance(*pair).cpu() for pair in pairs])
    return distances.numpy().reshape(real.shape[:2])


@torch.no_grad()
def _features(judge: EfficientNetLite, frames: np.ndarray, what: str) -> np.ndarray:
    """Means over each picture of all compared layers, float64 (n, channels)."""

    def of(part: Tensor) -> Tensor:
        return torch.cat([layer.mean((2, 3)) for layer in judge.features(part)], 1)

    return torch.cat([of(part).cpu() for part in _tensors(judge, frames, what)]).double().numpy()


def look_blocks(n: dict[str, Any]) -> Blocks:
    rows = [
        [
            name,
            interval(of["distance"], 3),
            number(of["fine_detail"]),
            number(of["frechet"], 3),
            number(of["flicker"], 1),
        ]
        for name, of in n["pictures"].items()
    ]
    rows.append(
        ["recorded", "", "1.00", number(n["frechet_floor"], 3), number(n["recorded_flicker"], 1)]
    )
    sharp = (
        "by the sharp decoder where nothing else is said"
        if n["has_sharp_decoder"]
        else "there is no sharp decoder, so both are the tokenizer's"
    )
    return [
        Table(
            ["pictures", "perceptual distance", "fine detail", "Fréchet distance", "flicker"], rows
        ),
        f"{n['num_clips']} clips, {n['num_frames']} frames; drawn {sharp}. The judge is "
        f"{n['judge']}, which no decoder was trained with; its distances are not LPIPS, FID or "
        f"FVD. {n['num_still']} frames stand still.",
    ]
