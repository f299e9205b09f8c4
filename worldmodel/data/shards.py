"""One HDF5 file of episodes: its layout, and reading it.

Rows of all episodes lie one after another in flat arrays. `action`, `reward`, `terminated` and
`truncated` have a row a step, from `episode_start` on; `frames`, `variables` and `pose` have one
row more an episode, from `frame_start` on. An episode's frames begin on a chunk of their own, so
appending never rewrites a chunk that holds a finished episode.

A shard may come from a stranger: HDF5 looks at it in a guarded child (`shard_index`), and rows are
read here, each chunk by itself, unpacked to no more than it may hold. No file stays open.
"""

import re
import zlib
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from worldmodel.data.episodes import (
    MOST_EPISODE_BYTES,
    DatasetInfo,
    Episode,
    step_problems,
)
from worldmodel.data.shard_index import INDEX_DTYPE as INDEX_DTYPE
from worldmodel.data.shard_index import Chunks, Layout, inspect
from worldmodel.errors import UserError
from worldmodel.storage.files import opened
from worldmodel.storage.guarded import guarded_call

FRAMES_PER_CHUNK = 4
ROWS_PER_CHUNK = 1024
FRAME_ARRAYS = ("frames", "variables", "pose")  # T+1 rows an episode; the others have T
_NUMBERED = re.compile(r"shard-([0-9]{1,9})\.h5")
MENDED = "Copy the file again, or delete it and record its episodes again with the same command"


def finished_shards(folder: Path) -> list[Path]:
    """The shards of a data set that are whole, in order."""
    return sorted(path for path in folder.glob("shard-*.h5") if _NUMBERED.match(path.name))


def unfinished_shards(folder: Path) -> list[Path]:
    """Those that are still being written, or whose writer was killed: one at most."""
    return sorted(path for path in folder.glob("shard-*.h5.tmp") if _NUMBERED.match(path.name))


def shard_number(path: Path) -> int:
    """Which shard of its data set a file is."""
    match = _NUMBERED.match(path.name)
    assert match is not None
    return int(match.group(1))


def row_layout(info: DatasetInfo) -> Layout:
    """Type and shape of one row of each array. Without variables, or a pose, there is no such."""
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


def create_shard(path: Path, info: DatasetInfo) -> None:
    """Write an empty shard."""
    with h5py.File(path, "w", locking=False) as file:
        for name, (dtype, shape) in row_layout(info).items():
            is_frames = name == "frames"
            file.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                dtype=dtype,
                chunks=(FRAMES_PER_CHUNK if is_frames else ROWS_PER_CHUNK, *shape),
                # Only frames are packed: an unpacked chunk is rewritten in its place.
                compression="gzip" if is_frames else None,
                compression_opts=1 if is_frames else None,
            )
        file.create_dataset("index", (0,), INDEX_DTYPE, maxshape=(None,), chunks=(64,))


def open_for_writing(path: Path) -> h5py.File:
    """Open a shard that this process has made: HDF5 never opens another's file here."""
    return h5py.File(path, "r+", locking=False)  # the folder is locked as a whole


def array_of(file: h5py.File, name: str) -> h5py.Dataset:
    """An array of a shard that was made here."""
    array = file[name]
    assert isinstance(array, h5py.Dataset)
    return array


def rows_of(row: np.void, name: str) -> tuple[int, int]:
    """First and one-past-last row of an episode in the array `name`."""
    length = int(row["episode_length"])
    if name in FRAME_ARRAYS:
        start = int(row["frame_start"])
        return start, start + length + 1
    start = int(row["episode_start"])
    return start, start + length


