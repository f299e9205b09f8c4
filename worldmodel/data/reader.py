"""Read a set of episodes."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from worldmodel.data.episodes import Episode, read_info
from worldmodel.data.shards import (
    INDEX_DTYPE,
    open_shard,
    read_checked_index,
    read_episode,
    read_frames,
    read_rows,
    row_layout,
)
from worldmodel.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# With this salt the ids 0..9 hold 8 train, 1 validation and 1 test: tiny sets have all three.
_SPLIT_SALT = b"1249"


def split_of(episode_id: int) -> Split:
    """The split an episode belongs to, for ever: 8:1:1 by a hash of its id alone."""
    digest = hashlib.blake2b(
        episode_id.to_bytes(8, "little"), digest_size=8, salt=_SPLIT_SALT
    ).digest()
    bucket = int.from_bytes(digest, "little") % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


class EpisodeReader:
    """The finished shards of the data set in `folder`, in the order of the episodes' ids.

    Files are opened when first read, by each process for itself, so a reader may be pickled
    or taken through a fork.

    Attributes:
        info: what meta.json says.
        index: a structured array of one row an episode: `episode_id`, `episode_start`,
            `frame_start`, `episode_length` (actions), `seed`, `policy`, and `shard`.

    Raises:
        UserError: there is no data set, or a shard is damaged or of another kind.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        self.shards = tuple(sorted(self.folder.glob("shard-*.h5")))
        if not self.shards:
            raise UserError(
                f"{self.folder} has no finished shard yet: run the command that records it "
                "again, it goes on where it stopped"
            )
        self._handles: dict[int, h5py.File] = {}
        self._handles_of = os.getpid()
        indices = []
        for number, path in enumerate(self.shards):
            with open_shard(path) as file:
                rows = read_checked_index(file, self.info)
            index = np.zeros(len(rows), [*INDEX_DTYPE.descr, ("shard", "<i8")])
            for name in INDEX_DTYPE.names or ():
                index[name] = rows[name]
            index["shard"] = number
            indices.append(index)
        self.index = np.concatenate(indices)
        self.index = self.index[np.argsort(self.index["episode_id"], kind="stable")]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.index)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handles": {}, "_handles_of": -1}

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        for file in self._handles.values():
            file.close()
        self._handles = {}

    def digest(self) -> str:
        """sha256 of the shards, as hex: reads them whole, a second or so a gigabyte."""
        digest = hashlib.sha256()
        for path in self.shards:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def split(self, name: str) -> np.ndarray:
        """Positions of a split's episodes in `index`, int64. Stable when episodes are added."""
        if name not in SPLITS:
            raise UserError(f"unknown split {name!r}; the known ones are: {', '.join(SPLITS)}")
        members = [split_of(int(episode_id)) == name for episode_id in self.index["episode_id"]]
        return np.flatnonzero(members)

    def episode(self, i: int) -> Episode:
        """The i-th episode, whole."""
        return read_episode(self._file(i), self.info, self.index[i])

    def frames(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames [start, stop) of the i-th episode, uint8 (stop - start, H, W, C).

        Raises:
            IndexError: the episode has no such frames.
        """
        num_frames = int(self.index["episode_length"][i]) + 1
        stop = num_frames if stop is None else stop
        if not 0 <= start <= stop <= num_frames:
            raise IndexError(f"frames [{start}, {stop}) of an episode that has {num_frames}")
        return read_frames(self._file(i), self.index[i], start, stop)

    def steps(self, i: int) -> dict[str, np.ndarray]:
        """Everything of the i-th episode but its frames, under the names of `Episode`."""
        row, file = self.index[i], self._file(i)
        arrays = {
            name: read_rows(file, row, name) for name in row_layout(self.info) if name != "frames"
        }
        arrays.setdefault("variables", np.zeros((int(row["episode_length"]) + 1, 0), np.float32))
        return arrays

    def _file(self, i: int) -> h5py.File:
        if self._handles_of != os.getpid():
            self._handles, self._handles_of = {}, os.getpid()
        shard = int(self.index["shard"][i])
        if shard not in self._handles:
            self._handles[shard] = open_shard(self.shards[shard])
        return self._handles[shard]
