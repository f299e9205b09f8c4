"""What an episode is, and what a set of episodes says about itself.

Time: frame t and action t give frame t+1, reward t, terminated t, truncated t. An episode of
T actions has T+1 frames and T+1 rows of variables.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.actions import ActionSpec, checked_controls
from worldmodel.errors import UserError
from worldmodel.files import written_whole

FORMAT_VERSION = 1
POLICY_NAME_BYTES = 64
CLASS_VARIABLE = "class"
UNFINISHED = "unfinished-import"  # a file beside the shards while an importer has more to store


@dataclass(frozen=True)
class Episode:
    """One episode of T >= 1 actions.

    Attributes:
        episode_id: its number, unique in a data set, not negative.
        seed: of the environment; with the actions it gives the frames again.
        policy: who acted, at most 64 bytes, for example "policy+noise".
        frames: uint8 (T+1, H, W, C).
        action: (T, *shape) of the action space, in the space's type.
        reward: float32 (T,).
        terminated: bool (T,), true at most on the last step: the episode's own end.
        truncated: bool (T,), true at most on the last step: cut off from outside.
        variables: float32 (T+1, V), the game's own variables at each frame.
    """

    episode_id: int
    seed: int
    policy: str
    frames: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    variables: np.ndarray

    @property
    def length(self) -> int:
        """T, the number of actions."""
        return len(self.reward)


@dataclass(frozen=True)
class DatasetInfo:
    """What meta.json says: everything needed to read the episodes and to record more.

    Attributes:
        env_id: Gymnasium's name of the environment, or the name of the source.
        env_kwargs: its arguments, as JSON.
        frame_shape: (H, W, C) of a frame, uint8.
        actions: the action space.
        variable_names: names of the V variables.
        fps: frames a second of the environment's own time.
        frame_skip: engine ticks an action lasts.
        class_names: names of the data's classes, if they have any; an episode's class is the
            value of its variable "class", a position in these names.
        rendering: how the environment made its frames, where env_id and env_kwargs leave that
            open; empty where nobody says. Frames of two ways don't mix.
        controls: which keys choose the actions, as JSON, for people who play; may be empty.
        policies: who acted, how well, with which settings; free-form JSON.
        versions: of the packages that recorded.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    frame_shape: tuple[int, int, int]
    actions: ActionSpec
    variable_names: tuple[str, ...]
    fps: float
    frame_skip: int
    class_names: tuple[str, ...] = ()
    rendering: str = ""
    controls: dict[str, Any] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "frame_shape": list(self.frame_shape),
            "variable_names": list(self.variable_names),
            "class_names": list(self.class_names),
            "actions": self.actions.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> "DatasetInfo":
        """Raises UserError when `data` is not what `to_json` wrote."""
        if not isinstance(data, dict):
            raise UserError("it should hold a JSON object")
        if data.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"format version {data.get('format_version')!r} is not {FORMAT_VERSION}, "
                "the one read here"
            )
        try:
            height, width, channels = (int(size) for size in data["frame_shape"])
            info = cls(
                env_id=str(data["env_id"]),
                env_kwargs=dict(data["env_kwargs"]),
                frame_shape=(height, width, channels),
                actions=ActionSpec.from_json(data["actions"]),
                variable_names=tuple(str(name) for name in data["variable_names"]),
                fps=float(data["fps"]),
                frame_skip=int(data["frame_skip"]),
                # Sets recorded before there were classes don't have the entry.
                class_names=tuple(str(name) for name in data.get("class_names", ())),
                rendering=str(data.get("rendering", "")),  # nor this one
                controls=checked_controls(data.get("controls", {})),  # nor this
                policies=dict(data["policies"]),
                versions={str(k): str(v) for k, v in dict(data["versions"]).items()},
            )
        except KeyError as error:
            raise UserError(f"it lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from None
        if min(info.frame_shape) < 1:
            raise UserError(f"frame_shape {info.frame_shape} has a size below 1")
        if info.class_names and CLASS_VARIABLE not in info.variable_names:
            raise UserError(f"it names classes but no variable {CLASS_VARIABLE!r}")
        return info

    def differences(self, other: "DatasetInfo") -> list[str]:
        """One line for each way in which episodes of the two cannot stand in one set."""
        same_world = (
            "env_id",
            "env_kwargs",
            "frame_shape",
            "actions",
            "variable_names",
            "fps",
            "frame_skip",
            "class_names",
            "rendering",
        )

        def shown(value: Any) -> Any:
            return "not said" if value == "" else value

        # Compared as JSON: a tuple that was once written comes back as a list.
        mine = json.loads(json.dumps(self.to_json()))
        theirs = json.loads(json.dumps(other.to_json()))
        return [
            f"{name} {shown(mine[name])} against {shown(theirs[name])}"
            for name in same_world
            if mine[name] != theirs[name]
        ]


def read_info(folder: Path) -> DatasetInfo:
    """What meta.json of a data set says. Raises UserError naming the way out."""
    path = folder / "meta.json"
    try:
        is_there = path.exists()
    except PermissionError:
        raise UserError(f"{folder} may not be entered: its permissions forbid it") from None
    if not is_there:
        what = "has no meta.json" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {what}: no data set is there. Record one with `python -m collect.vizdoom` "
            "or `python -m collect.gym`, or import one: `python -m worldmodel.data --help`"
        )
    try:
        return DatasetInfo.from_json(json.loads(path.read_bytes()))
    except PermissionError:
        raise UserError(f"{path} may not be read: its permissions forbid it") from None
    except (OSError, ValueError) as error:  # UserError, JSON and UTF-8 errors are ValueErrors
        raise UserError(f"{path} is not a data set's description: {error}") from None


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write meta.json, whole or not at all."""
    with written_whole(folder / "meta.json") as unfinished, unfinished.open("w") as file:
        json.dump(info.to_json(), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def episode_problems(episode: Episode, info: DatasetInfo) -> list[str]:
    """One line for each rule of `Episode` that is broken; empty for a valid episode."""
    problems = []
    num_steps = episode.length
    expected: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "frames": (np.dtype(np.uint8), (num_steps + 1, *info.frame_shape)),
        "action": (np.dtype(info.actions.dtype), (num_steps, *info.actions.shape)),
        "reward": (np.dtype(np.float32), (num_steps,)),
        "terminated": (np.dtype(bool), (num_steps,)),
        "truncated": (np.dtype(bool), (num_steps,)),
        "variables": (np.dtype(np.float32), (num_steps + 1, len(info.variable_names))),
    }
    for name, (dtype, shape) in expected.items():
        array = getattr(episode, name)
        if array.dtype != dtype or array.shape != shape:
            problems.append(f"{name} is {array.dtype} {array.shape}, not {dtype} {shape}")
    if num_steps < 1:
        problems.append("it has no action")
    if not 0 <= episode.episode_id < 2**63:
        problems.append(f"episode_id {episode.episode_id} is not in [0, 2**63)")
    if not -(2**63) <= episode.seed < 2**63:
        problems.append(f"seed {episode.seed} does not fit in 64 bits")
    if not 0 < len(episode.policy.encode()) <= POLICY_NAME_BYTES or "\0" in episode.policy:
        problems.append(
            f"policy {episode.policy!r} is not a name of 1 to {POLICY_NAME_BYTES} bytes"
        )
    if problems:  # what follows needs the shapes
        return problems
    if not info.actions.contains(episode.action):
        problems.append(f"an action is outside {info.actions}")
    for name in ("reward", "variables"):
        if not np.isfinite(getattr(episode, name)).all():
            problems.append(f"{name} holds a value that is not finite")
    for name in ("terminated", "truncated"):
        if getattr(episode, name)[:-1].any():
            problems.append(f"{name} is set before the last step")
    return problems
