"""What an episode is, and what a set of episodes says about itself.

Time: frame t and action t give frame t+1, reward t, terminated t, truncated t. An episode of
T actions has T+1 frames and T+1 rows of variables.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import UserError, os_error
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec
from worldmodel.interface.world import Environment, check_json, check_names
from worldmodel.storage.files import read_json, write_json
from worldmodel.storage.parsed import parsed

FORMAT_VERSION = 1
CLASS_VARIABLE = "class"
POLICY_NAME_BYTES = 64
STEP_ARRAYS = ("action", "reward", "terminated", "truncated", "variables", "pose")
MOST_FRAME_BYTES = 2**24  # a chunk of a shard holds several
MOST_EPISODE_BYTES = 2**29  # of its frames; it is held in memory whole
MOST_FRAME_SKIP = 10**6
MOST_NAMES = 2**16
MOST_JSON_BYTES = 2**24  # of meta.json: merged sets list what each of them said
# What of a set's description may differ where episodes are joined.
FREE_FORM = ("controls", "policies", "versions")
UNKNOWN_SEED = -1
UNFINISHED = "unfinished-import"  # a file beside the shards while an importer has more to store


@dataclass(frozen=True)
class Episode:
    """One episode of T >= 1 actions.

    Attributes:
        episode_id: its number, unique in a data set, not negative.
        seed: of the environment; with the actions it gives the frames again. `UNKNOWN_SEED` where
            none does.
        policy: who acted, at most 64 bytes, for example "policy+noise".
        frames: uint8 (T+1, H, W, C).
        action: (T, *shape) of the action space, in the space's type.
        reward: float32 (T,).
        terminated: bool (T,), true at most on the last step: the episode's own end.
        truncated: bool (T,), true at most on the last step: cut off from outside.
        variables: float32 (T+1, V), the game's own variables at each frame.
        pose: float32 (T+1, P), where the player is at each frame, see
            `worldmodel.interface.pose`; NaN throughout where it is unknown; left out where that
            isn't told: P is 0.
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
    pose: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __post_init__(self) -> None:
        if self.pose.shape == (0, 0):
            object.__setattr__(self, "pose", np.zeros((len(self.frames), 0), np.float32))

    @property
    def length(self) -> int:
        """T, the number of actions."""
        return len(self.reward)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(Environment):
    """What meta.json says: everything needed to read the episodes and to record more.

    Attributes:
        frame_shape: (H, W, C) of a frame, uint8.
        actions: the action space.
        variable_names: names of the V variables.
        frame_skip: engine ticks an action lasts.
        pose: which numbers tell where the player is; none by default.
        class_names: names of the data's classes, if they have any; an episode's class is the
            value of its variable "class", a position in these names.
        rendering: how the environment made its frames, where env_id and env_kwargs leave that
            open; empty where nobody says. Frames of two ways don't mix.
        policies: who acted, how well, with which settings; free-form JSON.
        versions: of the packages that recorded.

    Raises:
        UserError: for what could not be stored, or be read again.
    """

    frame_shape: tuple[int, int, int]
    actions: ActionSpec
    variable_names: tuple[str, ...]
    frame_skip: int
    pose: PoseSpec = NO_POSE
    class_names: tuple[str, ...] = ()
    rendering: str = ""
    policies: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.frame_shape) < 1:
            raise UserError(f"frame_shape {self.frame_shape} is not (H, W, C), each at least 1")
        if math.prod(self.frame_shape) > MOST_FRAME_BYTES:
            raise UserError(
                f"frames of {self.frame_shape} take more than {MOST_FRAME_BYTES} bytes each"
            )
        if not 1 <= self.frame_skip <= MOST_FRAME_SKIP:
            raise UserError(
                f"frame_skip must be from 1 to {MOST_FRAME_SKIP}, not {self.frame_skip}"
            )
        check_names("rendering", [self.rendering or "not said"])
        for what in ("variable_names", "class_names"):
            names = getattr(self, what)
            check_names(what, names)
            if len(names) > MOST_NAMES:
                raise UserError(f"{what} must be at most {MOST_NAMES}, not {len(names)}")
        if self.class_names and CLASS_VARIABLE not in self.variable_names:
            raise UserError(f"it names classes but no variable {CLASS_VARIABLE!r}")
        for what in ("policies", "versions"):
            check_json(what, getattr(self, what), most_bytes=MOST_JSON_BYTES // 4)

    def to_json(self) -> dict[str, Any]:
        described = {**asdict(self), "actions": self.actions.to_json()}
        return {"format_version": FORMAT_VERSION, **described}

    @classmethod
    def from_json(cls, data: Any) -> "DatasetInfo":
        """Raises UserError when `data` is not what `to_json` wrote, now or in earlier versions."""
        if not isinstance(data, dict):
            raise UserError("it should hold a JSON object")
        if data.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"format version {data.get('format_version')!r} is not {FORMAT_VERSION}, "
                "the one read here"
            )
        return parsed(cls, data)

    def differences(self, other: "DatasetInfo") -> list[str]:
        """One line for each way in which episodes of the two cannot be in one set."""
        # Arguments as JSON: a tuple that was once written comes back as a list.
        mine, theirs = (
            vars(info) | {"env_kwargs": json.loads(json.dumps(info.env_kwargs))}
            for info in (self, other)
        )
        return [
            f"{name} {_shown(mine[name])} against {_shown(theirs[name])}"
            for name in mine
            if name not in FREE_FORM and mine[name] != theirs[name]
        ]


