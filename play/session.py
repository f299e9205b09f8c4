"""A played session as a file: enough to replay it, and to report where a replay differs.

A session is a JSON array, written line by line while it is played:

    [
    {"format": "videogpt-dream session", "version": 4, "env_id": ..., "frame_size": [64, 64]},
    {"seed": 5, "start": 3, "mark": "5f1c3e0a"},
    [2, "9a01b2ee"],
    [0, "41d7c9f3"]
    ]

The first entry says what was played; then an object starts an episode, and an array is an action.
Marks are hashes of what was seen, see `play.pilot.mark_of`. A truncated file can be replayed up to
its last complete line. Files may come from anywhere, so `read_session` checks every entry.
"""

import contextlib
import errno
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, BinaryIO, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, Strict

from play.pilot import MARK_DIGITS, Moment
from play.worlds import UnopenedWorld
from worldmodel.errors import UserError, one_line, os_error
from worldmodel.interface.actions import Action
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.storage.files import parse_json, read_bytes, refuse_existing
from worldmodel.storage.parsed import parsed

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where only an existing file is protected
    fcntl = None

FORMAT = "videogpt-dream session"
VERSION = 4
MAX_FILE_BYTES = 64 * 2**20
MAX_VALUES = 3_000_000  # numbers, strings, arrays and objects; a million steps of Doom are 32 hours
MAX_SEED = 2**63 - 1
MAX_ACTION = 10**6
MAX_COMPONENTS = 1000
MAX_FRAME_SIDE = 4096


def _checked_text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be printable text")
    return text


def _checked_action(action: Any) -> Action:
    if type(action) is int and 0 <= action <= MAX_ACTION:
        return action
    numbers = action if isinstance(action, list) else []
    are_numbers = all(type(n) in (int, float) and abs(n) < math.inf for n in numbers)
    if not are_numbers or not 0 < len(numbers) <= MAX_COMPONENTS:
        raise ValueError(
            f"an action must be an integer from 0 to {MAX_ACTION}, or a list of at most "
            f"{MAX_COMPONENTS} numbers"
        )
    return tuple(numbers)


Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_checked_text)]
Mark = Annotated[str, Field(pattern=f"^[0-9a-f]{{{MARK_DIGITS}}}$")]
Integer = Annotated[int, Strict()]
Index = Annotated[Integer, Field(ge=0, le=MAX_ACTION)]
Side = Annotated[Integer, Field(ge=1, le=MAX_FRAME_SIDE)]


@dataclass(frozen=True)
class PlayedEpisode:
    """One episode.

    Attributes:
        seed: given to `reset`.
        start: of a dream; None in a real game.
        actions: one per step.
        marks: one per frame, including the first.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    seed: Annotated[Integer, Field(ge=0, le=MAX_SEED)]
    start: Index | None
    actions: tuple[Annotated[Any, AfterValidator(_checked_action)], ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Session:
    """Everything that determines what was seen.

    Attributes:
        env_id: Gymnasium id of the environment.
        checkpoint: a dream's shipped name, folder or Hub id; None for a real game.
        sampling: changes to the dream's own sampling.
        frame_size: height and width of a frame, in pixels.
        episodes: in the order played.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    env_id: Text
    checkpoint: Text | None
    sampling: SamplingOptions
    frame_size: tuple[Side, Side]
    episodes: tuple[PlayedEpisode, ...]

    @property
    def num_frames(self) -> int:
        return sum(len(episode.actions) + 1 for episode in self.episodes)


def num_values(content: bytes) -> int:
    """An upper bound on the number of values in JSON text, without parsing it."""
    return sum(content.count(sign) for sign in b",[{")


def read_session(path: Path) -> Session:
    """Read and check a session.

    Raises:
        UserError: the file is missing, too large, or not a session.
    """
    content = read_bytes(path, most_bytes=MAX_FILE_BYTES)
    try:
        if num_values(content) > MAX_VALUES:
            raise ValueError(f"it contains more than {MAX_VALUES} values")
        return _session_from(parse_json(_completed(content)))
    except ValueError as error:
        hint = "" if path.suffix == ".json" else " (a film's session is the .json beside it)"
        raise UserError(f"{path} is not a session: {error}{hint}") from None


