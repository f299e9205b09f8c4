"""Dreams against the real future under the same actions, frame by frame."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.command import track
from worldmodel.errors import UserError
from worldmodel.evaluation import plots
from worldmodel.evaluation.fvd import measure_fvd
from worldmodel.evaluation.held_out import HeldOut
from worldmodel.media.film import (
    framed,
    grid,
    save_gif,
    save_png,
    sheet,
    side_by_side,
)
from worldmodel.metrics.features import FeatureNetwork
from worldmodel.metrics.pictures import (
    SSIM_WINDOW,
    psnr_difference,
    psnr_interval,
    squared_errors,
    ssim,
)
from worldmodel.metrics.statistics import Interval, mean_interval

STEPS_AHEAD = (1, 2, 4, 8, 16, 32)
FILMED_CLIPS = 6
STRIP_CLIPS = 8


def steps_ahead(horizon: int) -> tuple[int, ...]:
    """Those of STEPS_AHEAD that a horizon reaches."""
    return tuple(steps for steps in STEPS_AHEAD if steps <= horizon)


def measure_horizon(held_out: HeldOut, out: Path) -> dict[str, Any]:
    """PSNR and SSIM of dreams, of copying the last given frame, and of the tokenizer's own
    pictures.

    "one" is a single dream, drawn by the decoder that learned the squared error, and "sharp" the
    same as it is shown; "mean" is the error of a single dream too, averaged over all
    samples; "best" takes, for each clip and each number of steps ahead, the sample with the
    smallest error. SSIM is of a single dream alone. Writes horizon.png and ssim.png (curves),
    real-and-dream.gif and real-and-dream.png.
    """
    settings, real = held_out.settings, held_out.real
    given = held_out.num_given
    plain = held_out.plain(held_out.dreams)
    samples = [squared_errors(plain, real)]
    for sample in range(1, settings.num_samples):
        what = f"horizon: sample {sample + 1} of {settings.num_samples}"
        dreamed = held_out.dream(held_out.actions, what=what, sample=sample)
        samples.append(squared_errors(held_out.plain(dreamed), real))
    every = np.stack(samples)  # (samples, clips, horizon)
    copied = np.broadcast_to(_last_given(held_out), real.shape)
    reconstructed = held_out.plain_reconstructions[:, given:]
    errors = {
        "one": every[0],
        "mean": every.mean(0),
        "best": every.min(0),
        "sharp": squared_errors(held_out.dreams.frames, real),
        "copy": squared_errors(copied, real),
        "ceiling": squared_errors(reconstructed, real),
    }
    shown = {
        "one": plain,
        "sharp": held_out.dreams.frames,
        "copy": copied,
        "ceiling": reconstructed,
    }
    similar = {name: _similarity(frames, real, f"SSIM: {name}") for name, frames in shown.items()}
    everywhere = range(1, settings.horizon + 1)
    plots.draw_horizon(
        out / "horizon.png",
        _intervals(psnr_interval, errors, held_out, everywhere),
        "PSNR of the mean squared error, dB",
    )
    plots.draw_horizon(
        out / "ssim.png", _intervals(mean_interval, similar, held_out, everywhere), "SSIM"
    )
    _film(held_out, out)
    chosen = steps_ahead(settings.horizon)
    return {
        "num_clips": len(held_out),
        "num_episodes": len(np.unique(held_out.episodes)),
        "num_samples": settings.num_samples,
        "num_given": given,
        "psnr": _intervals(psnr_interval, errors, held_out, chosen),
        "ssim": _intervals(mean_interval, similar, held_out, chosen),
        "one_over_copy": {steps: _against_copying(errors, held_out, steps) for steps in chosen},
    }


def measure_dreams_fvd(held_out: HeldOut, network: FeatureNetwork) -> dict[str, Any]:
    """FVD, R-FVD and FVD* of the first frames that a protocol wants of each test clip's future,
    with a floor: these against the same of training clips."""
    wanted = network.protocol.num_frames
    if held_out.settings.horizon < wanted:
        raise UserError(f"{network.metric} needs {wanted} frames: --horizon {wanted} at least")
    future = slice(held_out.num_given, held_out.num_given + wanted)
    _, training = held_out.draw("train")
    return measure_fvd(
        held_out.real[:, :wanted],
        training.frames[:, future],
        held_out.reconstructions[:, future],
        held_out.dreams.frames[:, :wanted],
        network,
    )


def _last_given(held_out: HeldOut) -> np.ndarray:
    return held_out.clips.frames[:, held_out.num_given - 1, None]


def _similarity(frames: np.ndarray, real: np.ndarray, what: str) -> np.ndarray:
    """SSIM of each frame (clips, horizon); NaN for pictures smaller than its window."""
    if min(real.shape[2:4]) < SSIM_WINDOW:
        return np.full(real.shape[:2], np.nan)
    parts = track(range(len(real)), what)
    return np.stack([ssim(frames[i], real[i]) for i in parts])


def _intervals(
    interval: Callable[..., Interval], values: dict[str, np.ndarray], held_out: HeldOut, chosen
) -> dict[str, Any]:
    """Of values (clips, horizon) by name, at the chosen numbers of steps ahead."""
    return {
        name: {
            steps: interval(of[:, steps - 1], held_out.episodes, seed=held_out.settings.seed)
            for steps in chosen
        }
        for name, of in values.items()
    }


def _against_copying(
    errors: dict[str, np.ndarray], held_out: HeldOut, steps: int
) -> dict[str, Any]:
    """One dream beside copying, clip by clip."""
    one, copy = errors["one"][:, steps - 1], errors["copy"][:, steps - 1]
    groups, seed = held_out.episodes, held_out.settings.seed
    closer = (one < copy) + 0.5 * (one == copy)
    return {
        "db": psnr_difference(one, copy, groups, seed=seed),
        "share_of_clips_closer": mean_interval(closer, groups, seed=seed),
    }


def _film(held_out: HeldOut, out: Path) -> None:
    """Real beside dream as a film that moves, and as rows of frames."""
    fps = held_out.reader.info.fps
    given = framed(held_out.clips.frames[:, : held_out.num_given])
    dreamed = held_out.dreams.frames
    films = [
        side_by_side(
            {
                "real": np.concatenate([given[i], held_out.real[i]]),
                "dream": np.concatenate([given[i], dreamed[i]]),
            },
            scale=2,
        )
        for i in range(min(FILMED_CLIPS, len(held_out)))
    ]
    save_gif(out / "real-and-dream.gif", grid(films, columns=2), fps=fps)
    at = np.asarray(steps_ahead(held_out.settings.horizon)) - 1
    rows = []
    for i in range(min(STRIP_CLIPS, len(held_out))):
        for future in (held_out.real[i], dreamed[i]):
            rows.append(np.concatenate([given[i, -1:], future[at]]))
    save_png(out / "real-and-dream.png", sheet(rows, scale=2))
