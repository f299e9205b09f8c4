"""Untrusted HDF5 files: every link and size is checked before it is used.

HDF5 itself may crash, hang or take all memory on a damaged file. So whatever opens one runs in
another process, through `guarded`.
"""

import contextlib
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]

from worldmodel.errors import UserError
from worldmodel.storage.files import opened
from worldmodel.storage.guarded import guarded_call

MAX_READ_BYTES = 2**29  # read at once, or unpacked from one chunk
MOST_MEMORY = 2**31  # bytes for a guarded call, which also packs what it has read for its caller
MAX_OBJECTS = 10_000  # in a group and the groups below it
MAX_DEPTH = 16  # of groups in groups
MAX_ATTRIBUTE_BYTES = 2**16
# Deflate packs at most 1032 to 1. A file that claims more is made to fill memory and disk.
MAX_PACKING = 2000
# What h5py raises on a damaged file, as opposed to a bug here.
_H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)


def guarded(function: str, path: Path, *arguments: Any) -> Any:
    """Call `function`, "module:name", with a path and more arguments, see `guarded_call`.

    Raises:
        UserError: the function raised one, crashed, or took too much memory or time.
    """
    path = path.absolute()  # the other process stays in the folder where it was started
    return guarded_call(function, path, *arguments, subject=path, most_memory=MOST_MEMORY)


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading. Raises UserError where it can't be read or is damaged."""
    with opened(path):
        pass  # or the system's own reason
    try:
        # Without a lock: another program may have it open, and some file systems have no locks.
        file = h5py.File(path, "r", locking=False)
    except _H5PY_ERRORS as error:
        refused = isinstance(error, OSError) and error.errno is not None
        what = "can't be read" if refused else "is no HDF5 file, or damaged"
        raise UserError(f"{path} {what}: {_reason(error)}") from None
    with file:
        yield file


