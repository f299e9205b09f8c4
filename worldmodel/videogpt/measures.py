"""Reconstruction and likelihood of clips: numbers from plain arrays, and their tables."""

import math
from typing import Any

import numpy as np

from worldmodel.evaluation.baselines import best_copy, unigram_chances
from worldmodel.evaluation.tables import Blocks, Table, interval, number
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.pictures import squared_errors, ssim
from worldmodel.metrics.statistics import Interval, entropy


def measure_reconstruction(
    real: np.ndarray,
    reconstructed: np.ndarray,
    episodes: np.ndarray,
    *,
    data_variance: float,
    counts: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """How well a tokenizer reconstructs clips, and its use of codes (VideoGPT Tables 3, 6).

    Args:
        real, reconstructed: uint8 (n, T, H, W, C).
        episodes: (n,), the episode of each clip; intervals are over episodes.
        data_variance: of pixels in a range of width 1, which NMSE divides by.
        counts: (q, K), how often each code of each codebook occurs.
        seed: of the intervals.
    """
    errors = squared_errors(reconstructed, real).mean(1)
    over_episodes = Bootstrap(episodes, seed)
    nats = float(np.mean([entropy(of_book) for of_book in counts]))
    return {
        "num_clips": len(real),
        "num_frames": len(real) * real.shape[1],
        "nmse": over_episodes.mean(errors / data_variance),
        "psnr": over_episodes.psnr(errors),
        "ssim": over_episodes.mean(ssim(reconstructed, real).mean(1)),
        "codes_used": int((counts > 0).sum()),
        "num_codes": counts.size,
        "unigram_nats": nats,
        "perplexity": math.exp(nats),
    }


def measure_likelihood(
    nats: np.ndarray,
    codes: np.ndarray,
    train_codes: np.ndarray,
    episodes: np.ndarray,
    *,
    num_codes: int,
    clip_shape: tuple[int, int, int, int],
    seed: int,
    exchanged_nats: np.ndarray | None = None,
) -> dict[str, Any]:
    """How well a prior predicts codes, next to three baselines.

    The paper doesn't define its "bits/dim", so every unit here is named. The likelihood is that of
    the codes, not of the exact pixels.

    Args:
        nats: (n, N), the prior's -log p of each token of test clips, in the order (t, h, w, q).
        codes: (n, t, h, w, q), those tokens.
        train_codes: (m, t, h, w, q) of training clips, for the baselines.
        episodes: (n,), the episode of each test clip; intervals are over episodes.
        num_codes: K.
        clip_shape: (T, H, W, C) of the clips.
        seed: of the intervals.
        exchanged_nats: (n, N), as `nats`, but conditioned on another clip's given frames, actions
            and class; None for an unconditional prior, or where no two clips differ in them. For a
            prior that ignores its conditions they are the same.
    """
    num_clips, num_tokens = nats.shape
    if codes.shape[1:] != train_codes.shape[1:] or codes.size != nats.size:
        raise ValueError(f"nats {nats.shape}, codes {codes.shape}, training {train_codes.shape}")
    unigram, by_position = unigram_chances(codes, train_codes, num_codes)
    copied, copy_weight = best_copy(codes[:, 1:] == codes[:, :-1], unigram[:, 1:])
    copy_nats = np.concatenate([-np.log(unigram[:, :1]), copied], 1)  # nothing before the first
    bits = 1 / math.log(2)

    def clip_mean(token_nats: np.ndarray) -> Interval:
        return Bootstrap(episodes, seed).mean(token_nats.reshape(num_clips, -1).mean(1))

    mean, exchanged = clip_mean(nats), {}
    if exchanged_nats is not None:
        rise, a_frame = exchanged_nats - nats, num_tokens // codes.shape[1]
        exchanged = {
            "exchanged_nats": clip_mean(exchanged_nats),
            "exchange_costs": clip_mean(rise),
            "exchange_costs_first_frame": clip_mean(rise[:, :a_frame]),
        }
    return {
        "num_clips": num_clips,
        "num_tokens": num_tokens,
        "nats_a_token": mean,
        "bits_a_token": _scaled(mean, bits),
        "bits_a_pixel_channel": _scaled(mean, bits * num_tokens / math.prod(clip_shape)),
        **exchanged,
        "copy_nats": clip_mean(copy_nats),
        "copy_weight": copy_weight,
        "position_unigram_nats": clip_mean(-np.log(by_position)),
        "unigram_nats": clip_mean(-np.log(unigram)),
        "num_train_clips": len(train_codes),
    }


def _scaled(mean: Interval, factor: float) -> Interval:
    return Interval(factor * mean.value, factor * mean.low, factor * mean.high, mean.num_groups)


def reconstruction_blocks(n: dict[str, Any]) -> Blocks:
    """The table of `measure_reconstruction`."""
    header = ["clips", "NMSE", "PSNR, dB", "SSIM", "codes in use", "perplexity"]
    row = [
        str(n["num_clips"]),
        interval(n["nmse"], 4),
        interval(n["psnr"]),
        interval(n["ssim"], 4),
        f"{n['codes_used']} of {n['num_codes']}",
        number(n["perplexity"], 0),
    ]
    return [
        Table([*header, "unigram nats a token"], [[*row, number(n["unigram_nats"])]]),
        f"{n['num_frames']} frames. NMSE: squared error over the data's variance; PSNR of the mean "
        "squared error; SSIM of Wang et al. 2004, mean over colours; 95 % intervals by resampling "
        "episodes.",
    ]


def likelihood_blocks(n: dict[str, Any]) -> Blocks:
    """The table of `measure_likelihood`."""
    names = {
        "prior": "nats_a_token",
        "prior under another clip's conditions": "exchanged_nats",
        "copying, else unigram": "copy_nats",
        "unigram at each position": "position_unigram_nats",
        "unigram": "unigram_nats",
    }
    rows = [
        [name, interval(n[key], 3), number(n[key]["value"] / math.log(2), 3)]
        for name, key in names.items()
        if key in n
    ]
    exchanged = (
        [
            "Conditioned on the given frames, actions and class of another clip, the prior loses "
            f"{interval(n['exchange_costs'], 3)} nats a token, in the first latent frame "
            f"{interval(n['exchange_costs_first_frame'], 3)}: that is how much it uses its "
            "conditions.",
        ]
        if "exchange_costs" in n
        else []
    )
    return [
        Table(["", "nats a token", "bits a token"], rows),
        f"{n['num_clips']} clips of {n['num_tokens']} tokens; the prior needs "
        f"{interval(n['bits_a_pixel_channel'], 4)} bits a pixel-channel for the codes (not for the "
        f"exact pixels). The baselines count the codes of {n['num_train_clips']} training clips. "
        "Copying: the code at the same position one latent frame before with probability "
        f"{n['copy_weight']:g} (the best for these clips), else the unigram.",
        *exchanged,
    ]


def samples_blocks(n: dict[str, Any]) -> Blocks:
    given = f", {n['num_given']} frame given (red)" if n["num_given"] else ""
    return [
        f"samples.png, samples.gif: {n['num_clips']} test clips, each above (left of) its "
        f"reconstruction and a sample under its conditions{given}."
    ]
