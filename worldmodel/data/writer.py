"""Append episodes to a data set so that no finished one is ever lost.

A shard is written as `shard-00000.h5.tmp`: the frames, a flush, the index row, a flush. A
killed process leaves a file whose index ends with the last finished episode; the next writer
copies it that far and goes on. A full shard is synced and renamed to `shard-00000.h5`. The folder
is locked from opening to closing.
"""

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from worldmodel.data.episodes import (
    DatasetInfo,
    Episode,
    episode_problems,
    read_info,
    write_info,
)
from worldmodel.data.shards import (
    FRAME_ARRAYS,
    FRAMES_PER_CHUNK,
    INDEX_DTYPE,
    Shard,
    array_of,
    create_shard,
    finished_shards,
    open_for_writing,
    row_layout,
    rows_of,
    shard_number,
    unfinished_shards,
)
from worldmodel.errors import UserError, os_error
from worldmodel.storage.files import locked, sync

# Room for HDF5's own bookkeeping, beside the bytes stored.
SPARE_BYTES = 2**20


class EpisodeWriter:
    """Appends episodes to the data set in `folder`; one process at a time.

    Args:
        folder: made when missing. A set that is there already is continued.
        info: the set's description, written to meta.json; an existing meta.json is kept.
        episodes_per_shard: a file is finished when it holds so many.
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
        self._file: h5py.File | None = None
        self._is_closed = False
        self._rows = np.zeros(0, INDEX_DTYPE)  # of the open shard
        self._refuse_other_sets(info)
        with contextlib.ExitStack() as opening:
            if not is_locked:
                opening.enter_context(locked(self.folder))
            self.info = self._continue_or_begin(info)
            finished = finished_shards(self.folder)
            for path in finished:
                shard = Shard(path, self.info)
                shard.check()
                self.done.update(shard.index["episode_id"].tolist())
            self._next_shard = 1 + max(map(shard_number, finished), default=-1)
            unfinished = unfinished_shards(self.folder)
            if len(unfinished) > 1:
                raise UserError(f"{self.folder} has several unfinished shards: keep one .tmp only")
            if unfinished:
                self._resume(unfinished[0])
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
        with _interrupts_wait():
            self._append(episode)

    def close(self) -> None:
        """Finish the open shard. May be called again."""
        self._is_closed = True
        try:
            with _interrupts_wait():
                self._finish_shard()
        except (OSError, RuntimeError) as error:
            self._abandon_shard()
            raise self._unwritable(error) from error
        finally:
            self._lock.close()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse_other_sets(self, info: DatasetInfo) -> None:
        """Raises UserError where the folder holds something else; before anything is written."""
        if not (self.folder / "meta.json").exists():
            if any(self.folder.glob("shard-*.h5*")):
                raise UserError(
                    f"{self.folder} holds shards but no meta.json: put that file back, or "
                    "choose another folder"
                )
            return
        if differences := read_info(self.folder).differences(info):
            raise UserError(
                f"{self.folder} holds episodes of another kind: {'; '.join(differences)}. "
                "Choose another folder"
            )

    def _continue_or_begin(self, info: DatasetInfo) -> DatasetInfo:
        """The set's description as it stands in the folder, which is now ours alone."""
        self._refuse_other_sets(info)
        if (self.folder / "meta.json").exists():
            return read_info(self.folder)
        write_info(self.folder, info)
        return info

    def _resume(self, path: Path) -> None:
        """Go on behind the last whole episode of an unfinished shard, in a copy of it.

        HDF5 writes where the used part of a file ends last of all. A file whose writer was killed
        before may hold chunks behind that end: it can be read, and breaks when it is written.
        """
        self._next_shard = shard_number(path)
        killed = Shard(path, self.info)
        with self._failing_whole():
            create_shard(self._path(".new"), self.info)
            self._file = open_for_writing(self._path(".new"))
            for episode in self._whole_episodes(killed):
                with _interrupts_wait():
                    self._store(episode)
            os.replace(self._path(".new"), path)
        if len(self._rows) >= self.episodes_per_shard:
            self._finish_shard()

    def _whole_episodes(self, shard: Shard) -> Iterator[Episode]:
        """The first episodes of a shard, as far as they are sound."""
        for i, problem in enumerate(shard.problems):
            if problem is not None:
                return
            try:
                episode = shard.episode(i)
            except UserError:
                return
            if episode_problems(episode, self.info):
                return
            yield episode

    def _append(self, episode: Episode) -> None:
        with self._failing_whole():
            if self._file is None:
                self._file = self._begin_shard()
            self._store(episode)
            if len(self._rows) >= self.episodes_per_shard:
                self._finish_shard()

    @contextlib.contextmanager
    def _failing_whole(self) -> Iterator[None]:
        """What can't be written becomes a UserError; what was stored before stays."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._abandon_shard()
            self._path(".new").unlink(missing_ok=True)
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> UserError:
        """What to say where the system, or HDF5, can't write."""
        reason = os_error(error) if isinstance(error, OSError) else error
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        advice = "make room and " if is_full else ""
        return UserError(
            f"cannot write to {self.folder}: {reason}. The {len(self.done)} finished episodes "
            f"are kept: {advice}run the same command again"
        )

    def _store(self, episode: Episode) -> None:
        """Put an episode into the open shard, its row of the index last."""
        assert self._file is not None
        self._reserve(2 * episode.frames.nbytes + episode.variables.nbytes)
        row = self._write_rows(episode)
        self._file.flush()
        self._reserve(0)
        array_of(self._file, "index").resize(len(self._rows) + 1, axis=0)
        array_of(self._file, "index")[len(self._rows)] = row
        self._file.flush()
        self._rows = np.append(self._rows, row)
        self.done.add(episode.episode_id)

    def _path(self, suffix: str) -> Path:
        return self.folder / f"shard-{self._next_shard:05d}.h5{suffix}"

    def _begin_shard(self) -> h5py.File:
        self._check_space(0)
        # Under another name until it is whole: a .tmp can be opened whenever we are killed.
        create_shard(self._path(".new"), self.info)
        os.replace(self._path(".new"), self._path(".tmp"))
        self._rows = np.zeros(0, INDEX_DTYPE)
        return open_for_writing(self._path(".tmp"))

    def _write_rows(self, episode: Episode) -> np.void:
        assert self._file is not None
        starts = self._ends()
        row = np.zeros(1, INDEX_DTYPE)[0]
        row["episode_id"] = episode.episode_id
        row["episode_start"] = starts["reward"]
        row["frame_start"] = starts["frames"]
        row["episode_length"] = episode.length
        row["seed"] = episode.seed
        row["policy"] = episode.policy.encode()
        for name in row_layout(self.info):
            start, stop = rows_of(row, name)
            array_of(self._file, name).resize(stop, axis=0)
            array_of(self._file, name)[start:stop] = getattr(episode, name)
        return row

    def _ends(self) -> dict[str, int]:
        """Where the next episode's rows begin in each array."""
        if len(self._rows) == 0:
            return dict.fromkeys(row_layout(self.info), 0)
        last = self._rows[-1]
        ends = {name: rows_of(last, name)[1] for name in row_layout(self.info)}
        frames_end = -(-ends["frames"] // FRAMES_PER_CHUNK) * FRAMES_PER_CHUNK
        return {name: frames_end if name in FRAME_ARRAYS else end for name, end in ends.items()}

    def _trim(self) -> None:
        """Cut off what belongs to no finished episode."""
        assert self._file is not None
        array_of(self._file, "index").resize(len(self._rows), axis=0)
        for name in row_layout(self.info):
            end = rows_of(self._rows[-1], name)[1] if len(self._rows) else 0
            array_of(self._file, name).resize(end, axis=0)

    def _reserve(self, num_bytes: int) -> None:
        """Take disk space for what HDF5 is about to write, or raise OSError.

        HDF5 must not meet a full disk itself: it leaves the file unreadable, and crashes.
        """
        self._check_space(num_bytes)
        if hasattr(os, "posix_fallocate"):  # else the check has to do
            assert self._file is not None
            end = self._file.id.get_filesize()
            os.posix_fallocate(self._file.id.get_vfd_handle(), end, num_bytes + SPARE_BYTES)

    def _check_space(self, num_bytes: int) -> None:
        if shutil.disk_usage(self.folder).free < num_bytes + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _finish_shard(self) -> None:
        if self._file is None:
            return
        if len(self._rows) == 0:
            self._abandon_shard()
            self._path(".tmp").unlink()
            return
        self._trim()
        self._file.flush()
        num_bytes = self._file.id.get_filesize()
        self._file.close()
        self._file = None
        os.truncate(self._path(".tmp"), num_bytes)  # give back what was reserved
        sync(self._path(".tmp"))
        os.replace(self._path(".tmp"), self._path(""))
        sync(self.folder)
        self._next_shard += 1
        self._rows = np.zeros(0, INDEX_DTYPE)

    def _abandon_shard(self) -> None:
        """Let go of the open shard; what was flushed stays for the next writer."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError, RuntimeError):  # the caller reports what is wrong
                file.close()


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
