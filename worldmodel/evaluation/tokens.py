"""How well the tokenizer gives frames back, and how well the prior foretells their codes."""

import math
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from worldmodel.evaluation.baselines import best_copy, unigram_chances
from worldmodel.evaluation.held_out import HeldOut, console, draw_frames
from worldmodel.metrics import entropy, mean_interval, psnr_interval, squared_errors
from worldmodel.model import WorldModel

TEACHER_FORCED_CLIPS = 4  # at a time: attention over all their frames takes memory


def measure_tokenizer(held_out: HeldOut) -> dict[str, Any]:
    """Reconstruction and use of codes, on frames of the test split."""
    settings, model = held_out.settings, held_out.model
    frames, episodes = draw_frames(held_out.reader, "test", settings.num_frames, seed=settings.seed)
    errors, codes = [], []
    for part in track(
        torch.from_numpy(frames).split(64), "tokenizer", console=console, transient=True
    ):
        part_codes = model.encode(part.to(held_out.device))
        again = model.decode(part_codes).cpu().numpy()
        errors.append(squared_errors(again, part.numpy()))
        codes.append(part_codes.cpu())
    error = np.concatenate(errors)
    counts = _counts(torch.cat(codes), model)  # (q, K)
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


def measure_likelihood(held_out: HeldOut) -> dict[str, Any]:
    """Nats and bits of the test clips' codes, each frame given all the real ones before it."""
    settings, model = held_out.settings, held_out.model
    codes = held_out.real_codes.numpy()  # (clips, T, h, w, q)
    nats, hits = _foretell(held_out, held_out.actions, "likelihood")
    known, future = codes[:, held_out.num_given - 1 : -1], codes[:, held_out.num_given :]
    frames, _ = draw_frames(held_out.reader, "train", settings.num_frames, seed=settings.seed)
    parts = torch.from_numpy(frames).split(64)
    train = torch.cat([model.encode(part.to(held_out.device)).cpu() for part in parts])
    future_frames = future.reshape(-1, *train.shape[1:])
    num_codes = model.config.tokenizer.num_codes
    unigram, by_position = unigram_chances(future_frames, train.numpy(), num_codes)
    is_copy = known == future
    copy_nats, copy_weight = best_copy(is_copy.reshape(unigram.shape), unigram)
    mean = mean_interval(nats.mean(1), held_out.episodes, seed=settings.seed)
    bits = mean.value / math.log(2)
    values_a_token = math.prod(model.config.tokenizer.frame_shape) / future_frames[0].size
    return {
        "num_clips": len(held_out),
        "num_tokens": future.size,
        "nats_a_token": mean,
        "bits_a_token": bits,
        "bits_a_pixel_channel": bits / values_a_token,
        "accuracy": float(hits.mean()),
        "unigram_nats": float(-np.log(unigram).mean()),
        "position_unigram_nats": float(-np.log(by_position).mean()),
        "copy_nats": float(copy_nats.mean()),
        "copy_weight": copy_weight,
        "copy_accuracy": float(is_copy.mean()),
    }


def token_nats(held_out: HeldOut, actions: np.ndarray, what: str) -> np.ndarray:
    """Nats a token of the frames after the given ones, (clips, horizon), teacher-forced.

    Args:
        actions: (clips, horizon, *shape), told to the prior in place of the recorded ones.
        what: said beside the progress bar.
    """
    return _foretell(held_out, actions, what)[0]


@torch.no_grad()
def _foretell(held_out: HeldOut, actions: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Nats a token and the share of tokens guessed right, (clips, horizon) each."""
    model, given, device = held_out.model, held_out.num_given, held_out.device
    told = np.concatenate([held_out.clips.action[:, : given - 1], actions], 1)
    nats, hits = [], []
    rows = torch.arange(len(held_out)).split(TEACHER_FORCED_CLIPS)
    for part in track(rows, what, console=console, transient=True):
        codes = held_out.real_codes[part].to(device)
        variables = torch.from_numpy(held_out.clips.variables[part.numpy()]).to(device)
        prediction = model.prior(
            codes[:, :-1],
            model.config.actions.encode(torch.from_numpy(told[part.numpy()]).to(device)),
            variables[:, :-1],
            codes[:, 1:],
            variables[:, 1:],
        )
        logits = prediction.logits[:, given - 1 :]
        truth = codes[:, given:].flatten(2)
        loss = F.cross_entropy(logits.flatten(0, 2), truth.flatten(), reduction="none")
        nats.append(loss.view(truth.shape).mean(-1).cpu())
        hits.append((logits.argmax(-1) == truth).float().mean(-1).cpu())
    return torch.cat(nats).double().numpy(), torch.cat(hits).numpy()


def _counts(codes: Tensor, model: WorldModel) -> np.ndarray:
    """How often each code occurs in codes (..., q), by codebook: (q, K)."""
    num_codes = model.config.tokenizer.num_codes
    books = codes.flatten(0, -2).T
    return np.stack([torch.bincount(book, minlength=num_codes).numpy() for book in books])