class Shard:
    """A shard for reading, looked at once; it may be pickled, and read from any process.

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
        self.index, self._chunks = guarded_call(
            f"{inspect.__module__}:{inspect.__name__}", str(path), self.layout, subject=path
        )
        self.problems = self._row_problems()

    def check(self) -> None:
        """Raises UserError where a row of the index can't be used."""
        for row, problem in zip(self.index, self.problems, strict=True):
            if problem is not None:
                raise UserError(f"{self.path}: episode {row['episode_id']}: {problem}. {MENDED}")

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

    def episode(self, i: int) -> Episode:
        """The i-th episode, whole.

        Raises:
            UserError: it can't be read, or breaks a rule of episodes.
        """
        return self._episode(i, self.steps(i))

    def unchecked_episode(self, i: int) -> Episode:
        """The same, whatever its values. Raises UserError where it can't be read."""
        return self._episode(i, self._steps(i))

    def _episode(self, i: int, steps: dict[str, np.ndarray]) -> Episode:
        row = self.index[i]
        return Episode(
            episode_id=int(row["episode_id"]),
            seed=int(row["seed"]),
            policy=row["policy"].decode(errors="replace"),
            frames=self.frames(i),
            **steps,
        )

    def _steps(self, i: int) -> dict[str, np.ndarray]:
        row = self.index[i]
        arrays = {
            name: self._read(name, *rows_of(row, name)) for name in self.layout if name != "frames"
        }
        num_frames = int(row["episode_length"]) + 1
        for name in ("variables", "pose"):
            arrays.setdefault(name, np.zeros((num_frames, 0), np.float32))
        return arrays

    def _row_problems(self) -> list[str | None]:
        lengths = self.index["episode_length"]
        problems: list[str | None] = [None] * len(self.index)
        for name, chunks in self._chunks.items():
            starts = self.index["frame_start" if name in FRAME_ARRAYS else "episode_start"]
            extra = int(name in FRAME_ARRAYS)
            most = chunks.num_rows
            empty = (lengths < 1) | (starts < 0)
            # Compared without a sum, which could overflow.
            behind = ~empty & ((lengths > most - extra) | (starts > most - extra - lengths))
            sound = ~(empty | behind)
            stops = np.where(sound, starts + lengths + extra, 1)
            first, last = (
                np.where(sound, starts, 0) // chunks.rows_a_chunk,
                (stops - 1) // chunks.rows_a_chunk,
            )
            stored = np.searchsorted(chunks.numbers, last, "right") - np.searchsorted(
                chunks.numbers, first, "left"
            )
            dtype, shape = self.layout[name]
            row_bytes = dtype.itemsize * int(np.prod(shape))
            too_large = sound & (lengths + extra > MOST_EPISODE_BYTES // max(1, row_bytes))
            lacking = sound & (stored != last - first + 1)
            for mask, problem in (
                (empty, "its index row is empty or negative"),
                (behind, f"its index row points behind the end of {name!r}"),
                (lacking, f"its rows of {name!r} are not in the file"),
                (too_large, f"it would take more than {MOST_EPISODE_BYTES >> 20} MiB"),
            ):
                for i in np.flatnonzero(mask):
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
                of_chunk = self._unpacked(file, name, chunks, k).reshape(-1, *shape)
                rows[first - start : last - start] = of_chunk[
                    first - number * size : last - number * size
                ]
        if dtype.kind == "b":
            if rows.max(initial=0) > 1:
                raise UserError(f"{self.path}: {name!r} holds what is neither true nor false")
            return rows.view(bool)
        return rows

    def _unpacked(self, file: BinaryIO, name: str, chunks: Chunks, k: int) -> np.ndarray:
        """The k-th stored chunk of an array, flat."""
        dtype, shape = self.layout[name]
        num_bytes = chunks.rows_a_chunk * int(np.prod(shape)) * dtype.itemsize
        size = int(chunks.sizes[k])
        if size > 2 * num_bytes + 1024:  # deflate never grows so much
            raise UserError(f"{self.path} is damaged: a chunk of {name!r} takes {size} bytes")
        file.seek(int(chunks.offsets[k]))
        content = file.read(size)
        if chunks.is_packed and not chunks.raw[k]:
            unpacker = zlib.decompressobj()
            try:
                content = unpacker.decompress(content, num_bytes)
                rest = unpacker.decompress(unpacker.unconsumed_tail, 1)
            except zlib.error as error:
                raise UserError(
                    f"{self.path} is damaged: a chunk of {name!r} cannot be unpacked ({error}). "
                    f"{MENDED}; `python -m worldmodel.data verify` says which episodes are affected"
                ) from None
            is_whole = unpacker.eof and not rest
        else:
            is_whole = True
        if len(content) != num_bytes or not is_whole:
            raise UserError(f"{self.path} is damaged or truncated: {name!r} is not whole. {MENDED}")
        return np.frombuffer(content, np.uint8 if dtype.kind == "b" else dtype)
