"""How near pictures are to each other."""

import math

import numpy as np
from skimage.metrics import structural_similarity

SSIM_WINDOW = 11  # pixels, as in Wang et al. 2004


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB, for pixels in a range of width 1.

    Give it the mean error over all clips: a mean of decibels would be ruled by the few frames
    that don't move.
    """
    return math.inf if mean_squared_error == 0 else -10 * math.log10(mean_squared_error)


def squared_errors(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame, for pixels in a range of width 1.

    Args:
        frames, truth: uint8 (..., H, W, C).

    Returns:
        float64 (...).
    """
    difference = frames.astype(np.float32) - truth
    return np.square(difference).mean((-3, -2, -1), dtype=np.float64) / 255**2


def fine_energy(frames: np.ndarray) -> np.ndarray:
    """Energy of the upper half of the spatial frequencies: those above half of the highest that
    both sides of a frame can show.

    Args:
        frames: (F, C, H, W), of any scale.

    Returns:
        float64 (F,), sums over colours and frequencies.
    """
    power = np.abs(np.fft.rfft2(frames.astype(np.float64))) ** 2
    rows, columns = np.fft.fftfreq(frames.shape[-2]), np.fft.rfftfreq(frames.shape[-1])
    fine = np.hypot(rows[:, None], columns) > 0.25  # of cycles a pixel; 0.5 is the highest
    # Of a real signal half of the frequencies are left out, being the other half's mirror image.
    times = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0)
    return (power * fine * times).sum((-3, -2, -1)) / (frames.shape[-2] * frames.shape[-1])


def ssim(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame, 1 for equal ones (Wang et al. 2004).

    Windows are Gaussian and lie wholly inside the frame; each colour is compared by itself, and
    the mean is over windows and colours.

    Args:
        frames, truth: uint8 (..., H, W, C), H and W at least 11.

    Returns:
        float64 (...).
    """
    *batch, height, width, _ = truth.shape
    if frames.shape != truth.shape:
        raise ValueError(f"frames of shape {frames.shape} can't be compared with {truth.shape}")
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, not "
            f"{height}x{width}"
        )
    flat, flat_truth = (of.reshape(-1, *truth.shape[-3:]) for of in (frames, truth))
    values = [
        structural_similarity(
            *pair, channel_axis=-1, gaussian_weights=True, use_sample_covariance=False
        )
        for pair in zip(flat, flat_truth, strict=True)
    ]
    return np.array(values, np.float64).reshape(batch)


def decibels(mean_squared_errors: np.ndarray) -> np.ndarray:
    """PSNR of each of many errors, at most 120 dB."""
    # A perfect clip is 120 dB, not infinite: intervals need differences.
    return -10 * np.log10(mean_squared_errors.clip(1e-12))
