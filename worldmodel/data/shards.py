"""One HDF5 file of episodes: its layout, writing it, and reading it.

Rows of all episodes lie one after another in flat arrays. `action`, `reward`, `terminated` and
`truncated` have one row per step, from `episode_start` on; `frames`, `variables` and `pose` have
one row more per episode, from `frame_start` on. An episode's frames begin on a chunk of their own.

A shard may be untrusted, and HDF5 takes all memory, crashes or hangs on some damaged files.
So HDF5 looks at a shard in a guarded child alone (`inspect`), and says where each chunk lies. The
rows are then read without it, chunk by chunk, unpacked to no more than a chunk may hold.
"""

import io
import math
import os
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from worldmodel.data.episodes import (
    MOST_EPISODE_BYTES,
    POLICY_NAME_BYTES,
    DatasetInfo,
    Episode,
    step_problems,
)
from worldmodel.errors import UserError
from worldmodel.storage.files import opened
from worldmodel.storage.guarded import guarded_call
from worldmodel.storage.hdf5 import open_hdf5, own_array

FRAMES_PER_CHUNK = 4
ROWS_PER_CHUNK = 1024
FRAME_ARRAYS = ("frames", "variables", "pose")  # T+1 rows an episode; the others have T
MOST_CHUNK_BYTES = 2**26  # of an array, unpacked
MOST_EPISODES = 2**20  # in a shard
ADVICE = "Copy the file again, or delete it and record its episodes again with the same command"
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
_NUMBERED = re.compile(r"shard-([0-9]{1,9})\.h5")


def finished_shards(folder: Path) -> list[Path]:
    """The shards of a data set, in order."""
    return sorted(path for path in folder.glob("shard-*.h5") if _NUMBERED.fullmatch(path.name))


def waiting_files(folder: Path) -> list[Path]:
    """Files of finished episodes that are in no shard yet: one each; or an unfinished shard, as
    earlier versions wrote them."""
    one_each = sorted(folder.glob("episode-*.h5"), key=lambda path: (len(path.name), path.name))
    return one_each + sorted(folder.glob("shard-*.h5.tmp"))


def shard_number(path: Path) -> int:
    """Which shard of its data set a file is."""
    match = _NUMBERED.match(path.name)
    assert match is not None
    return int(match.group(1))


def row_layout(info: DatasetInfo) -> Layout:
    """Type and shape of one row of each array; variables and pose only where there are any."""
    layout: Layout = {
        "frames": (np.dtype(np.uint8), info.frame_shape),
        "action": (np.dtype(info.actions.dtype), info.actions.shape),
        "reward": (np.dtype(np.float32), ()),
        "terminated": (np.dtype(bool), ()),
        "truncated": (np.dtype(bool), ()),
    }
    if info.variable_names:
        layout["variables"] = (np.dtype(np.float32), (len(info.variable_names),))
    if info.pose:
        layout["pose"] = (np.dtype(np.float32), (len(info.pose),))
    return layout


def rows_of(row: np.void, name: str) -> tuple[int, int]:
    """First and one-past-last row of an episode in the array `name`."""
    length = int(row["episode_length"])
    if name in FRAME_ARRAYS:
        start = int(row["frame_start"])
        return start, start + length + 1
    start = int(row["episode_start"])
    return start, start + length


def write_shard(
    target: Path | io.BytesIO,
    info: DatasetInfo,
    episodes: Iterable[Episode],
    *,
    is_packed: bool = True,
    reserved_bytes: int = 0,
) -> None:
    """Write episodes to a new shard.

    Args:
        is_packed: whether frames are compressed.
        reserved_bytes: disk space to take before HDF5 writes: it must not meet a full disk itself,
            for it crashes then.
    """
    with h5py.File(target, "w", locking=False) as file:
        if reserved_bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.id.get_vfd_handle(), 0, reserved_bytes)
        arrays = {}
        for name, (dtype, shape) in row_layout(info).items():
            is_frames = name == "frames"
            arrays[name] = file.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                dtype=dtype,
                chunks=(FRAMES_PER_CHUNK if is_frames else ROWS_PER_CHUNK, *shape),
                compression="gzip" if is_frames and is_packed else None,
                compression_opts=1 if is_frames and is_packed else None,
            )
        rows = []
        step = frame = 0
        for episode in episodes:
            name = episode.policy.encode()
            values = (episode.episode_id, step, frame, episode.length, episode.seed, name)
            row: np.void = np.array([values], INDEX_DTYPE)[0]
            rows.append(row)
            for name, array in arrays.items():
                start, stop = rows_of(row, name)
                array.resize(stop, axis=0)
                array[start:stop] = getattr(episode, name)
            step += episode.length
            frame += math.ceil((episode.length + 1) / FRAMES_PER_CHUNK) * FRAMES_PER_CHUNK
        index = np.array(rows, INDEX_DTYPE)
        file.create_dataset("index", data=index, maxshape=(None,), chunks=(64,))
        file.flush()
        num_bytes = file.id.get_filesize()
    if isinstance(target, Path):
        os.truncate(target, num_bytes)  # give back what was reserved


