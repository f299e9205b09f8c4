"""Long dreams: do they stay as rich as real frames, or do they collapse?"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import EpisodeReader
from worldmodel.dream import Dream, WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import RANDOM_PLAYERS, wander
from worldmodel.interface.sampling import Sampling
from worldmodel.media.film import save_png, sheet
from worldmodel.metrics.statistics import code_counts, entropy

NUM_DREAMS = 8
NUM_STEPS = 1000
BLOCK_STEPS = 100
MIN_REAL_BLOCKS = 16  # of data with shorter episodes, shorter blocks
MAX_REAL_BLOCKS = 128
STATISTICS = (
    "spread_over_space",
    "spread_over_time",
    "code_perplexity",
    "frame_change",
    "rare_codes",
)
RARE_SHARE = 0.1  # of the real frames' tokens: what the rarest codes make up together
# A dream has collapsed when, in its last block, it is far outside what real blocks show.
# Real blocks as the tokenizer gives them back: its blur is no fault of the dream.
COLLAPSE = (
    "in the last block: spread over space, spread over time, code perplexity or frame change "
    "below half of the reconstructed real blocks' 5th percentile, or frame change above twice "
    "their 95th"
)


def measure_stability(
    model: WorldModel,
    reader: EpisodeReader,
    out: Path,
    *,
    sampling: Sampling,
    seed: int,
    num_steps: int = NUM_STEPS,
) -> dict[str, Any]:
    """Statistics of blocks of long dreams under sticky random actions, beside real blocks.

    The real blocks are of episodes whose actions were random too, where the data have such: who
    wanders faces walls more often than a good player. Where an end is drawn, the game variables
    go back to those at the beginning, as no data show what comes after an end.

    Writes stability.png (curves) and long-dreams.png (frames).
    """
    members = _like_the_dreams(reader)
    if not len(members):
        raise UserError(f"{reader.folder} has no test episode to compare long dreams with")
    lengths = reader.index["episode_length"][members] + 1
    long_enough = np.sort(lengths)[-min(MIN_REAL_BLOCKS, len(lengths))]
    block = int(min(BLOCK_STEPS, num_steps, long_enough))
    members = members[lengths >= block]
    real, reconstructed, rare = _real_blocks(model, reader, members, block, seed)
    dreamed, strips, ends = _dream_blocks(
        model, reader, block, rare, sampling=sampling, seed=seed, num_steps=num_steps
    )  # (dreams, blocks, statistics)
    low, high = np.quantile(reconstructed, (0.05, 0.95), axis=0)
    names = np.asarray(STATISTICS)
    floor = np.where(names == "rare_codes", -np.inf, low / 2)
    ceiling = np.where(names == "frame_change", 2 * high, np.inf)
    outside = np.any((dreamed < floor) | (dreamed > ceiling), axis=-1)  # (dreams, blocks)
    plots.draw_stability(out / "stability.png", STATISTICS, reconstructed, dreamed, block)
    save_png(out / "long-dreams.png", sheet(list(strips), scale=2))
    return {
        "num_dreams": len(dreamed),
        "num_steps": dreamed.shape[1] * block,
        "block_steps": block,
        "num_real_blocks": len(real),
        "ends_passed_over": ends,
        "real": {name: real[:, s].mean() for s, name in enumerate(STATISTICS)},
        "reconstructed": {
            name: {"mean": reconstructed[:, s].mean(), "p5": low[s], "p95": high[s]}
            for s, name in enumerate(STATISTICS)
        },
        "dreamed": {name: dreamed[:, :, s].mean(0).tolist() for s, name in enumerate(STATISTICS)},
        "collapse_criterion": COLLAPSE,
        "share_collapsed": float(outside[:, -1].mean()),
        "share_of_blocks_outside": float(outside.mean()),
    }


def block_statistics(frames: np.ndarray, codes: np.ndarray, rare: np.ndarray) -> np.ndarray:
    """STATISTICS of one block.

    Args:
        frames: uint8 (T, H, W, C), T >= 2.
        codes: (T, h, w, q).
        rare: bool (q, K), of the codes.

    Returns:
        float64 (5,): the mean standard deviation of pixels inside a frame, that of a pixel
        over the block, exp(entropy) of the block's codes, mean over codebooks, the mean
        absolute change of a pixel a step, pixels in [0, 1], and the share of rare codes: small
        things are made of them, which a dream may lose while all else stays as rich.
    """
    pixels = frames.astype(np.float32) / 255
    nats = [entropy(counts) for counts in code_counts(codes, rare.shape[1])]
    return np.asarray(
        [
            pixels.std((1, 2)).mean(),
            pixels.std(0).mean(),
            math.exp(np.mean(nats)),
            np.abs(np.diff(pixels, axis=0)).mean(),
            np.mean([rare_codes[codes[..., q]].mean() for q, rare_codes in enumerate(rare)]),
        ],
        np.float64,
    )


def rarest(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """The rarest codes of each codebook that make up at most RARE_SHARE of its tokens together.

    Args:
        codes: (..., q).
        num_codes: K.

    Returns:
        bool (q, K).
    """
    rare = np.zeros((codes.shape[-1], num_codes), bool)
    for of_book, counts in zip(rare, code_counts(codes, num_codes), strict=True):
        order = np.argsort(counts, kind="stable")
        of_book[order[np.cumsum(counts[order]) <= RARE_SHARE * counts.sum()]] = True
    return rare


def _like_the_dreams(reader: EpisodeReader) -> np.ndarray:
    """Test episodes played at random; all test episodes where none was."""
    members = reader.split("test")
    played_alike = members[reader.index["policy"][members] == RANDOM_PLAYERS]
    return played_alike if len(played_alike) else members


def _real_blocks(
    model: WorldModel, reader: EpisodeReader, members: np.ndarray, block: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(blocks, statistics) of the first frames of episodes, one block an episode: as they
    are, and as the tokenizer gives them back. And which of their codes are rare."""
    chosen = randomness.generator(seed, "stability: real blocks").permutation(members)[
        :MAX_REAL_BLOCKS
    ]
    device = next(model.parameters()).device
    frames, codes, again = [], [], []
    for i in track(chosen.tolist(), "real blocks"):
        frames.append(reader.frames(i, 0, block))
        tokens = model.encode(torch.from_numpy(frames[-1]).to(device))
        again.append(model.draw(tokens[None])[0].cpu().numpy())
        codes.append(tokens.cpu().numpy())
    rare = rarest(np.stack(codes), model.config.tokenizer.num_codes)
    real, reconstructed = (
        np.stack([block_statistics(f, c, rare) for f, c in zip(shown, codes, strict=True)])
        for shown in (frames, again)
    )
    return real, reconstructed, rare


