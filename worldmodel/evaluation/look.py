"""The part "look": whether frames look like the game's, sharp, textured, and still where nothing
moves."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.command import track
from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut, draw_frames
from worldmodel.evaluation.report import Section
from worldmodel.evaluation.tables import Blocks, Table, interval, number
from worldmodel.media.frames import to_float
from worldmodel.metrics.frechet import frechet_distance
from worldmodel.metrics.perceptual import LITE2, EfficientNetLite, load_network
from worldmodel.metrics.pictures import fine_energy
from worldmodel.metrics.statistics import Interval

OPTIONS = DREAM_OPTIONS
FRAMES_AT_ONCE = 128
STILL = 1.5  # mean change of a pixel between recorded frames, in 255ths: below, nothing moves


@dataclass(frozen=True)
class OfPictures:
    distance: Interval
    """Perceptual, from the recorded frame."""
    fine_detail: float
    """Energy of the upper half of the spatial frequencies over that of recorded frames."""
    frechet: float
    """Fréchet distance of features from those of recorded frames."""
    flicker: float | None
    """Mean change of a pixel where the game stands still, in 255ths."""


@dataclass(frozen=True)
class Look:
    num_clips: int
    num_frames: int
    judge: str
    has_sharp_decoder: bool
    num_still: int
    """Pairs of recorded frames in which nothing moves."""
    pictures: dict[str, OfPictures]
    frechet_floor: float
    """Of recorded training frames from recorded test frames."""
    recorded_flicker: float | None


def measure(held_out: HeldOut, out: Path) -> Look:
    judge = load_network(LITE2, held_out.device)
    real, given = held_out.real, held_out.num_given
    seen = {
        "reconstructed": held_out.reconstructions[:, given:],
        "reconstructed, squared error": held_out.plain_reconstructions[:, given:],
        "dreamed": held_out.dreams.frames,
        "dreamed, squared error": held_out.plain(held_out.dreams),
    }
    num_frames = int(np.prod(real.shape[:2]))
    others, _ = draw_frames(held_out.reader, "train", num_frames, seed=held_out.settings.seed)
    real_features = _features(judge, real, "features of recorded frames")
    energy, still = _energy(real), _change(real) < STILL

    def flicker(frames: np.ndarray) -> float | None:
        return float(_change(frames)[still].mean()) if still.any() else None

    pictures = {}
    for name, frames in seen.items():
        distances = _distances(judge, frames, real, f"perceptual distance: {name}")
        features = _features(judge, frames, f"features: {name}")
        pictures[name] = OfPictures(
            distance=held_out.bootstrap.mean(distances.mean(1)),
            fine_detail=float(_energy(frames).sum() / energy.sum()),
            frechet=frechet_distance(features, real_features),
            flicker=flicker(frames),
        )
    floor = _features(judge, others[None], "features: floor")
    return Look(
        num_clips=len(held_out),
        num_frames=num_frames,
        judge=judge.network.name,
        has_sharp_decoder=held_out.model.sharp is not None,
        num_still=int(still.sum()),
        pictures=pictures,
        frechet_floor=frechet_distance(floor, real_features),
        recorded_flicker=flicker(real),
    )


def _change(clips: np.ndarray) -> np.ndarray:
    """Mean change of a pixel from each frame to the next, (clips, steps - 1)."""
    return np.abs(np.diff(clips.astype(np.float32), axis=1)).mean((2, 3, 4))


def _energy(clips: np.ndarray) -> np.ndarray:
    return np.concatenate([fine_energy(np.moveaxis(clip, -1, 1)) for clip in clips])


def _tensors(judge: EfficientNetLite, clips: np.ndarray, what: str) -> Iterator[Tensor]:
    """The frames of clips (n, T, H, W, C), some at a time."""
    device = next(judge.parameters()).device
    flat = torch.from_numpy(clips.reshape(-1, *clips.shape[2:]))
    for part in track(flat.split(FRAMES_AT_ONCE), what):
        yield to_float(part.to(device))


@torch.no_grad()
def _distances(
    judge: EfficientNetLite, frames: np.ndarray, real: np.ndarray, what: str
) -> np.ndarray:
    """Of each picture (clips, steps, H, W, C) from the recorded frame, (clips, steps)."""
    pairs = zip(*(_tensors(judge, part, what) for part in (frames, real)), strict=True)
    distances = torch.cat([judge.distance(*pair).cpu() for pair in pairs])
    return distances.numpy().reshape(real.shape[:2])


@torch.no_grad()
def _features(judge: EfficientNetLite, clips: np.ndarray, what: str) -> np.ndarray:
    """Means over each picture of all compared layers, float64 (pictures, channels)."""
    parts = [
        torch.cat([layer.mean((2, 3)) for layer in judge.features(part)], 1).cpu()
        for part in _tensors(judge, clips, what)
    ]
    return torch.cat(parts).double().numpy()


def blocks(n: Look) -> Blocks:
    rows = [
        [
            name,
            interval(of.distance, 3),
            number(of.fine_detail),
            number(of.frechet, 3),
            number(of.flicker, 1),
        ]
        for name, of in n.pictures.items()
    ]
    floor, flicker = number(n.frechet_floor, 3), number(n.recorded_flicker, 1)
    rows.append(["recorded", "", "1.00", floor, flicker])
    decoder = (
        "By the sharp decoder unless it says squared error"
        if n.has_sharp_decoder
        else "There is no sharp decoder, so both are the tokenizer's"
    )
    header = ["pictures", "perceptual distance", "fine detail", "Fréchet distance", "flicker"]
    return [
        Table(header, rows),
        f"{n.num_clips} clips, {n.num_frames} frames. {decoder}. The judge is {n.judge}, which no "
        "decoder was trained with; its distances are not LPIPS, FID or FVD. In "
        f"{n.num_still} pairs of recorded frames nothing moves.",
    ]


SECTION = Section(
    blocks,
    "Whether a dream looks like the game. Perceptual distance: between a recorded frame and its "
    "picture, by a network that no decoder was trained with; lower is better. Fine detail: energy "
    "of the upper half of the spatial frequencies over that of recorded frames: below 1 is blur, "
    "above 1 is grain. Fréchet distance: between all dreamed and all recorded frames, beside that "
    "between recorded and recorded ones. Flicker: how much pictures change where the game stands "
    "still, in 255ths.",
    numbers=Look,
)