@dataclass(frozen=True)
class Chunks:
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


def inspect(path: Path, layout: Layout) -> tuple[np.ndarray, dict[str, Chunks]]:
    """The index of a shard, and where each array's chunks lie. Runs in a guarded child.

    Returns:
        INDEX_DTYPE (num_episodes,), whose rows are not checked yet; and the chunks by name.

    Raises:
        UserError: the file can't be read, is damaged, or of another layout.
    """
    try:
        with open_hdf5(path) as file:
            chunks = {name: _chunks(file, name, *row) for name, row in layout.items()}
            index = own_array(file, "index")
            if index.dtype != INDEX_DTYPE or index.ndim != 1:
                columns = ", ".join(INDEX_DTYPE.names or ())
                raise UserError(f"{path}: the index has other columns than {columns}")
            if len(index) > MOST_EPISODES:
                raise UserError(
                    f"{path}: the index claims {len(index)} episodes, more than {MOST_EPISODES}"
                )
            _rows_a_chunk(index)
            return index[:], chunks
    except MemoryError:
        raise
    except UserError as error:
        raise UserError(f"{error}. {ADVICE}") from None
    except Exception as error:  # h5py may raise anything on a damaged file
        raise UserError(f"{path} is damaged ({error}). {ADVICE}") from None


