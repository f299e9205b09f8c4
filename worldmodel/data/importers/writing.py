"""What all importers share: ids by official split, resuming, progress, what was left out."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from worldmodel.command import progress_bar, say
from worldmodel.data.episodes import UNFINISHED, DatasetInfo, Episode
from worldmodel.data.left_out import (
    Tally,
    begin_left_out,
    note_left_out,
    read_left_out,
)
from worldmodel.data.reader import SPLITS, split_of
from worldmodel.data.writer import EpisodeWriter
from worldmodel.errors import printable

OfficialSplit = Literal["train", "test"]


@dataclass(frozen=True)
class LeftOut:
    """Why a sequence, or a part of it, is no part of the data set.

    Attributes:
        reason: in few words, the same for all that are counted together.
        name: which one; no two in a row have the same.
    """

    reason: str
    name: str


@dataclass(frozen=True)
class Recording:
    """What one recorded sequence holds; T actions lie between its T+1 frames.

    Attributes:
        frames: uint8 (T+1, H, W, C), T at least 1.
        actions: (T, *shape) of the data set's action space; None: nobody steered.
        variables: float32 (T+1, V); None: there are none.
        lacks: why a part of the sequence was left out; None: it is whole.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    variables: np.ndarray | None = None
    lacks: LeftOut | None = None


@dataclass(frozen=True)
class Source:
    """One sequence that an importer has found.

    Attributes:
        split: the official one; None: by hash. Official training sequences are shared out
            among training and validation.
        origin: where it comes from, stored as the episode's policy; at most 64 bytes.
        read: gives the sequence, or why it is left out, its id too; called only if it isn't
            stored yet.
    """

    split: OfficialSplit | None
    origin: str
    read: Callable[[], Recording | LeftOut]


def import_sources(
    out: Path,
    info: DatasetInfo,
    sources: Iterable[Source],
    *,
    total: int | None,
    left_out: Tally | None = None,
    partial: Collection[str] = (),
) -> int:
    """Store all sources as episodes in `out`; resumes where it was stopped.

    The order of the sources decides their ids, so it must be the same in every call. What is left
    out is counted in `out`, see `left_out.py`.

    Args:
        total: how many there are, for the progress bar; None: not known.
        left_out: what was found but is no source.
        partial: the reasons that `Recording.lacks` may give. Their counts stay from call to call,
            for a stored sequence isn't read again.

    Returns:
        How many episodes the data set holds now.

    Raises:
        UserError: `out` holds another data set, a source is damaged, or the disk is full.
            Episodes stored before are kept.
    """
    ids = {split: _ids_of(split) for split in (None, "train", "test")}
    with EpisodeWriter(out, info) as writer, progress_bar() as bar:
        (out / UNFINISHED).touch()
        begin_left_out(out, left_out, but=partial)
        task = bar.add_task("importing", total=total)
        for source in sources:
            episode_id = next(ids[source.split])
            if episode_id not in writer.done:
                recording = source.read()
                lack = recording if isinstance(recording, LeftOut) else recording.lacks
                if lack is not None:
                    note_left_out(out, lack.reason, lack.name)
                if isinstance(recording, Recording):
                    writer.append(_episode(episode_id, source.origin, recording, info))
            bar.advance(task)
        num_stored, stored = len(writer.done), {split_of(i) for i in writer.done}
    (out / UNFINISHED).unlink()  # now that the last shard is finished too
    lacking = [split for split in SPLITS if split not in stored]
    if num_stored and lacking:
        say(
            f"note: no episode for {' and '.join(lacking)}; training and measuring need all of "
            f"{', '.join(SPLITS)}: import more"
        )
    return num_stored


def print_result(out: Path, said: str) -> None:
    """What an import has done, then a line for each reason to leave something out."""
    for line in (said, *read_left_out(out)):
        print(printable(line))


def _ids_of(split: OfficialSplit | None) -> Iterator[int]:
    """Ids whose hash puts them where they belong: a split needs no table of its own."""
    episode_id = 0
    while True:
        if split is None or (split_of(episode_id) == "test") == (split == "test"):
            yield episode_id
        episode_id += 1


def _episode(episode_id: int, origin: str, recording: Recording, info: DatasetInfo) -> Episode:
    num_actions = len(recording.frames) - 1
    actions, variables = recording.actions, recording.variables
    if actions is None:
        actions = np.zeros((num_actions, *info.actions.shape), info.actions.dtype)
    if variables is None:
        variables = np.zeros((num_actions + 1, 0), np.float32)
    return Episode(
        episode_id=episode_id,
        seed=episode_id,
        policy=origin,
        frames=recording.frames,
        action=actions,
        reward=np.zeros(num_actions, np.float32),
        terminated=np.zeros(num_actions, bool),
        truncated=np.zeros(num_actions, bool),
        variables=variables,
    )