def _completed(content: bytes) -> bytes:
    """The file; if it is truncated, its complete lines as valid JSON."""
    if not content.startswith(b"[\n") or content.rstrip().endswith(b"\n]"):
        return content
    return content[: content.rfind(b",\n")] + b"\n]"


def _session_from(data: Any) -> Session:
    """Raises ValueError if it is not a session."""
    if not isinstance(data, list) or len(data) < 2:
        raise ValueError("it must be an array of what was played, and at least one episode")
    head, *entries = data
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"format must be {FORMAT!r}")
    if head.get("version") != VERSION:
        raise ValueError(
            f"it was written by another version of this program: {head.get('version')!r}, not "
            f"{VERSION}"
        )
    played = {name: value for name, value in head.items() if name not in ("format", "version")}
    names = SamplingOptions.__dataclass_fields__
    sampling = {name: played.pop(name) for name in names if name in played}
    episodes: list[dict[str, Any]] = []
    for entry in entries:
        if isinstance(entry, dict):
            begun = {name: value for name, value in entry.items() if name != "mark"}
            episodes.append({**begun, "actions": [], "marks": [entry.get("mark")]})
        elif episodes and isinstance(entry, list) and len(entry) == 2:
            for part, value in zip(("actions", "marks"), entry, strict=True):
                episodes[-1][part].append(value)
        else:
            raise ValueError(
                "an entry must be an object that starts an episode, or after one an array of an "
                f"action and a mark, not {one_line(json.dumps(entry), most=80)}"
            )
    session = parsed(Session, {**played, "sampling": sampling, "episodes": episodes})
    session.sampling.applied_to(Sampling())  # or UserError
    return session


class SessionFile:
    """Writes a session line by line, so that a crash loses nothing; holds a lock meanwhile.

    Args:
        path: an existing file is left unchanged until the first moment.
        world: what is played.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: the file exists, can't be written, or another process is writing it.
    """

    def __init__(self, path: Path, world: UnopenedWorld, *, overwrite: bool) -> None:
        refuse_existing(path, overwrite=overwrite)
        self.path = path
        self._world = world
        self._is_new = not os.path.lexists(path)
        self._num_bytes = self._num_values = 0
        self._file: BinaryIO = _open(path, may_exist=overwrite)
        try:
            lock_file(self._file, path)
        except UserError:
            self._file.close()
            raise

    @property
    def has_begun(self) -> bool:
        return self._num_bytes > 0

    def add(self, moment: Moment) -> None:
        """Write a moment.

        Raises:
            UserError: the disk is full, or the session too long.
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
        """Complete the file, or remove it if no moment was written.

        Raises:
            UserError: the end can't be written; the file can still be replayed.
        """
        try:
            if self.has_begun:
                # Overwrite the last comma, and what a full disk has truncated.
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
            raise UserError(f"{self.path} is full: continue recording under another name")
        try:
            self._write(line)
        except OSError as error:
            raise UserError(f"can't write {self.path}: {os_error(error)}") from error
        self._num_bytes, self._num_values = total

    def _write(self, line: bytes) -> None:
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def lock_file(file: BinaryIO, path: Path) -> None:
    """Lock an open file until it is closed, or the process dies.

    Raises:
        UserError: another process has locked it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path} is in use by another process: wait until it is done, or choose another name"
        ) from None
    except OSError:
        return  # a file system without locks


def _open(path: Path, *, may_exist: bool) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | (0 if may_exist else os.O_EXCL)
    try:
        handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except FileExistsError:  # created since the check
        refuse_existing(path, overwrite=False)
        raise
    except OSError as error:
        raise UserError(f"can't write {path}: {os_error(error)}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"can't write {path}: it is not a regular file")
    return os.fdopen(handle, "r+b", buffering=0)  # pyright: ignore[reportReturnType]
