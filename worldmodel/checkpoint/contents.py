"""What a checkpoint holds, and what its files are called."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from worldmodel.dream import WorldModel
from worldmodel.interface.sampling import Sampling
from worldmodel.interface.world import Environment

FORMAT_VERSION = 6
_IN_TURN = frozenset({"prior.outcome.in_turn.weight", "prior.outcome.in_turn.bias"})
# Tensors that a format does without: zeros where it is read.
ADDED_SINCE = {
    2: _IN_TURN | {"prior.outcome.recent.weight", "prior.outcome.recent.bias"},
    3: _IN_TURN,
    4: frozenset(),
    5: frozenset({"prior.place.sketch.weight", "prior.place.sketch.bias"}),
    6: frozenset(),
}
POSES_SINCE = 5
FILES = ("config.json", "weights.safetensors", "starts.safetensors")
UNFINISHED = "unfinished.tmp"  # a folder in a checkpoint's, with the files of a save under way
SCALE_SUFFIX = ".row_scale"  # beside an int8 matrix
# Until version 5 the ranges of the variables were the prior's own.
_MOVED = re.compile(r"(^|prior\.)(variable_(mean|std|low|high))$")
# What the files were made from, as JSON: see `AnyCheckpoint`.
Lineage = dict[str, Any]


@dataclass(frozen=True)
class World(Environment):
    """The environment that a checkpoint has learned.

    Attributes:
        sampling: how dreams are sampled unless the user chooses otherwise.

    Raises:
        UserError: as `Environment`.
    """

    sampling: Sampling = Sampling(temperature=0.8)


@dataclass(frozen=True)
class Starts:
    """S real moments, and how the real environment gets there.

    Attributes:
        frames: uint8 (S, T, H, W, C), the last of them the moment itself.
        actions: (S, T-1, *shape), between the frames.
        variables: float32 (S, T, V).
        poses: float32 (S, T, P); P is 0 in worlds without one.
        seeds: int64 (S,), of the real environment.
        prefix_lengths: int64 (S,), actions from the real reset to the moment.
        prefixes: (S, longest prefix, *shape), padded.
    """

    frames: np.ndarray
    actions: np.ndarray
    variables: np.ndarray
    poses: np.ndarray
    seeds: np.ndarray
    prefix_lengths: np.ndarray
    prefixes: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.prefixes.ndim < 2:
            raise ValueError("starts: frames or prefixes lack dimensions")
        num_starts, num_frames = self.frames.shape[:2]
        expected = {
            "actions": (num_starts, num_frames - 1),
            "variables": (num_starts, num_frames),
            "poses": (num_starts, num_frames),
            "seeds": (num_starts,),
            "prefix_lengths": (num_starts,),
            "prefixes": (num_starts,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape[: len(shape)] != shape:
                raise ValueError(f"starts: {name} should begin with shape {shape}")
        if num_starts == 0 or num_frames == 0:
            raise ValueError("starts: there are none")
        if not ((self.prefix_lengths >= 0) & (self.prefix_lengths <= self.prefixes.shape[1])).all():
            raise ValueError("starts: a prefix length lies outside its prefix")


@dataclass(frozen=True)
class AnyCheckpoint:
    """What every checkpoint holds: a model, the world it learned, and recorded moments from it.

    Attributes:
        kind: of the model, "model" in config.json; None: a dream.
        model: a module with a config that has actions.
        starts: a dataclass of arrays.
        lineage: what it was made from, so that nobody has to guess by the times of files:
            "trained" names the training state that it was exported from, "calibrated",
            "averaged_from" and "shipped_from" what was done since. Empty in older checkpoints.
    """

    kind: ClassVar[str | None] = None
    model: Any
    world: World
    starts: Any
    lineage: Lineage = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint(AnyCheckpoint):
    """A dream, the world it learned, and moments to begin from."""

    model: WorldModel
    starts: Starts


def present_name(name: str) -> str:
    """What a tensor is called today, by its name in a file."""
    return _MOVED.sub(r"\1outcome.\2", name)