def _dream_blocks(
    model: WorldModel,
    reader: EpisodeReader,
    block: int,
    rare: np.ndarray,
    *,
    sampling: Sampling,
    seed: int,
    num_steps: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """(dreams, blocks, statistics); frames (dreams, 1 + blocks, H, W, C); ends drawn."""
    dream, first = _begin(model, reader, seed)
    variables_given = dream.variables
    num_dreams, num_blocks = len(first), num_steps // block
    rng = randomness.generator(seed, "stability: long dreams")
    actions = wander(rng, model.config.actions, num_dreams, num_blocks * block)
    device = next(model.parameters()).device
    blocks, strip, ends = [], [first], 0
    frames, codes = [], []
    for t in track(range(num_blocks * block), "long dreams"):
        uniforms = torch.from_numpy(rng.random((num_dreams, model.num_uniforms), np.float32))
        action = torch.from_numpy(np.ascontiguousarray(actions[:, t])).to(device)
        step, dream = model.step(dream, action, uniforms.to(device), sampling)
        ends += int(step.terminated.sum())
        revived = torch.where(step.terminated[:, None], variables_given, dream.variables)
        dream = replace(dream, variables=revived)
        frames.append(step.frames.cpu().numpy())
        codes.append(dream.codes.cpu().numpy())
        if (t + 1) % block == 0:
            of_block = zip(np.stack(frames, 1), np.stack(codes, 1), strict=True)
            blocks.append([block_statistics(f, c, rare) for f, c in of_block])
            strip.append(frames[-1])
            frames, codes = [], []
    return np.asarray(blocks).swapaxes(0, 1), np.stack(strip, 1), ends


def _begin(model: WorldModel, reader: EpisodeReader, seed: int) -> tuple[Dream, np.ndarray]:
    """Dreams from the beginnings of test episodes, and the last frame given to each."""
    num_given = model.config.prior.window
    members = reader.split("test")
    members = members[reader.index["episode_length"][members] + 1 >= num_given]
    if not len(members):
        raise UserError(f"{reader.folder}: no test episode has {num_given} frames to begin from")
    chosen = randomness.generator(seed, "stability: beginnings").permutation(members)
    chosen = np.resize(chosen, NUM_DREAMS)  # few episodes begin several dreams
    device = next(model.parameters()).device
    steps = [reader.steps(int(i)) for i in chosen]
    frames = np.stack([reader.frames(int(i), 0, num_given) for i in chosen])
    given = (
        frames,
        np.stack([step["action"][: num_given - 1] for step in steps]),
        np.stack([step["variables"][:num_given] for step in steps]),
        np.stack([step["pose"][:num_given] for step in steps]),
    )
    dream = model.start(*(torch.from_numpy(array).to(device) for array in given))
    return dream, frames[:, -1]
