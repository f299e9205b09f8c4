"""Tensors in safetensors files: written whole or not at all, and every fault of the system an
OSError that names its cause."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldmodel.storage.files import written_whole


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


def system_error(error: SafetensorError, path: Path) -> OSError | None:
    """The system's own error behind one of safetensors; None where the content is at fault."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None:
        return None
    code = int(number[1])
    return OSError(code, os.strerror(code), str(path))
