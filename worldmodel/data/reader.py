"""Read a set of episodes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from worldmodel.data.episodes import Episode, read_info
from worldmodel.data.shards import INDEX_DTYPE, Shard, finished_shards
from worldmodel.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# With this salt the ids 0..9 hold 8 train, 1 validation and 1 test: tiny sets have all three.
_SPLIT_SALT = b"1249"


def split_of(episode_id: int) -> Split:
    """The split an episode always belongs to: 8:1:1 by a hash of its id alone."""
    digest = hashlib.blake2b(
        episode_id.to_bytes(8, "little"), digest_size=8, salt=_SPLIT_SALT
    ).digest()
    bucket = int.from_bytes(digest, "little") % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


def empty_splits(episode_ids: Iterable[int]) -> list[Split]:
    """The splits that have none of these episodes."""
    found = set(map(split_of, episode_ids))
    return [split for split in SPLITS if split not in found]


def lacking_splits(episode_ids: Iterable[int]) -> str:
    """What to say of a data set whose episodes are not in all splits; empty: they are."""
    if not (lacking := empty_splits(episode_ids)):
        return ""
    return (
        f"no episode is in the split {' or '.join(lacking)}; training and measuring need all of "
        f"{', '.join(SPLITS)}: record or import more"
    )


class EpisodeReader:
    """The finished shards of the data set in `folder`, in the order of the episodes' ids.

    No file stays open, so a reader may be pickled, or taken through a fork.

    Attributes:
        info: what meta.json says.
        index: a structured array of one row an episode: `episode_id`, `episode_start`,
            `frame_start`, `episode_length` (actions), `seed`, `policy`, and where it is stored:
            `shard` and its `place` there.

    Raises:
        UserError: there is no data set, or a shard is damaged or of another kind.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        self.shards = tuple(Shard(path, self.info) for path in finished_shards(self.folder))
        if not self.shards:
            raise UserError(
                f"{self.folder} has no finished shard yet: run the command that records it "
                "again, it resumes where it stopped"
            )
        columns = [*INDEX_DTYPE.descr, ("shard", "<i8"), ("place", "<i8")]
        indices = []
        for number, shard in enumerate(self.shards):
            shard.check()
            index = np.zeros(len(shard.index), columns)
            index[list(INDEX_DTYPE.names or ())] = shard.index
            index["shard"], index["place"] = number, np.arange(len(index))
            indices.append(index)
        everything = np.concatenate(indices)
        self.index = everything[np.argsort(everything["episode_id"], kind="stable")]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.index)

    def digest(self) -> str:
        """sha256 of the shards, as hex: reads them whole, a second or so a gigabyte."""
        digest = hashlib.sha256()
        for shard in self.shards:
            with shard.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def check_splits(self) -> None:
        """Raises UserError unless there are episodes in all splits."""
        if lacking := lacking_splits(self.index["episode_id"].tolist()):
            raise UserError(f"{self.folder}: {lacking}")

    def split(self, name: str) -> np.ndarray:
        """Positions of a split's episodes in `index`, int64. Stable when episodes are added."""
        if name not in SPLITS:
            raise UserError(f"unknown split {name!r}; the known ones are: {', '.join(SPLITS)}")
        members = [split_of(int(episode_id)) == name for episode_id in self.index["episode_id"]]
        return np.flatnonzero(members)

    def episode(self, i: int) -> Episode:
        """The i-th episode, whole. Raises UserError where it can't be read or breaks a rule."""
        shard, place = self._where(i)
        return shard.episode(place)

    def frames(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames [start, stop) of the i-th episode, uint8 (stop - start, H, W, C).

        Raises:
            IndexError: the episode has no such frames.
            UserError: they can't be read.
        """
        shard, place = self._where(i)
        return shard.frames(place, start, stop)

    def steps(self, i: int) -> dict[str, np.ndarray]:
        """Everything of the i-th episode but its frames, under the names of `Episode`.

        Raises:
            UserError: it can't be read, or breaks a rule of episodes.
        """
        shard, place = self._where(i)
        return shard.steps(place)

    def _where(self, i: int) -> tuple[Shard, int]:
        row = self.index[i]
        return self.shards[int(row["shard"])], int(row["place"])
