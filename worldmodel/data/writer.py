"""Append episodes to a data set so that no finished one is ever lost.

Each episode is first written to a file of its own, `episode-12.h5`, which appears whole or not at
all. When there are enough of them, they are packed into a shard, `shard-00000.h5`, and removed.
Whatever interrupts the writer, the next one resumes from these files. The folder is locked from
opening to closing.
"""

import contextlib
import errno
import io
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from worldmodel.data.episodes import (
    DatasetInfo,
    Episode,
    episode_problems,
    read_info,
    write_info,
)
from worldmodel.data.shards import (
    Shard,
    finished_shards,
    shard_number,
    waiting_files,
    write_shard,
)
from worldmodel.errors import UserError, os_error
from worldmodel.storage.files import locked, sync

MOST_WAITING_BYTES = 2**30  # of episodes that wait, uncompressed, to be packed
SPARE_BYTES = 2**20  # of the disk, beside what is stored: for HDF5's own bookkeeping


class EpisodeWriter:
    """Appends episodes to the data set in `folder`; one process at a time.

    Args:
        folder: made when missing. A set that is there already is continued.
        info: the set's description, written to meta.json; an existing meta.json is kept.
        episodes_per_shard: how many episodes make a shard; fewer where they take a gigabyte.
        is_locked: whether the caller holds the folder's lock (`worldmodel.storage.files.locked`).

    Attributes:
        done: ids of all the episodes stored.
        info: the set's description as stored.

    Raises:
        UserError: the folder holds episodes of another environment, frame shape or action
            space, or damaged ones; or another process writes to it. Nothing was written then.
    """

    def __init__(
        self,
        folder: str | Path,
        info: DatasetInfo,
        *,
        episodes_per_shard: int = 100,
        is_locked: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.episodes_per_shard = episodes_per_shard
        self.done: set[int] = set()
        self._waiting: list[Path] = []  # files of the episodes that make the next shard
        self._is_closed = self._has_failed = False
        self._stored_info(info)  # refuses other sets before anything is written
        with contextlib.ExitStack() as opening:
            if not is_locked:
                opening.enter_context(locked(self.folder))
            stored = self._stored_info(info)
            if stored is None:
                write_info(self.folder, info)
            self.info = stored or info
            finished = finished_shards(self.folder)
            for path in finished:
                shard = Shard(path, self.info)
                shard.check()
                self.done.update(shard.index["episode_id"].tolist())
            self._next_shard = 1 + max(map(shard_number, finished), default=-1)
            self._resume()
            self._lock = opening.pop_all()

    def append(self, episode: Episode) -> None:
        """Store an episode; once this returns, killing the process does not lose it.

        Raises:
            UserError: the episode breaks a rule, its id is taken, or the disk is full. The
                episodes stored before are kept.
        """
        if self._is_closed:
            raise UserError(f"the writer of {self.folder} is closed: open another to append")
        problems = episode_problems(episode, self.info)
        if episode.episode_id in self.done:
            problems.append("an episode of this id is stored already")
        if problems:
            raise UserError(f"episode {episode.episode_id}: {'; '.join(problems)}")
        with self._writing():
            self._store(episode)
            if self._is_shard_full():
                self._write_shard()

    def close(self) -> None:
        """Make a shard of the last episodes. May be called again."""
        self._is_closed = True
        try:
            if not self._has_failed:
                with self._writing():
                    self._write_shard()
        finally:
            self._lock.close()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored_info(self, info: DatasetInfo) -> DatasetInfo | None:
        """What meta.json says; None where nothing is stored yet.

        Raises UserError where the folder holds something else.
        """
        if (self.folder / "meta.json").exists():
            stored = read_info(self.folder)
            if differences := stored.differences(info):
                raise UserError(
                    f"{self.folder} holds episodes of another kind: {'; '.join(differences)}. "
                    "Choose another folder"
                )
            return stored
        if finished_shards(self.folder) or waiting_files(self.folder):
            raise UserError(
                f"{self.folder} holds episodes but no meta.json: put that file back, or choose "
                "another folder"
            )
        return None

    def _resume(self) -> None:
        """Take over the episodes that an interrupted writer has left, as far as they are sound."""
        self._remove_unfinished()
        for path in waiting_files(self.folder):
            shard = Shard(path, self.info)
            kept = None
            for i, problem in enumerate(shard.problems):
                episode = None if problem else _sound_episode(shard, i)
                if episode is None:
                    break
                if episode.episode_id not in self.done:
                    with self._writing():
                        kept = self._store(episode)
            if path != kept:
                path.unlink()
        if self._is_shard_full():
            with self._writing():
                self._write_shard()

    def _store(self, episode: Episode) -> Path:
        """Write an episode to a file of its own."""
        content = io.BytesIO()
        write_shard(content, self.info, [episode], is_packed=False)
        path = self.folder / f"episode-{episode.episode_id}.h5"
        self._check_space(len(content.getbuffer()))
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(content.getbuffer())
        os.replace(unfinished, path)
        self._waiting.append(path)
        self.done.add(episode.episode_id)
        return path

    def _waiting_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._waiting)

    def _is_shard_full(self) -> bool:
        is_full = len(self._waiting) >= self.episodes_per_shard
        return is_full or self._waiting_bytes() >= MOST_WAITING_BYTES

    def _write_shard(self) -> None:
        """Pack the waiting episodes into a shard."""
        if not self._waiting:
            return
        path = self.folder / f"shard-{self._next_shard:05d}.h5"
        num_bytes = self._waiting_bytes()
        self._check_space(num_bytes)
        unfinished = path.with_suffix(".new")
        episodes = (Shard(waiting, self.info).episode(0) for waiting in self._waiting)
        write_shard(unfinished, self.info, episodes, reserved_bytes=num_bytes + SPARE_BYTES)
        sync(unfinished)
        os.replace(unfinished, path)
        sync(self.folder)
        self._next_shard += 1
        for waiting in self._waiting:
            waiting.unlink()
        self._waiting = []

    def _remove_unfinished(self) -> None:
        for path in (*self.folder.glob("episode-*.new"), *self.folder.glob("shard-*.new")):
            path.unlink(missing_ok=True)

    def _check_space(self, num_bytes: int) -> None:
        if shutil.disk_usage(self.folder).free < num_bytes + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What can't be written becomes a UserError; what was stored before stays."""
        try:
            with _interrupts_wait():
                yield
        except (OSError, RuntimeError) as error:
            self._has_failed = True
            self._remove_unfinished()
            reason = os_error(error) if isinstance(error, OSError) else error
            is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
            advice = "make room and " if is_full else ""
            raise UserError(
                f"cannot write to {self.folder}: {reason}. The {len(self.done)} finished episodes "
                f"are kept: {advice}run the same command again"
            ) from error


def _sound_episode(shard: Shard, i: int) -> Episode | None:
    try:
        episode = shard.episode(i)
    except UserError:
        return None
    return None if episode_problems(episode, shard.info) else episode


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until HDF5 is done: inside h5py a KeyboardInterrupt gets lost."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    arrived: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *arguments: arrived.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            handler(*arrived[0])