def _chunks(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Chunks:
    array = own_array(file, name)
    if array.dtype != dtype or array.shape[1:] != shape:
        raise UserError(
            f"{file.filename}: rows of {name!r} are {array.dtype} {array.shape[1:]}, but meta.json "
            f"says {dtype} {shape}: this shard belongs to another data set"
        )
    rows_a_chunk = _rows_a_chunk(array)
    if array.compression not in (None, "gzip") or array.shuffle or array.fletcher32:
        raise UserError(f"{file.filename}: {name!r} is packed in a way that is not read here")
    stored = []
    array.id.chunk_iter(stored.append)
    stored.sort(key=lambda chunk: chunk.chunk_offset[0])
    chunks = Chunks(
        num_rows=len(array),
        rows_a_chunk=rows_a_chunk,
        is_packed=array.compression is not None,
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
        raise UserError(f"{file.filename} is damaged: chunks of {name!r} overlap")
    return chunks


def _rows_a_chunk(array: h5py.Dataset) -> int:
    """Raises UserError where an array has no chunks, too large ones, or ones that cut rows."""
    where = f"{array.file.filename}: {array.name!r}"
    if array.chunks is None or array.chunks[1:] != array.shape[1:]:
        raise UserError(f"{where} is not stored in chunks of rows")
    num_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if num_bytes > MOST_CHUNK_BYTES:
        raise UserError(
            f"{where}: a chunk would take {num_bytes} bytes, more than {MOST_CHUNK_BYTES}"
        )
    return array.chunks[0]


class Shard:
    """A shard for reading. No file stays open: it may be pickled, and read from any process.

    Attributes:
        index: INDEX_DTYPE (num_episodes,).
        problems: for each row of the index, why it can't be used, or None.

    Raises:
        UserError: the file can't be read, is damaged, or is not of the data set that `info`
            describes.
    """

    def __init__(self, path: Path, info: DatasetInfo) -> None:
        self.path, self.info = path, info
        self.layout = row_layout(info)
        with opened(path):
            pass  # as this process may, not as the child
        # Absolute: the child stays in the folder where it was started.
        self.index, self._chunks = guarded_call(
            f"{__name__}:inspect", path.absolute(), self.layout, subject=path
        )
        self.problems = self._row_problems()

    def check(self) -> None:
        """Raises UserError where a row of the index can't be used."""
        for row, problem in zip(self.index, self.problems, strict=True):
            if problem is not None:
                raise UserError(f"{self.path}: episode {row['episode_id']}: {problem}. {ADVICE}")

    def frames(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames [start, stop) of the i-th episode, uint8 (stop - start, H, W, C).

        Raises:
            IndexError: the episode has no such frames.
            UserError: they can't be read.
        """
        first, end = rows_of(self.index[i], "frames")
        stop = end - first if stop is None else stop
        if not 0 <= start <= stop <= end - first:
            raise IndexError(f"frames [{start}, {stop}) of an episode that has {end - first}")
        return self._read("frames", first + start, first + stop)

    def steps(self, i: int) -> dict[str, np.ndarray]:
        """Everything of the i-th episode but its frames, under the names of `Episode`.

        Raises:
            UserError: it can't be read, or breaks a rule of episodes.
        """
        arrays = self._steps(i)
        if problems := step_problems(arrays, self.info):
            raise UserError(
                f"{self.path}: episode {self.index[i]['episode_id']}: {problems[0]}. "
                "`python -m worldmodel.data verify` lists all that is wrong"
            )
        return arrays

    def episode(self, i: int, *, is_checked: bool = True) -> Episode:
        """The i-th episode, whole.

        Raises:
            UserError: it can't be read, or breaks a rule of episodes while `is_checked`.
        """
        row = self.index[i]
        return Episode(
            episode_id=int(row["episode_id"]),
            seed=int(row["seed"]),
            policy=row["policy"].decode(errors="replace"),
            frames=self.frames(i),
            **(self.steps(i) if is_checked else self._steps(i)),
        )

    def _steps(self, i: int) -> dict[str, np.ndarray]:
        row = self.index[i]
        num_frames = int(row["episode_length"]) + 1
        nothing = {name: np.zeros((num_frames, 0), np.float32) for name in ("variables", "pose")}
        stored = {
            name: self._read(name, *rows_of(row, name)) for name in self.layout if name != "frames"
        }
        return nothing | stored

    def _row_problems(self) -> list[str | None]:
        problems: list[str | None] = [None] * len(self.index)
        for name, chunks in self._chunks.items():
            dtype, shape = self.layout[name]
            row_bytes = max(1, dtype.itemsize * math.prod(shape))
            stored = chunks.numbers.tolist()
            for i, row in enumerate(self.index):
                start, stop = rows_of(row, name)
                first, last = start // chunks.rows_a_chunk, (stop - 1) // chunks.rows_a_chunk
                if row["episode_length"] < 1 or start < 0:
                    problem = "its index row is empty or negative"
                elif stop > chunks.num_rows:
                    problem = f"its index row points behind the end of {name!r}"
                elif bisect_left(stored, last + 1) - bisect_left(stored, first) != last - first + 1:
                    problem = f"its rows of {name!r} are not in the file"
                elif (stop - start) * row_bytes > MOST_EPISODE_BYTES:
                    problem = f"it would take more than {MOST_EPISODE_BYTES >> 20} MiB"
                else:
                    continue
                problems[i] = problems[i] or problem
        return problems

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of an array that a sound row of the index names."""
        chunks, (dtype, shape) = self._chunks[name], self.layout[name]
        size = chunks.rows_a_chunk
        rows = np.empty((stop - start, *shape), np.uint8 if dtype.kind == "b" else dtype)
        with opened(self.path) as file:
            for number in range(start // size, -(-stop // size)):
                k = int(np.searchsorted(chunks.numbers, number))
                first, last = max(start, number * size), min(stop, (number + 1) * size)
                chunk = np.frombuffer(self._unpacked(file, name, chunks, k), rows.dtype)
                of_chunk = chunk.reshape(-1, *shape)[first - number * size : last - number * size]
                rows[first - start : last - start] = of_chunk
        if dtype.kind == "b":
            if rows.max(initial=0) > 1:
                raise UserError(f"{self.path}: {name!r} holds what is neither true nor false")
            return rows.view(bool)
        return rows

    def _unpacked(self, file: BinaryIO, name: str, chunks: Chunks, k: int) -> bytes:
        """The k-th stored chunk of an array."""
        dtype, shape = self.layout[name]
        num_bytes = chunks.rows_a_chunk * math.prod(shape) * dtype.itemsize
        size = int(chunks.sizes[k])
        if size > 2 * num_bytes + 1024:  # deflate never grows so much
            raise UserError(f"{self.path} is damaged: a chunk of {name!r} takes {size} bytes")
        file.seek(int(chunks.offsets[k]))
        content = file.read(size)
        is_whole = True
        if chunks.is_packed and not chunks.raw[k]:
            unpacker = zlib.decompressobj()
            try:
                content = unpacker.decompress(content, num_bytes)
                is_whole = not unpacker.decompress(unpacker.unconsumed_tail, 1) and unpacker.eof
            except zlib.error as error:
                raise UserError(
                    f"{self.path} is damaged: a chunk of {name!r} cannot be unpacked ({error}). "
                    f"{ADVICE}; `python -m worldmodel.data verify` says which episodes are affected"
                ) from None
        if len(content) != num_bytes or not is_whole:
            raise UserError(f"{self.path} is damaged or truncated: {name!r} is not whole. {ADVICE}")
        return content
