"""How a data set is imported: an importer says what it has found, and all else is done here.

Episodes get ids by their official split, what is stored already is not read again, and what is
left out is counted.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from worldmodel.command import progress_bar, say
from worldmodel.data.episodes import UNFINISHED, DatasetInfo, Episode
from worldmodel.data.left_out import LeftOut, read_left_out
from worldmodel.data.reader import lacking_splits, split_of
from worldmodel.data.writer import EpisodeWriter
from worldmodel.errors import UserError, os_error, printable
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec

OfficialSplit = Literal["train", "test"]
# Reasons to leave something out.
NO_TARGET = "a link whose file is not there"
NO_FILE = "neither a file nor a folder"
AFTER_END = "what follows the end of an episode"
LARGEST_SIDE = 4096  # of an imported frame, in pixels


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """Options of importers that name which of the recorded numbers are the player's pose."""

    pose: tuple[str, ...] = ()
    """Names of 1 to 3 recorded numbers that are the player's position: x y."""
    heading: str | None = None
    """With --pose: name of the direction that the player faces, counterclockwise from x."""
    full_turn: float = 360.0
    """Change of the heading in a full turn: 360 for degrees, 6.2832 for radians, negative if it
    increases clockwise."""
    new_levels: bool = False
    """With --pose: every episode has a level of its own, as where levels are generated; the dream
    then learns from poses how players move, but not what is where."""

    @property
    def pose_names(self) -> tuple[str, ...]:
        return self.pose if self.heading is None else (*self.pose, self.heading)

    @property
    def pose_spec(self) -> PoseSpec:
        """Raises UserError for a part of a pose without a position."""
        if not self.pose:
            if self.heading is not None or self.new_levels:
                option = "--heading" if self.heading is not None else "--new-levels"
                raise UserError(f"{option} needs --pose")
            return NO_POSE
        return PoseSpec(self.pose, self.heading, self.full_turn, self.new_levels)


class Lack(NamedTuple):
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
        pose: float32 (T+1, P); None: the data set has none.
        rewards, terminated, truncated: (T,); None: nothing but zeros.
        lacks: why parts of the sequence are left out; empty: it is whole.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    variables: np.ndarray | None = None
    pose: np.ndarray | None = None
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None
    truncated: np.ndarray | None = None
    lacks: tuple[Lack, ...] = ()


@dataclass(frozen=True)
class Source:
    """One sequence that an importer has found.

    Attributes:
        read: gives the sequence, or why it is left out; called only if it isn't stored yet.
        origin: where it comes from, stored as the episode's policy; at most 64 bytes.
        split: the official one; None: by hash. Official training sequences are divided among
            training and validation.
        episode_id: of its own; None: the next one of its split.
        seed: None: the episode's id.
    """

    read: Callable[[], Recording | Lack]
    origin: str
    split: OfficialSplit | None = None
    episode_id: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Found:
    """What an importer has found.

    Attributes:
        info: of the data set that it makes.
        sources: in an order that is the same in every call, for it decides the episodes' ids.
        total: how many there are.
        left_out: what was found but is no source.
        partial: the reasons that `Recording.lacks` may give. Their counts stay from call to call,
            for a stored sequence isn't read again.
    """

    info: DatasetInfo
    sources: Iterable[Source]
    total: int
    left_out: LeftOut = field(default_factory=LeftOut)
    partial: tuple[str, ...] = ()


