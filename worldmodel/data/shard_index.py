"""Where the rows of a shard lie in its file, found by HDF5 in a guarded child.

HDF5 takes all memory, crashes or never returns on some damaged files. So it looks at a shard in
`worldmodel.storage.guarded`'s child alone, and says where each chunk of each array lies; the rows
themselves are then read from the file without it (`worldmodel.data.shards`).
"""

import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from worldmodel.errors import UserError
from worldmodel.storage.files import opened

POLICY_NAME_BYTES = 64
MOST_CHUNK_BYTES = 2**26  # of an array, unpacked
MOST_EPISODES = 2**20  # in a shard
INDEX_DTYPE = np.dtype(
    [
        ("episode_id", "<i8"),
        ("episode_start", "<i8"),
        ("frame_start", "<i8"),
        ("episode_length", "<i8"),
        ("seed", "<i8"),
        ("policy", f"S{POLICY_NAME_BYTES}"),
    ]
)

# Type and shape of one row, by the name of the array.
Layout = dict[str, tuple[np.dtype, tuple[int, ...]]]


class Chunks(NamedTuple):
    """Where an array's chunks lie.

    Attributes:
        num_rows: that the array claims to have.
        rows_a_chunk: of each chunk, the last one included.
        is_packed: whether chunks are deflated.
        numbers: int64, sorted: chunk k holds the rows from k * rows_a_chunk on.
        offsets, sizes: int64, in bytes, in the file.
        raw: bool: whether a chunk is stored as it is although the array is packed.
    """

    num_rows: int
    rows_a_chunk: int
    is_packed: bool
    numbers: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    raw: np.ndarray


def inspect(path: str, layout: Layout) -> tuple[np.ndarray, dict[str, Chunks]]:
    """The index of a shard, and where each array's chunks lie.

    Args:
        layout: that its arrays must have.

    Returns:
        INDEX_DTYPE (num_episodes,), whose rows were not checked yet; and the chunks by name.

    Raises:
        UserError: the file can't be read, or is damaged, or of another layout.
    """
    with opened(Path(path)):
        pass  # or the system's own reason
    try:
        # Locks are the folder's (`worldmodel.storage.files.locked`): some file systems have none.
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _damaged(path, error) from None
    with file:
        try:
            chunks = {name: _chunks(file, name, *row) for name, row in layout.items()}
            return _index(file), chunks
        except (UserError, MemoryError):
            raise
        except Exception as error:  # whatever h5py makes of a damaged file
            raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"can't read {path}: {os.strerror(error.errno)}")
    return UserError(
        f"{path} is damaged or truncated ({error}). Copy it again from where it came, or delete it "
        "and record its episodes again with the same command"
    )


def _index(file: h5py.File) -> np.ndarray:
    index = _own_array(file, "index")
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise UserError(
            f"{file.filename}: the index has other columns than "
            f"{', '.join(INDEX_DTYPE.fields or ())}"
        )
    if len(index) > MOST_EPISODES:
        raise UserError(
            f"{file.filename}: the index claims {len(index)} episodes, more than {MOST_EPISODES}"
        )
    _check_chunk(index)
    return index[:]


def _chunks(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Chunks:
    array = _own_array(file, name)
    if array.dtype != dtype or array.shape[1:] != shape:
        raise UserError(
            f"{file.filename}: rows of {name!r} are {array.dtype} {array.shape[1:]}, but meta.json "
            f"says {dtype} {shape}: this shard belongs to another data set"
        )
    rows_a_chunk = _check_chunk(array)
    is_packed = array.compression is not None
    if array.compression not in (None, "gzip") or array.shuffle or array.fletcher32:
        raise UserError(f"{file.filename}: {name!r} is packed in a way that is not read here")
    stored = []
    array.id.chunk_iter(stored.append)
    stored.sort(key=lambda chunk: chunk.chunk_offset[0])
    chunks = Chunks(
        num_rows=len(array),
        rows_a_chunk=rows_a_chunk,
        is_packed=is_packed,
        numbers=np.asarray([chunk.chunk_offset[0] // rows_a_chunk for chunk in stored], np.int64),
        offsets=np.asarray([chunk.byte_offset for chunk in stored], np.int64),
        sizes=np.asarray([chunk.size for chunk in stored], np.int64),
        raw=np.asarray([chunk.filter_mask != 0 for chunk in stored], bool),
    )
    order = np.argsort(chunks.offsets)
    ends = (chunks.offsets + chunks.sizes)[order]
    if (
        any(any(chunk.chunk_offset[1:]) for chunk in stored)
        or (np.diff(chunks.numbers) < 1).any()
        or (chunks.offsets[order][1:] < ends[:-1]).any()
    ):
        raise UserError(f"{file.filename} is damaged: chunks of {name!r} lie over each other")
    return chunks


def _check_chunk(array: h5py.Dataset) -> int:
    """Rows of a chunk. Raises UserError where chunks are none, or too large, or cut rows."""
    if array.chunks is None or array.chunks[1:] != array.shape[1:]:
        raise UserError(f"{array.file.filename}: {array.name!r} is not stored in chunks of rows")
    num_bytes = int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize
    if num_bytes > MOST_CHUNK_BYTES:
        raise UserError(
            f"{array.file.filename}: a chunk of {array.name!r} would take {num_bytes} bytes, more "
            f"than {MOST_CHUNK_BYTES}"
        )
    return array.chunks[0]


def _own_array(file: h5py.File, name: str) -> h5py.Dataset:
    """A plain array that lies in this very file: nothing linked, virtual or pickled."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise UserError(f"{file.filename}: the array {name!r} is missing: not a whole shard")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.ndim < 1:
        raise UserError(f"{file.filename}: {name!r} is not an array")
    if array.dtype.hasobject or array.is_virtual or array.external:
        raise UserError(
            f"{file.filename}: {name!r} holds objects or points to other files, not numbers: "
            "do not use this file"
        )
    return array
