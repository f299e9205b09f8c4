"""Reading a dream's checkpoint, and comparing it with a data set."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.checkpoint.contents import POSES_SINCE, Checkpoint, Starts
from worldmodel.checkpoint.files import (
    check_actions,
    check_tokenizer_buffers,
    find_kind,
    read_arrays,
    read_parts,
)
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError

ADDED_ENTRIES = ("pose", "sharp_frames")  # of config.json; older formats lack them
LARGEST_EXTENT = 1e12  # of a level, and its distance from 0
SMALLEST_SPREAD = 1e-6  # of a divisor; training goes no lower than 1e-3


def load_checkpoint(name: str, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a dream's checkpoint, in evaluation mode.

    Raises:
        UserError: it is missing, damaged, its files don't belong together, or it is no dream.
    """
    clips = ("worldmodel.videogpt.sample", name, "--out", "clips.png")
    folder = find_kind(name, Checkpoint.kind, *clips)
    model, world, starts, lineage = read_parts(
        folder,
        WorldModelConfig,
        lambda config: WorldModel(config),
        _check_dream_buffers,
        _read_starts,
        added=ADDED_ENTRIES,
    )
    return Checkpoint(model.to(device).eval(), world, starts, lineage)


def check_same_world(
    checkpoint: Checkpoint,
    reader: EpisodeReader,
    name: str,
    *,
    same_environment: bool,
) -> None:
    """Raises UserError where frames, actions, variables or pose differ.

    Args:
        name: of the checkpoint, for the message.
        same_environment: whether its id and arguments must be the same, too. Measuring works in
            similar environments.
    """
    config, info = checkpoint.model.config, reader.info
    pairs: list[tuple[str, object, object]] = [
        ("frames", config.tokenizer.frame_shape, info.frame_shape),
        ("actions", config.actions, info.actions),
        ("variables", config.variable_names, info.variable_names),
    ]
    if config.pose and info.pose:
        pairs.append(("pose", config.pose, info.pose))
    if same_environment:
        world = checkpoint.world
        pairs.append(
            ("environment", (world.env_id, world.env_kwargs), (info.env_id, info.env_kwargs))
        )
    check_same(pairs, reader, name)


def check_same(pairs: list[tuple[str, object, object]], reader: EpisodeReader, name: str) -> None:
    """Raises UserError where a checkpoint and a data set differ.

    Args:
        pairs: name of a property, its value in the checkpoint, its value in the data.
        name: of the checkpoint, for the message.
    """
    for what, learned, recorded in pairs:
        if learned != recorded:
            raise UserError(
                f"{name} and {reader.folder} have different {what}: {learned} and {recorded}"
            )


def _check_dream_buffers(path: Path, weights: dict[str, Tensor]) -> None:
    """Raises UserError for values that a dream can't divide by, index with or clamp to."""
    check_tokenizer_buffers(path, weights)
    if not (weights["prior.outcome.variable_std"] >= SMALLEST_SPREAD).all():
        raise UserError(f"{path}: prior.outcome.variable_std must be above 0")
    if not (weights["prior.outcome.variable_low"] <= weights["prior.outcome.variable_high"]).all():
        raise UserError(
            f"{path}: prior.outcome.variable_low must not be above prior.outcome.variable_high"
        )
    if "prior.place.space.low" in weights:
        low, high, scale = (weights[f"prior.place.space.{n}"] for n in ("low", "high", "scale"))
        for extent in (high - low, scale):
            if not ((extent >= SMALLEST_SPREAD) & (extent <= LARGEST_EXTENT)).all():
                raise UserError(
                    f"{path}: prior.place.space must have an extent and a scale from "
                    f"{SMALLEST_SPREAD:g} to {LARGEST_EXTENT:g}"
                )
        if not ((low.abs() <= LARGEST_EXTENT) & (high.abs() <= LARGEST_EXTENT)).all():
            raise UserError(f"{path}: prior.place.space is too far from 0")
    num_used, num_bins = weights["prior.outcome.num_used"], weights["prior.outcome.bins"].shape[1]
    if not ((num_used >= 1) & (num_used <= num_bins)).all():
        raise UserError(f"{path}: prior.outcome.num_used must be from 1 to {num_bins}")


def _read_starts(path: Path, config: WorldModelConfig, version: int) -> Starts:
    types = {
        "frames": np.uint8,
        "actions": config.actions.dtype,
        "variables": np.float32,
        "poses": np.float32,
        "seeds": np.int64,
        "prefix_lengths": np.int64,
        "prefixes": config.actions.dtype,
    }
    if version < POSES_SINCE:
        del types["poses"]
    arrays = read_arrays(path, types)
    if version < POSES_SINCE:
        num_starts, num_frames = arrays["variables"].shape[:2]
        arrays["poses"] = np.zeros((num_starts, num_frames, 0), np.float32)
    starts = Starts(**arrays)
    if starts.frames.shape[2:] != config.tokenizer.frame_shape:
        raise UserError(f"{path}: frames should be of shape {config.tokenizer.frame_shape}")
    if starts.frames.shape[1] > config.prior.window:
        raise UserError(
            f"{path}: starts of {starts.frames.shape[1]} frames are longer than the window of "
            f"{config.prior.window}"
        )
    if starts.variables.shape[2:] != (len(config.variable_names),):
        raise UserError(f"{path}: variables should be {config.variable_names}")
    if starts.poses.shape[2:] != (len(config.pose),):
        raise UserError(f"{path}: poses should be {config.pose.names}")
    for name in ("variables", "poses"):
        if not np.isfinite(getattr(starts, name)).all():
            raise UserError(f"{path}: {name} should be finite")
    for name in ("actions", "prefixes"):
        check_actions(path, name, getattr(starts, name), config.actions)
    return starts