def import_found(out: Path, found: Found, *, remark: str = "") -> int:
    """Store all sources as episodes in `out`, and print what was done; resumes where it stopped.

    Args:
        remark: what to print behind the number of episodes.

    Returns:
        How many episodes the data set holds now.

    Raises:
        UserError: `out` holds another data set, a source is damaged, the disk is full, or there
            is nothing to store. Episodes stored before are kept.
    """
    ids = {split: _ids_of(split) for split in (None, "train", "test")}
    left_out = found.left_out
    with EpisodeWriter(out, found.info) as writer, progress_bar() as bar:
        (out / UNFINISHED).touch()
        before = read_left_out(out).counts
        left_out.counts |= {name: before[name] for name in found.partial if name in before}
        left_out.write(out)
        for source in bar.track(found.sources, total=found.total, description="importing"):
            own_id = source.episode_id
            episode_id = next(ids[source.split]) if own_id is None else own_id
            if episode_id in writer.done:
                continue
            recording = source.read()
            for lack in [recording] if isinstance(recording, Lack) else recording.lacks:
                left_out.add(lack.reason, lack.name)
                left_out.write(out)
            if isinstance(recording, Recording):
                writer.append(_episode(episode_id, source, recording, found.info))
        stored = writer.done
    (out / UNFINISHED).unlink()  # now that the last shard is finished too
    lines = left_out.lines()
    if not stored:
        reasons = "; ".join(" ".join(line.split()) for line in lines)
        raise UserError(f"{out} holds no episode, nothing to learn from: {reasons}")
    for line in (f"{out} holds {len(stored)} episodes{remark}", *lines):
        print(printable(line))
    if lacking := lacking_splits(stored):
        say(f"note: {lacking}")
    return len(stored)


def _ids_of(split: OfficialSplit | None) -> Iterator[int]:
    """Ids whose hash puts them where they belong: a split needs no table of its own."""
    episode_id = 0
    while True:
        if split is None or (split_of(episode_id) == "test") == (split == "test"):
            yield episode_id
        episode_id += 1


def _episode(episode_id: int, source: Source, recording: Recording, info: DatasetInfo) -> Episode:
    num_actions = len(recording.frames) - 1

    def zeros_or(given: np.ndarray | None, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.zeros(shape, dtype) if given is None else given

    return Episode(
        episode_id=episode_id,
        seed=episode_id if source.seed is None else source.seed,
        policy=source.origin,
        frames=recording.frames,
        action=zeros_or(recording.actions, (num_actions, *info.actions.shape), info.actions.dtype),
        reward=zeros_or(recording.rewards, (num_actions,), np.float32),
        terminated=zeros_or(recording.terminated, (num_actions,), bool),
        truncated=zeros_or(recording.truncated, (num_actions,), bool),
        variables=zeros_or(recording.variables, (num_actions + 1, 0), np.float32),
        pose=zeros_or(recording.pose, (num_actions + 1, 0), np.float32),
    )


def actions_within(limits: tuple[float, ...], meanings: tuple[str, ...]) -> ActionSpec:
    """Real numbers up to a limit each, either way, so that no action becomes zeros when it is
    encoded."""
    low = tuple(-limit for limit in limits)
    return ActionSpec("box", low=low, high=limits, meanings=meanings[: len(limits)])


def found_files(folder: Path, left_out: LeftOut) -> list[str]:
    """Paths of all files below a folder, with forward slashes, sorted; through links too.

    Hidden files are nobody's data. Links to folders that they lie in are passed over.

    Args:
        left_out: gets what is neither a file nor a folder.

    Raises:
        UserError: a folder can't be read.
    """
    names = []
    try:
        for base, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
            folders[:] = sorted(f for f in folders if f[0] != "." and not _leads_back(base, f))
            for path in (Path(base, file) for file in sorted(files) if file[0] != "."):
                name = path.relative_to(folder).as_posix()
                try:
                    is_file = stat.S_ISREG(path.stat().st_mode)
                except FileNotFoundError:
                    left_out.add(NO_TARGET, name)
                    continue
                if is_file:
                    names.append(name)
                else:
                    left_out.add(NO_FILE, name)
    except OSError as error:  # links in a circle, or a folder that may not be entered
        raise UserError(f"{folder} can't be read: {os_error(error)}") from None
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def _leads_back(base: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    path = Path(base, name)
    return path.is_symlink() and path.resolve() in {above.resolve() for above in path.parents}
