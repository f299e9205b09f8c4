"""A checkpoint is written whole or not at all."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

from worldmodel.checkpoint.contents import (
    FORMAT_VERSION,
    SCALE_SUFFIX,
    VIDEOGPT,
    Checkpoint,
    VideoGPTCheckpoint,
)

COMPACT_FROM = 4096  # smaller tensors stay as they are


def save_checkpoint(
    folder: Path, checkpoint: Checkpoint | VideoGPTCheckpoint, *, card: str, compact: bool
) -> None:
    """Write a checkpoint. A stop while it is written leaves the old one, a stop while the files
    change places leaves none: never a mixture.

    Args:
        compact: for shipping: the prior's matrices as int8 with a scale for each row, the
            tokenizer's weights in half precision. Otherwise everything is kept exactly.
    """
    unfinished = folder / "unfinished.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in checkpoint.model.state_dict().items()}
    save_file(_compact(weights) if compact else weights, unfinished / "weights.safetensors")
    is_dream = isinstance(checkpoint, Checkpoint)
    starts = checkpoint.starts if is_dream else checkpoint.clips
    save_numpy(
        {k: np.ascontiguousarray(v) for k, v in vars(starts).items()},
        unfinished / "starts.safetensors",
    )
    config = {
        "format_version": FORMAT_VERSION,
        **({} if is_dream else {"model": VIDEOGPT}),
        **asdict(checkpoint.model.config),
        "actions": checkpoint.model.config.actions.to_json(),
        "world": asdict(checkpoint.world),
    }
    (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (unfinished / "README.md").write_text(card)
    for name in ("weights.safetensors", "starts.safetensors"):  # safetensors lets only us read
        shutil.copymode(unfinished / "README.md", unfinished / name)
    # A folder without a config is no checkpoint: it goes first and comes last.
    (folder / "config.json").unlink(missing_ok=True)
    for name in ("README.md", "starts.safetensors", "weights.safetensors", "config.json"):
        os.replace(unfinished / name, folder / name)
    unfinished.rmdir()


def _compact(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    small = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.numel() < COMPACT_FROM:
            small[name] = tensor
        elif name.startswith("prior.") and tensor.ndim == 2:
            scale = (tensor.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            small[name] = (tensor / scale).round().to(torch.int8)
            small[name + SCALE_SUFFIX] = scale
        else:
            small[name] = tensor.half()
    return small
