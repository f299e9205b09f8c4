"""Tensors in safetensors files: written whole or not at all, and every fault of the system an
OSError that names its cause."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.storage.files import written_whole

SCALE_SUFFIX = ".row_scale"  # of the scales beside an int8 tensor
# By their names in safetensors, what a weight of a type may be stored as.
STORED_AS = {
    torch.float32: ("F32", "F16", "BF16", "F64", "I8"),
    torch.int64: ("I64",),
}


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors whole or not at all; the umask decides who may read them.

    Raises:
        OSError: the file can't be written; the old one stays.
    """
    with written_whole(path) as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # safetensors would let only us read
        try:
            save_file(dict(tensors), unfinished, metadata=metadata)
        except SafetensorError as error:
            raise system_error(error, path) or error from None
        unfinished.chmod(mode)


@contextmanager
def opened_tensors(path: Path, framework: str = "pt") -> Iterator[Any]:
    """A file of tensors to read from.

    Raises:
        OSError: it can't be read.
        SafetensorError: it was read and is no such file.
    """
    path.open("rb").close()  # safetensors takes a file that it may not read for none
    try:
        with safe_open(path, framework) as file:
            yield file
    except SafetensorError as error:
        raise system_error(error, path) or error from None


def int8_rows(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor as int8 and, beside it, a float32 scale for each row (index of its first axis)."""
    scale = (tensor.abs().amax(tuple(range(1, tensor.ndim)), keepdim=True) / 127).clamp_min(1e-12)
    return {name: (tensor / scale).round().to(torch.int8), name + SCALE_SUFFIX: scale}


def stored_int8_rows(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """The int8 numbers and scales that a tensor was read from; None: it was stored otherwise."""
    numbers, scale = int8_rows("", tensor).values()
    is_same = (numbers * scale - tensor).abs() <= 1e-6 * tensor.abs()  # scales are rounded
    return (numbers, scale) if is_same.all() else None


def read_weight(path: Path, file: Any, name: str, wanted: Tensor) -> Tensor:
    """Read a weight of `wanted`'s shape and type from `file`, which `path` names in messages.

    Raises:
        UserError: it has another shape, is stored as something else, or holds numbers that are not
            finite.
    """
    stored = file.get_slice(name)
    shape, kind = tuple(stored.get_shape()), stored.get_dtype()
    if shape != tuple(wanted.shape):
        raise UserError(f"{path}: {name} has shape {shape}, not {tuple(wanted.shape)}")
    if kind not in STORED_AS[wanted.dtype]:
        raise UserError(
            f"{path}: {name} is stored as {kind}, not as {' or '.join(STORED_AS[wanted.dtype])}"
        )
    tensor = file.get_tensor(name)
    if kind == "I8":
        scale = file.get_slice(name + SCALE_SUFFIX)
        of_rows = [len(tensor), *[1] * (tensor.ndim - 1)]
        if tensor.ndim < 2 or scale.get_shape() != of_rows or scale.get_dtype() != "F32":
            raise UserError(f"{path}: {name} should have one scale a row")
        tensor = tensor.float() * file.get_tensor(name + SCALE_SUFFIX)
    tensor = tensor.to(wanted.dtype)  # checked next: 1e300 is finite in float64 only
    if not tensor.isfinite().all():
        raise UserError(f"{path}: {name} holds numbers that are not finite")
    return tensor


def system_error(error: SafetensorError, path: Path) -> OSError | None:
    """The system's own error behind one of safetensors; None where the content is at fault."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None:
        return None
    code = int(number[1])
    return OSError(code, os.strerror(code), str(path))
