"""Files as the project writes and reads them: whole or not at all, by one process at a time, and
with bounds on what is read."""

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from worldmodel.errors import UserError, os_error

MOST_NESTED = 64  # brackets in JSON
MOST_DIGITS = 20  # of a whole number in JSON: 64 bits
LOCK_NAME = ".lock"
# The errors of a file system without locks.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write the new content of `path`; it is synced and moved there at the end. Until
    then, and if writing fails, the old file stays.

    Raises:
        OSError: the folder can't be made, or the file can't be put there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this process alone: another may be writing the same file.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield unfinished
            sync(unfinished)
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def as_file(contents: bytes, name: str) -> Iterator[Path]:
    """A temporary file with these contents, for what reads only files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(contents)
        yield path


def file_digest(path: Path) -> str:
    """sha256 of a file, as hex.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError in here names this file where it names none: a full disk doesn't say whose write
    has failed."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, data: Any, *, indent: int | None = 2) -> None:
    """Write JSON whole or not at all.

    Args:
        indent: spaces a level; None: all in one line.

    Raises:
        OSError: it can't be written.
        ValueError: `data` holds a number that is not finite, which JSON has no word for.
    """
    text = json.dumps(data, indent=indent, allow_nan=False) + "\n"
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, to be read; a pipe or a device, which may never end, is refused.

    Raises:
        UserError: it is missing, no regular file, or can't be read, now or while it is open.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{path} is not a regular file")
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except PermissionError:
        raise UserError(f"{path} may not be read: its permissions forbid it") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from None


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """What a file holds.

    Raises:
        UserError: as `opened`; or it is larger than `most_bytes`.
    """
    with opened(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UserError(f"{path} is larger than {most_bytes} bytes, the most that is read here")
    return content


def read_json(path: Path, *, most_bytes: int) -> Any:
    """Untrusted JSON: `read_bytes`, then `parse_json`, whose reason names the file.

    Raises:
        UserError: as `read_bytes`; or it is no JSON, or beyond the bounds of `parse_json`.
    """
    content = read_bytes(path, most_bytes=most_bytes)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON: {error}") from None


def parse_json(content: bytes | str) -> Any:
    """JSON whose numbers are finite, whose text is Unicode, and that is not nested too deeply.

    Raises:
        ValueError: says what is wrong.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        data = json.loads(text, parse_constant=_constant, parse_int=_whole, parse_float=_real)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [data] if isinstance(data, dict | list) else []
    for _ in range(MOST_NESTED):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return data
    raise ValueError("it is nested too deeply")


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON has")


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _real(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError("a number that is too large")
    return value


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process, and other code in this one, from writing to a folder.

    The lock is a file `.lock` that stays there; the system releases it when a process dies.
    Folders that were made for it are removed again if nothing was written to them. A file system
    without locks is written to without one.

    Raises:
        UserError: another holds the lock, or the folder can't be written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder} is being written to by another process: wait until that is done, or choose "
            "another folder"
        ) from None
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            yield
            return
        raise UserError(f"{folder} can't be written to: {os_error(error)}") from None
    try:
        yield
    finally:
        # Under the lock: a file that another process has locked since must not be removed.
        if made and [path.name for path in folder.iterdir()] == [LOCK_NAME]:
            (folder / LOCK_NAME).unlink()
            for path in made:
                if any(path.iterdir()):
                    break
                path.rmdir()
        lock.release()


def refuse_existing(path: Path, *, overwrite: bool, option: str = "--overwrite") -> None:
    """Raises UserError where a file would be replaced without permission."""
    if not overwrite and os.path.lexists(path):
        raise UserError(f"{path} exists already: choose another name, or allow it with {option}")
