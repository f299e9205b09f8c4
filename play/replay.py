"""A played session as a file: enough to play it again, and to say where it differs.

A session is a JSON array, written as it is played, one line for each entry:

    [
    {"format": "videogpt-dream session", "version": 4, "env_id": ..., "frame_size": [64, 64]},
    {"seed": 5, "start": 3, "mark": "5f1c3e0a"},
    [2, "9a01b2ee"],
    [0, "41d7c9f3"]
    ]

The first entry says what was played, an object that an episode began, and an array what action was
taken; marks are of what was seen then, see `mark_of`. A file whose writing was cut off plays as far
as it goes.

The file is data from anywhere: `read_session` checks every entry before anything uses it.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, Strict

from worldmodel.errors import UserError, one_line
from worldmodel.interface.actions import Action
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.storage.files import parse_json, read_bytes
from worldmodel.storage.parsed import parsed

FORMAT = "videogpt-dream session"
VERSION = 4
MAX_FILE_BYTES = 64 * 2**20
MAX_VALUES = 3_000_000  # numbers, texts, arrays and objects: a million steps of Doom are 32 hours
MAX_SEED = 2**63 - 1
MAX_ACTION = 10**6
MAX_COMPONENTS = 1000
MAX_FRAME_SIDE = 4096
MARK_DIGITS = 8


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
    """How one episode began, and the actions taken in it.

    Attributes:
        seed: given to `reset`.
        start: the moment that a dream began with; None in a real game.
        actions: one a step.
        marks: one for each frame, the first included.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    seed: Annotated[Integer, Field(ge=0, le=MAX_SEED)]
    start: Index | None
    actions: tuple[Annotated[Any, AfterValidator(_checked_action)], ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Session:
    """Everything that decides what was seen.

    Attributes:
        env_id: Gymnasium id of the environment.
        checkpoint: a dream's shipped name, folder or Hub id; None for a real game.
        sampling: what of the dream's own sampling was changed.
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


def mark_of(seen: np.ndarray) -> str:
    """What stands in a session for a frame, or for a dream's codes, which decide its frames."""
    return hashlib.sha256(np.ascontiguousarray(seen).data).hexdigest()[:MARK_DIGITS]


def num_values(content: bytes) -> int:
    """At least as many values as JSON text holds, counted before any is made."""
    return sum(content.count(sign) for sign in b",[{")


def read_session(path: Path) -> Session:
    """Read and check a session.

    Raises:
        UserError: the file is missing, too large, or not a session; says what is wrong.
    """
    content = read_bytes(path, most_bytes=MAX_FILE_BYTES)
    try:
        if num_values(content) > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES} values")
        return _session_from(parse_json(_ended(content)))
    except ValueError as error:
        hint = "" if path.suffix == ".json" else " (a film's session is the .json beside it)"
        raise UserError(f"{path} is not a session: {error}{hint}") from None


def _ended(content: bytes) -> bytes:
    """The file, or as much of it as was whole when its writing was cut off, as whole JSON."""
    if not content.startswith(b"[\n") or content.rstrip().endswith(b"\n]"):
        return content
    return content[: content.rfind(b",\n")] + b"\n]"


def _session_from(data: Any) -> Session:
    """Raises ValueError with the first thing that is wrong."""
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
                "an entry must be an object that begins an episode, or behind one an array of an "
                f"action and a mark, not {one_line(json.dumps(entry), most=80)}"
            )
    session = parsed(Session, {**played, "sampling": sampling, "episodes": episodes})
    session.sampling.applied_to(Sampling())  # or UserError
    return session