def check_strings(path: Path) -> None:
    """Raise UserError where the strings in a file are damaged: HDF5 2.0 hangs on such ones.

    Strings are stored in heaps of objects: a number (2 bytes), 6 bytes that do not matter here, a
    length (8) and the content, padded to a multiple of 8. Number 0 is free space, whose length
    counts all of it; HDF5 loops forever at one of length 0.
    """
    head = b"GCOL\1\0\0\0"  # signature, version and three zeros
    if path.stat().st_size > MAX_READ_BYTES:
        raise UserError(f"{path} is larger than the {MAX_READ_BYTES} bytes read at once")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        heap = data.find(head)
        while heap >= 0:
            position = heap + 16
            end = heap + int.from_bytes(data[heap + 8 : position], "little")
            while position + 16 <= end:
                length = int.from_bytes(data[position + 8 : position + 16], "little")
                is_free = data[position : position + 2] == b"\0\0"
                position += length if is_free else 16 + -(-length // 8) * 8
                if position > min(end, len(data)) or (is_free and length < 16):
                    raise UserError(f"{path} is damaged: its strings cannot be read")
            heap = data.find(head, heap + 8)


def own_group(file: h5py.File, name: str) -> h5py.Group:
    """A group that lies in this very file. Raises UserError."""
    group = _own_object(file, name)
    if not isinstance(group, h5py.Group):
        raise UserError(f"{file.filename}: {name!r} is not a group")
    return group


def has_own(group: h5py.Group, name: str) -> bool:
    """Whether a group has an entry of this name, linked elsewhere or not. Raises UserError."""
    with _readable(f"{group.file.filename}: {group.name!r}"):
        return bool(group.id.links.exists(name.encode()))


def check_group(file: h5py.File, name: str) -> int:
    """Check everything in a group, for libraries that follow links.

    Returns:
        How many bytes its arrays claim, not counting strings and other objects.

    Raises:
        UserError: something is linked, virtual, outside the file, nested too deeply, or claims
            more than the file can hold.
    """
    num_bytes, num_objects = 0, 0
    level = [name]
    own_group(file, name)
    for _ in range(MAX_DEPTH):
        inner: list[str] = []
        for above in level:
            with _readable(f"{file.filename}: {above!r}"):
                names = list(own_group(file, above))
            num_objects += len(names)
            if num_objects > MAX_OBJECTS:
                raise UserError(f"{file.filename}: {name!r} holds more than {MAX_OBJECTS} objects")
            for below in (f"{above}/{name}" for name in names):
                found = _own_object(file, below)
                if isinstance(found, h5py.Group):
                    inner.append(below)
                elif isinstance(found, h5py.Dataset):
                    num_bytes += _check_array(found, f"{file.filename}: {below!r}")
        if not (level := inner):
            return num_bytes
    raise UserError(f"{file.filename}: {name!r} holds groups in groups, deeper than {MAX_DEPTH}")


def own_array(
    file: h5py.File, name: str, *, dtype: Any = np.generic, ndims: tuple[int, ...] = ()
) -> h5py.Dataset:
    """A plain array that lies in this very file: nothing linked, virtual or pickled.

    Args:
        name: its path in the file.
        dtype: the type of its numbers, or the kind of it (np.integer, np.floating).
        ndims: how many dimensions it may have; empty: any but none.

    Raises:
        UserError: it is missing, of another kind, or claims more than the file can hold.
    """
    where = f"{file.filename}: {name!r}"
    array = _own_object(file, name)
    if not isinstance(array, h5py.Dataset) or array.ndim < 1:
        raise UserError(f"{where} is not an array")
    with _readable(where):
        if array.dtype.hasobject:
            raise UserError(f"{where} holds objects: do not use it")
        _check_array(array, where)
        if not np.issubdtype(array.dtype, dtype) or (ndims and array.ndim not in ndims):
            raise UserError(
                f"{where} is {array.dtype} {array.shape}, not {dtype.__name__} of "
                f"{ndims[0]} dimensions"
            )
    return array


def read_rows(array: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    """Rows start..stop of an array that `own_array` gave. Raises UserError."""
    where = f"{array.file.filename}: {array.name!r}"
    num_bytes = (stop - start) * math.prod(array.shape[1:]) * array.dtype.itemsize
    if num_bytes > MAX_READ_BYTES:
        raise UserError(
            f"{where}: rows {start} to {stop} take {num_bytes} bytes, more than the "
            f"{MAX_READ_BYTES} read at once"
        )
    with _readable(where):
        return array[start:stop]


def attribute(array: h5py.Dataset, name: str) -> str | int:
    """A string or a whole number that is noted on an array. Raises UserError."""
    where = f"{array.file.filename}: {array.name!r}: its attribute {name!r}"
    with _readable(where):
        if name not in array.attrs:
            raise UserError(f"{where} is missing")
        note = array.attrs.get_id(name)
        small = note.shape == () and note.get_storage_size() <= MAX_ATTRIBUTE_BYTES
        value = array.attrs[name] if small else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.integer):
        return int(value)
    if not isinstance(value, str):
        raise UserError(f"{where} is neither a string nor an integer")
    return value


def _check_array(array: h5py.Dataset, where: str) -> int:
    """How many bytes an array claims, 0 for objects.

    Raises UserError where it lies outside of its file, or claims more than that can hold.
    """
    with _readable(where):
        if array.is_virtual or array.external:
            raise UserError(f"{where} points to other files: do not use it")
        chunk_bytes = math.prod(array.chunks or (0,)) * array.dtype.itemsize
        num_bytes = math.prod(array.shape or (0,)) * array.dtype.itemsize
        most_bytes = MAX_PACKING * array.file.id.get_filesize()
        if chunk_bytes > MAX_READ_BYTES or num_bytes > most_bytes:
            raise UserError(f"{where} claims to be {array.shape}, more than the file can hold")
    return 0 if array.dtype.hasobject else num_bytes


def _own_object(file: h5py.File, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
    """What lies under a path, if every link on the way is a hard one."""
    found: h5py.Group | h5py.Dataset | h5py.Datatype = file
    for part in name.split("/"):
        with _readable(f"{file.filename}: {name!r}"):
            if not isinstance(found, h5py.Group) or not has_own(found, part):
                raise UserError(f"{file.filename} has no {name!r}")
            # Asked of the link itself: h5py would open the file that it points to.
            if found.id.links.get_info(part.encode()).type != h5l.TYPE_HARD:
                raise UserError(
                    f"{file.filename}: {name!r} is a link to elsewhere: do not use this file"
                )
            found = found[part]
    return found


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _H5PY_ERRORS as error:
        raise UserError(f"{where} can't be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """The system's reason, where there is one; otherwise h5py's."""
    number = error.errno if isinstance(error, OSError) else None
    return str(error) if number is None else os.strerror(number)
