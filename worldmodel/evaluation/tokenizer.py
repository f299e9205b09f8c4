"""The part "tokenizer": how well it reconstructs frames."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldmodel.command import track
from worldmodel.evaluation.held_out import HeldOut, draw_frames
from worldmodel.evaluation.report import Headline, Section
from worldmodel.evaluation.tables import Blocks, Table, interval, number
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.pictures import squared_errors
from worldmodel.metrics.statistics import Interval, code_counts, entropy

OPTIONS = ("frames", "seed")


@dataclass(frozen=True)
class Tokenizer:
    num_frames: int
    psnr: Interval
    nmse: float
    """Squared error over the variance of the data."""
    codes_used: int
    num_codes: int
    unigram_nats: float
    """Entropy of the codes, mean over codebooks."""
    perplexity: float
    """Its exponential."""


def measure(held_out: HeldOut, out: Path) -> Tokenizer:
    settings, model = held_out.settings, held_out.model
    frames, episodes = draw_frames(held_out.reader, "test", settings.num_frames, seed=settings.seed)
    errors, codes = [], []
    for part in track(torch.from_numpy(frames).split(64), "tokenizer"):
        codes.append(model.encode(part.to(held_out.device)))
        errors.append(squared_errors(model.decode(codes[-1]).cpu().numpy(), part.numpy()))
    error = np.concatenate(errors)
    counts = code_counts(torch.cat(codes).cpu().numpy(), model.config.tokenizer.num_codes)
    nats = float(np.mean([entropy(of_book) for of_book in counts]))
    return Tokenizer(
        num_frames=len(frames),
        psnr=Bootstrap(episodes, settings.seed).psnr(error),
        nmse=float(error.mean()) / float(model.tokenizer.data_variance),
        codes_used=int((counts > 0).sum()),
        num_codes=counts.size,
        unigram_nats=nats,
        perplexity=math.exp(nats),
    )


def blocks(n: Tokenizer) -> Blocks:
    row = {
        "frames": str(n.num_frames),
        "PSNR, dB": interval(n.psnr),
        "NMSE": number(n.nmse, 4),
        "codes in use": f"{n.codes_used} of {n.num_codes}",
        "perplexity": number(n.perplexity, 0),
        "unigram nats a token": number(n.unigram_nats),
    }
    return [Table(list(row), [list(row.values())])]


def headlines(n: Tokenizer) -> list[Headline]:
    return [Headline("tokenizer", f"{interval(n.psnr, 1)} dB", "PSNR of real frames")]


SECTION = Section(
    blocks,
    "How much is lost before anything is dreamed: frames are drawn from a codebook, and no dream "
    "can look better than the tokenizer's reconstructions of real frames.",
    headlines=headlines,
    numbers=Tokenizer,
)
