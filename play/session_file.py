"""A session as it is written: line by line while it is played, so that a crash loses nothing."""

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from play.pilot import Moment
from play.replay import FORMAT, MAX_FILE_BYTES, MAX_VALUES, VERSION, num_values
from play.worlds import UnopenedWorld
from worldmodel.errors import UserError, os_error
from worldmodel.storage.files import refuse_existing

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where two plays on one new file are refused all the same
    fcntl = None


class SessionFile:
    """Writes a session. While it is open, no other play can write to it.

    Args:
        path: what stands there already is left as it is until the first moment comes.
        world: what is played.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: the file exists, can't be written, or another play is writing it.
    """

    def __init__(self, path: Path, world: UnopenedWorld, *, overwrite: bool) -> None:
        refuse_existing(path, overwrite=overwrite)
        self.path = path
        self._world = world
        self._is_new = not os.path.lexists(path)
        self._num_bytes = self._num_values = 0
        self._file: BinaryIO = _opened(path, may_exist=overwrite)
        try:
            keep_others_out(self._file, path)
        except UserError:
            self._file.close()
            raise

    @property
    def has_begun(self) -> bool:
        return self._num_bytes > 0

    def add(self, moment: Moment) -> None:
        """Write a moment down.

        Raises:
            UserError: the disk is full, or the session is.
        """
        if not self.has_begun:
            self._file.truncate(0)
            head = {
                "format": FORMAT,
                "version": VERSION,
                "env_id": self._world.env_id,
                "checkpoint": self._world.checkpoint,
                **vars(self._world.sampling),
                "frame_size": moment.frame.shape[:2],
            }
            self._append("[\n", head)
        if moment.action is None:
            entry: Any = {"seed": moment.seed, "start": moment.start, "mark": moment.mark}
        else:
            entry = [moment.action, moment.mark]
        self._append("", entry)

    def finish(self) -> None:
        """End the file, or leave none where nothing was seen.

        Raises:
            UserError: the end can't be written; the file can be replayed all the same.
        """
        try:
            if self.has_begun:
                # Over the last comma, and what a full disk cut off.
                self._file.truncate(self._num_bytes - len(b",\n"))
                self._file.seek(0, os.SEEK_END)
                self._write(b"\n]\n")
                os.fsync(self._file.fileno())
            elif self._is_new:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"can't write {self.path}: {os_error(error)}") from error
        finally:
            with contextlib.suppress(OSError):
                self._file.close()

    def _append(self, before: str, entry: Any) -> None:
        line = f"{before}{json.dumps(entry)},\n".encode()
        total = self._num_bytes + len(line), self._num_values + num_values(line)
        if total[0] >= MAX_FILE_BYTES or total[1] > MAX_VALUES:
            raise UserError(f"{self.path} is full: record what comes now under another name")
        try:
            self._write(line)
        except OSError as error:
            raise UserError(f"can't write {self.path}: {os_error(error)}") from error
        self._num_bytes, self._num_values = total

    def _write(self, line: bytes) -> None:
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def keep_others_out(file: BinaryIO, path: Path) -> None:
    """Hold an open file until it is closed, or the process dies.

    Raises:
        UserError: another play holds it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path} is in use by another play: wait until that is done, or choose another name"
        ) from None
    except OSError:
        return  # a file system without locks


def _opened(path: Path, *, may_exist: bool) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | (0 if may_exist else os.O_EXCL)
    try:
        handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except FileExistsError:  # since it was looked for
        refuse_existing(path, overwrite=False)
        raise
    except OSError as error:
        raise UserError(f"can't write {path}: {os_error(error)}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"can't write {path}: it is not a regular file")
    return os.fdopen(handle, "r+b", buffering=0)  # pyright: ignore[reportReturnType]
