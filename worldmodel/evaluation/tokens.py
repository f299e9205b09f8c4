"""How well the tokenizer gives frames back."""

import math
from typing import Any

import numpy as np
import torch

from worldmodel.command import track
from worldmodel.evaluation.held_out import HeldOut, draw_frames
from worldmodel.metrics.pictures import psnr_interval, squared_errors
from worldmodel.metrics.statistics import code_counts, entropy


def measure_tokenizer(held_out: HeldOut) -> dict[str, Any]:
    """Reconstruction and use of codes, on frames of the test split."""
    settings, model = held_out.settings, held_out.model
    frames, episodes = draw_frames(held_out.reader, "test", settings.num_frames, seed=settings.seed)
    errors, codes = [], []
    for part in track(torch.from_numpy(frames).split(64), "tokenizer"):
        part_codes = model.encode(part.to(held_out.device))
        again = model.decode(part_codes).cpu().numpy()
        errors.append(squared_errors(again, part.numpy()))
        codes.append(part_codes.cpu())
    error = np.concatenate(errors)
    counts = code_counts(torch.cat(codes).numpy(), model.config.tokenizer.num_codes)
    nats = float(np.mean([entropy(of_book) for of_book in counts]))
    return {
        "num_frames": len(frames),
        "psnr": psnr_interval(error, episodes, seed=settings.seed),
        "nmse": float(error.mean()) / float(model.tokenizer.data_variance),
        "codes_used": int((counts > 0).sum()),
        "num_codes": counts.size,
        "unigram_nats": nats,
        "perplexity": math.exp(nats),
    }
