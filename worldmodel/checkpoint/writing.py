"""Writing a checkpoint, completely or not at all."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.checkpoint.contents import (
    FORMAT_VERSION,
    POLICY_FILE,
    UNFINISHED,
    AnyCheckpoint,
    World,
)
from worldmodel.checkpoint.files import HELD_TOGETHER, MAX_CONFIG_BYTES
from worldmodel.errors import UserError
from worldmodel.storage.files import (
    file_digest,
    locked,
    read_json,
    refuse_existing,
    sync,
    write_json,
    written_whole,
)
from worldmodel.storage.tensors import int8_rows, save_tensors

COMPACT_FROM = 4096  # smaller tensors stay as they are
# In int8 its errors would be four times as large, and add up over the steps of a dream.
POSE_HEAD = "prior.place.head."
_MOVED = ("README.md", *HELD_TOGETHER, "config.json")


def save_checkpoint(folder: Path, checkpoint: AnyCheckpoint, *, card: str, compact: bool) -> None:
    """Write a checkpoint. If the process stops while the files are written, the old checkpoint
    remains; if it stops while they are moved into place, `finish_save` completes the new one. They
    are never mixed: config.json has the digests of the other files. A policy in the folder stays
    unless the new checkpoint is of another world.

    Args:
        compact: for shipping: the prior's matrices as int8 with a scale for each row, but the pose
            head's and the tokenizer's weights in half precision. Otherwise all weights are stored
            exactly.

    Raises:
        OSError: it can't be written; the old one remains.
    """
    unfinished = folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _write_files(unfinished, checkpoint, card=card, compact=compact)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    old, new = _world_of(folder), _world_of(unfinished)
    if old is not None and old != new:
        (folder / POLICY_FILE).unlink(missing_ok=True)
    finish_save(folder)


def _world_of(folder: Path) -> list[Any] | None:
    """What a policy is made for in a checkpoint: environment and actions; None: nothing known."""
    try:
        config = read_json(folder / "config.json", most_bytes=MAX_CONFIG_BYTES)
        world = config["world"]
        return [world["env_id"], world["env_kwargs"], config["actions"]]
    except (OSError, UserError, LookupError, TypeError):  # no checkpoint, or a damaged one
        return None


@contextmanager
def folder_for_another(out: Path, sources: Iterable[Path], *, overwrite: bool) -> Iterator[None]:
    """Lock a folder for a checkpoint that is made from others.

    Args:
        sources: folders of the checkpoints that it is made from.
        overwrite: whether a checkpoint in the folder may be replaced.

    Raises:
        UserError: the folder is one of the sources, belongs to a training run, holds a checkpoint
            that may not be replaced, or is locked by another process.
        OSError: an interrupted save there can't be finished.
    """
    if out.resolve() in [source.resolve() for source in sources]:
        raise UserError(f"{out} holds the checkpoint to start from: choose another folder")
    with locked(out):
        if (out / "training").exists():
            raise UserError(f"{out} belongs to a training run: choose another folder")
        finish_save(out)
        refuse_existing(out / "config.json", overwrite=overwrite)
        yield


def is_or_was_saved(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, or the remains of an interrupted save."""
    return (folder / "config.json").exists() or (folder / UNFINISHED).exists()


def finish_save(folder: Path) -> None:
    """Finish a save that was interrupted while its files were moved into place, if there is one.

    Raises:
        OSError: the files can't be moved.
    """
    unfinished = folder / UNFINISHED
    if not (unfinished / "config.json").exists():  # written last
        return
    # A folder without config.json is no checkpoint: it is removed first and comes back last.
    (folder / "config.json").unlink(missing_ok=True)
    for name in _MOVED:
        if (unfinished / name).exists():  # else it was moved before the interruption
            os.replace(unfinished / name, folder / name)
    shutil.rmtree(unfinished, ignore_errors=True)
    sync(folder)


def carry_policy(source: Path, out: Path) -> None:
    """Copy the policy of one checkpoint, if it has one, to another made from it."""
    if source.resolve() == out.resolve() or not (source / POLICY_FILE).is_file():
        return
    with written_whole(out / POLICY_FILE) as unfinished:
        shutil.copyfile(source / POLICY_FILE, unfinished)


def _write_files(folder: Path, checkpoint: AnyCheckpoint, *, card: str, compact: bool) -> None:
    weights = {k: v.detach().cpu().contiguous() for k, v in checkpoint.model.state_dict().items()}
    save_tensors(folder / "weights.safetensors", _compact(weights) if compact else weights)
    starts = vars(checkpoint.starts)
    save_tensors(
        folder / "starts.safetensors",
        {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in starts.items()},
    )
    with written_whole(folder / "README.md") as path:
        path.write_text(card, encoding="utf-8")
    config = {
        "format_version": FORMAT_VERSION,
        **({} if checkpoint.kind is None else {"model": checkpoint.kind}),
        **asdict(checkpoint.model.config),
        "actions": checkpoint.model.config.actions.to_json(),
        "world": _world_to_json(checkpoint.world),
        "lineage": checkpoint.lineage,
        "files": {name: file_digest(folder / name) for name in HELD_TOGETHER},
    }
    write_json(folder / "config.json", config)


def _world_to_json(world: World) -> dict[str, Any]:
    data = asdict(world)
    sampling = data.pop("sampling")  # the other settings are always the user's
    return {**data, **{name: sampling[name] for name in ("temperature", "guidance")}}


def _compact(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    small = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.numel() < COMPACT_FROM:
            small[name] = tensor
        elif tensor.ndim == 2 and name.startswith("prior.") and not name.startswith(POSE_HEAD):
            small |= int8_rows(name, tensor)
        else:
            small[name] = tensor.half()
    return small
