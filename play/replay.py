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
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from play.actions import Action
from play.checks import check_entries, finite, integer, text
from worldmodel.errors import UserError
from worldmodel.interface.sampling import MOST_TOP_K, Sampling, SamplingOptions
from worldmodel.storage.files import parse_json, read_bytes

FORMAT = "videogpt-dream session"
VERSION = 4
MAX_FILE_BYTES = 64 * 2**20
MAX_VALUES = 3_000_000  # numbers, texts, arrays and objects: a million steps of Doom are 32 hours
MAX_SEED = 2**63 - 1
MAX_ACTION = 10**6
MAX_COMPONENTS = 1000
MAX_FRAME_SIDE = 4096
MARK_DIGITS = 8
SAMPLING = ("temperature", "top_k", "guidance")


@dataclass(frozen=True)
class PlayedEpisode:
    """How one episode began, and the actions taken in it.

    Attributes:
        seed: given to `reset`.
        start: the moment that a dream began with; None in a real game.
        actions: one a step.
        marks: one for each frame, the first included.
    """

    seed: int
    start: int | None
    actions: tuple[Action, ...]
    marks: tuple[str, ...]


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

    env_id: str
    checkpoint: str | None
    sampling: SamplingOptions
    frame_size: tuple[int, int]
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
    names = ("format", "version", "env_id", "checkpoint", *SAMPLING, "frame_size")
    check_entries(head, names, "the first entry", optional=("top_p",))
    return Session(**_head_from(head), episodes=_episodes_from(entries))


def _head_from(data: dict[str, Any]) -> dict[str, Any]:
    """What was played."""
    size = data["frame_size"]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError("frame_size must be a list of height and width")
    chosen = {name: data.get(name) for name in (*SAMPLING, "top_p")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    for name, value in chosen.items():
        if name == "top_k":
            integer(value, name, 1, MOST_TOP_K)
        else:
            chosen[name] = float(finite(value, name))
    sampling = SamplingOptions(**chosen)
    sampling.applied_to(Sampling())  # or ValueError
    checkpoint = data["checkpoint"]
    return {
        "env_id": text(data["env_id"], "env_id"),
        "checkpoint": None if checkpoint is None else text(checkpoint, "checkpoint"),
        "sampling": sampling,
        "frame_size": tuple(integer(side, "frame_size", 1, MAX_FRAME_SIDE) for side in size),
    }


def _episodes_from(entries: list[Any]) -> tuple[PlayedEpisode, ...]:
    """Episodes from what began them, and the steps behind."""
    episodes: list[tuple[int, int | None, list[Action], list[str]]] = []
    for entry in entries:
        if isinstance(entry, dict) or not episodes:
            name = f"episode {len(episodes)}"
            check_entries(entry, ("seed", "start", "mark"), name)
            episodes.append((*_beginning(entry, name), [], [_mark(entry["mark"], name)]))
            continue
        _, _, actions, marks = episodes[-1]
        name = f"episode {len(episodes) - 1}, step {len(actions)}"
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"{name} must be an array of an action and a mark")
        actions.append(_action_from(entry[0], name))
        marks.append(_mark(entry[1], name))
    return tuple(
        PlayedEpisode(seed, start, tuple(actions), tuple(marks))
        for seed, start, actions, marks in episodes
    )


def _beginning(data: dict[str, Any], name: str) -> tuple[int, int | None]:
    seed = integer(data["seed"], f"{name}: seed", 0, MAX_SEED)
    start = data["start"]
    return seed, None if start is None else integer(start, f"{name}: start", 0, MAX_ACTION)


def _action_from(data: Any, name: str) -> Action:
    where = f"{name}: an action"
    if not isinstance(data, list):
        return integer(data, where, 0, MAX_ACTION)
    if not 0 < len(data) <= MAX_COMPONENTS:
        raise ValueError(f"{where} must be an integer, or a list of at most {MAX_COMPONENTS}")
    return tuple(finite(value, where) for value in data)


def _mark(value: Any, name: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{MARK_DIGITS}}}", value):
        raise ValueError(f"{name}: mark must be {MARK_DIGITS} hexadecimal digits")
    return value