def _shown(value: Any) -> Any:
    return "not said" if value == "" else value


def read_info(folder: Path) -> DatasetInfo:
    """What meta.json of a data set says. Raises UserError that says what to do."""
    path = folder / "meta.json"
    try:
        is_there = path.exists()
    except PermissionError:
        raise UserError(f"{folder} may not be entered: its permissions forbid it") from None
    if not is_there and any(folder.glob("shard-*.h5")):
        raise UserError(
            f"{folder} has episodes but no meta.json, which describes them: put it back"
        )
    if not is_there:
        what = "has no meta.json" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {what}: no data set is there. Record one with `python -m collect.vizdoom` "
            "or `python -m collect.gym`, or import one: `python -m worldmodel.data --help`"
        )
    data = read_json(path, most_bytes=MOST_JSON_BYTES)
    try:
        return DatasetInfo.from_json(data)
    except UserError as error:
        raise UserError(f"{path} is not a data set's description: {error}") from None


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write meta.json, whole or not at all. Raises UserError where that can't be."""
    try:
        write_json(folder / "meta.json", info.to_json())
    except OSError as error:
        raise UserError(f"can't write {os_error(error)}") from None


def episode_problems(episode: Episode, info: DatasetInfo) -> list[str]:
    """One line for each rule of `Episode` that is broken; empty for a valid episode."""
    problems = []
    shape = (episode.length + 1, *info.frame_shape)
    if episode.frames.dtype != np.uint8 or episode.frames.shape != shape:
        given = f"{episode.frames.dtype} {episode.frames.shape}"
        problems.append(f"frames is {given}, not uint8 {shape}")
    if episode.frames.nbytes > MOST_EPISODE_BYTES:
        most = f"{MOST_EPISODE_BYTES >> 20} MiB"
        problems.append(f"its frames take more than {most}: cut it in parts")
    if not 0 <= episode.episode_id < 2**63:
        problems.append(f"episode_id {episode.episode_id} is not in [0, 2**63)")
    if not -(2**63) <= episode.seed < 2**63:
        problems.append(f"seed {episode.seed} does not fit in 64 bits")
    size = len(episode.policy.encode(errors="replace"))
    if not 0 < size <= POLICY_NAME_BYTES or not episode.policy.isprintable():
        problems.append(
            f"policy {episode.policy!r} is not a printable name of 1 to {POLICY_NAME_BYTES} bytes"
        )
    return problems + step_problems({name: getattr(episode, name) for name in STEP_ARRAYS}, info)


def step_problems(steps: dict[str, np.ndarray], info: DatasetInfo) -> list[str]:
    """The same for the arrays of `STEP_ARRAYS`, by name: all of an episode but its frames."""
    num_steps = len(steps["reward"])
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        "action": (info.actions.dtype, (num_steps, *info.actions.shape)),
        "reward": ("float32", (num_steps,)),
        "terminated": ("bool", (num_steps,)),
        "truncated": ("bool", (num_steps,)),
        "variables": ("float32", (num_steps + 1, len(info.variable_names))),
        "pose": ("float32", (num_steps + 1, len(info.pose))),
    }
    problems = [
        f"{name} is {steps[name].dtype} {steps[name].shape}, not {np.dtype(dtype)} {shape}"
        for name, (dtype, shape) in expected.items()
        if steps[name].dtype != np.dtype(dtype) or steps[name].shape != shape
    ]
    if num_steps < 1:
        problems.append("it has no action")
    if problems:  # what follows needs the shapes
        return problems
    if not info.actions.contains(steps["action"]):
        problems.append(f"an action is outside {info.actions}")
    pose_is_known = not np.isnan(steps["pose"]).all()
    for name in ("reward", "variables", *(["pose"] if pose_is_known else [])):
        if not (is_finite := np.isfinite(steps[name])).all():
            names = {"variables": info.variable_names, "pose": info.pose.names}.get(name)
            which = "" if names is None else f" ({names[is_finite.all(0).argmin()]})"
            problems.append(f"{name} holds a value that is not finite{which}")
    for name in ("terminated", "truncated"):
        if steps[name][:-1].any():
            problems.append(f"{name} is set before the last step")
    if info.class_names:
        values = steps["variables"][:, info.variable_names.index(CLASS_VARIABLE)]
        num_classes = len(info.class_names)
        if (values != values[0]).any() or values[0] not in range(num_classes):
            problems.append(
                f"its class is {values.min():g} to {values.max():g}, not one whole number of 0 to "
                f"{num_classes - 1}"
            )
    return problems
