"""A played session as JSON: enough to play it again, frame for frame the same.

The file is data from anywhere: `read_session` checks every field before anything uses it.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from play.actions import Action
from play.checks import check_entries, finite, integer, text
from worldmodel.errors import UserError

FORMAT = "videogpt-dream session"
VERSION = 3
WITHOUT_GUIDANCE = 2  # and before: dreams had the guidance of their own
INDICES_ALONE = 1  # were its actions
MAX_FILE_BYTES = 64 * 2**20  # about 20 million indices
MAX_SEED = 2**63 - 1
MAX_ACTION = 10**6
MAX_COMPONENTS = 1000
MAX_FRAME_SIDE = 4096


@dataclass(frozen=True)
class PlayedEpisode:
    """How one episode began, and the actions taken in it.

    Attributes:
        seed: given to `reset`.
        start: the moment that a dream began with; None in a real game.
        actions: one a step.
    """

    seed: int
    start: int | None
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Session:
    """Everything that decides what was seen.

    Attributes:
        env_id: Gymnasium id of the environment.
        checkpoint: a dream's shipped name, folder or Hub id; None for a real game.
        temperature, top_k, guidance: how the dream was sampled; None was the dream's own choice.
        frame_size: height and width of a frame, in pixels.
        episodes: in the order played.
        frames_sha256: hex digest of every frame's bytes, each episode's first included.
    """

    env_id: str
    checkpoint: str | None
    temperature: float | None
    top_k: int | None
    guidance: float | None
    frame_size: tuple[int, int]
    episodes: tuple[PlayedEpisode, ...]
    frames_sha256: str

    @property
    def num_frames(self) -> int:
        return sum(len(episode.actions) + 1 for episode in self.episodes)


class SessionLog:
    """Takes down a session while it is played. Memory: a few bytes a step, no frames."""

    def __init__(self) -> None:
        self._episodes: list[tuple[int, int | None, list[Action]]] = []
        self._digest = hashlib.sha256()
        self.frame_size = (0, 0)
        self.num_frames = 0

    def begin(self, *, seed: int, start: int | None, frame: np.ndarray) -> None:
        """An episode began with `frame`, uint8 (H, W, 3)."""
        self._episodes.append((seed, start, []))
        self._see(frame)

    def step(self, action: Action, frame: np.ndarray) -> None:
        """`action` led to `frame`."""
        self._episodes[-1][2].append(action)
        self._see(frame)

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions of the running episode."""
        return tuple(self._episodes[-1][2])

    @property
    def frames_sha256(self) -> str:
        return self._digest.hexdigest()

    def session(
        self,
        *,
        env_id: str,
        checkpoint: str | None,
        temperature: float | None = None,
        top_k: int | None = None,
        guidance: float | None = None,
    ) -> Session:
        """What was played so far."""
        return Session(
            env_id=env_id,
            checkpoint=checkpoint,
            temperature=temperature,
            top_k=top_k,
            guidance=guidance,
            frame_size=self.frame_size,
            episodes=tuple(PlayedEpisode(s, k, tuple(a)) for s, k, a in self._episodes),
            frames_sha256=self.frames_sha256,
        )

    def _see(self, frame: np.ndarray) -> None:
        self.frame_size = (frame.shape[0], frame.shape[1])
        self.num_frames += 1
        self._digest.update(np.ascontiguousarray(frame).data)


def write_session(path: Path, session: Session) -> None:
    """Write a session whole or not at all.

    Raises:
        UserError: the file can't be written.
    """
    content = json.dumps({"format": FORMAT, "version": VERSION, **asdict(session)})
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(content + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"can't write {path}: {error.strerror}") from error


def read_session(path: Path) -> Session:
    """Read and check a session.

    Raises:
        UserError: the file is missing, too large, or not a session; says what is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB: not a session")
    try:
        return _session_from(json.loads(content.decode("utf-8")))
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not a session: no text in UTF-8 (a film's session is the .json beside it)"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is not a session: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not a session: no valid JSON ({error})") from error
    except ValueError as error:
        raise UserError(f"{path} is not a session: {error}") from error


def _session_from(data: Any) -> Session:
    """Raises ValueError with the first thing that is wrong."""
    entries = ["format", "version", *Session.__dataclass_fields__]
    check_entries(data, ["format", "version"], "the file", optional=entries[2:])
    if data["format"] != FORMAT:
        raise ValueError(f"format must be {FORMAT!r}")
    version = integer(data["version"], "version", 0, 2**31)
    if not 1 <= version <= VERSION:
        raise ValueError(f"version {version}, but this program reads versions 1 to {VERSION}")
    if version <= WITHOUT_GUIDANCE:
        entries.remove("guidance")
    check_entries(data, entries, "the file")
    size = data["frame_size"]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError("frame_size must be a list of height and width")
    height, width = (integer(side, "frame_size", 1, MAX_FRAME_SIDE) for side in size)
    digest = text(data["frames_sha256"], "frames_sha256")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("frames_sha256 must be 64 hexadecimal digits")
    if not isinstance(data["episodes"], list) or not data["episodes"]:
        raise ValueError("episodes must be a list of at least one episode")
    temperature, top_k, checkpoint = data["temperature"], data["top_k"], data["checkpoint"]
    guidance = data.get("guidance")
    return Session(
        env_id=text(data["env_id"], "env_id"),
        checkpoint=None if checkpoint is None else text(checkpoint, "checkpoint"),
        temperature=None if temperature is None else _temperature(temperature),
        top_k=None if top_k is None else integer(top_k, "top_k", 1, MAX_ACTION),
        guidance=None if guidance is None else _guidance(guidance),
        frame_size=(height, width),
        episodes=tuple(_episode_from(item, n, version) for n, item in enumerate(data["episodes"])),
        frames_sha256=digest,
    )


def _episode_from(data: Any, number: int, version: int) -> PlayedEpisode:
    name = f"episode {number}"
    check_entries(data, ("seed", "start", "actions"), name)
    if not isinstance(data["actions"], list):
        raise ValueError(f"{name}: actions must be a list")
    start = data["start"]
    return PlayedEpisode(
        seed=integer(data["seed"], f"{name}: seed", 0, MAX_SEED),
        start=None if start is None else integer(start, f"{name}: start", 0, MAX_ACTION),
        actions=tuple(_action_from(action, name, version) for action in data["actions"]),
    )


def _action_from(data: Any, episode: str, version: int) -> Action:
    where = f"{episode}: an action"
    if version == INDICES_ALONE or not isinstance(data, list):
        return integer(data, where, 0, MAX_ACTION)
    if not 0 < len(data) <= MAX_COMPONENTS:
        raise ValueError(f"{where} must be an integer, or a list of at most {MAX_COMPONENTS}")
    return tuple(finite(value, where) for value in data)


def _temperature(value: Any) -> float:
    if not 0 < finite(value, "temperature") <= 100:
        raise ValueError("temperature must be a number above 0, at most 100")
    return float(value)


def _guidance(value: Any) -> float:
    if not 0 <= finite(value, "guidance") <= 100:
        raise ValueError("guidance must be a number from 0 to 100")
    return float(value)
