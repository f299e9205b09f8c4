"""What a checkpoint holds, and which recorded moments it takes."""

import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np

from worldmodel import randomness
from worldmodel.data import EpisodeReader, Split
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.interface.sampling import Sampling
from worldmodel.interface.world import Environment
from worldmodel.storage.hub import Kind

FORMAT_VERSION = 10
_IN_TURN = frozenset({"prior.outcome.in_turn.weight", "prior.outcome.in_turn.bias"})
_SURROUNDINGS = frozenset(
    {
        "prior.place.space.floor.distance",
        "prior.place.head.surroundings.weight",
        "prior.place.head.inertia.weight",
    }
)
# Tensors that each format version lacks: they are read as zeros.
ADDED_SINCE = {
    2: _IN_TURN | {"prior.outcome.recent.weight", "prior.outcome.recent.bias"},
    3: _IN_TURN,
    4: frozenset(),
    5: _SURROUNDINGS | {"prior.place.sketch.weight", "prior.place.sketch.bias"},
    6: _SURROUNDINGS,
    7: _SURROUNDINGS,
    8: _SURROUNDINGS,
    9: frozenset(),
    10: frozenset(),
}
POSES_SINCE = 5
# Versions 5 to 8 could tell the prior for how many steps a frame was dreamed. That is left out:
# without it, the same weights dream better (docs/decisions.md).
REMOVED = frozenset({"prior.age.weight", "prior.trust", "prior.unseen"})
REMOVED_ENTRY = "tells_age"  # of the prior's config
# Older frames had no effect before version 10: they are left out.
RECALL_SINCE = 10
REMOVED_PARTS = ("prior.older_frames.", "prior.recalls.")
FILES = ("config.json", "weights.safetensors", "starts.safetensors")
POLICY_FILE = "policy.safetensors"  # a policy for this world, which a checkpoint may have
# A checkpoint on the Hugging Face Hub.
CHECKPOINT = Kind(
    "model", "checkpoint", marks=tuple(map(re.escape, FILES)), others=(re.escape(POLICY_FILE),)
)
UNFINISHED = "unfinished.tmp"  # subfolder with the files of a save in progress
# Up to version 5 the ranges of the variables belonged to the prior itself.
_MOVED = re.compile(r"(^|prior\.)(variable_(mean|std|low|high))$")
SHOWN_AFTER_START = 32  # frames of the real future after a start, to compare with
# "anywhere" with the frames before it; "reset": at an episode's first frame, without any before.
StartsAt = Literal["anywhere", "reset"]
# What the files were made from, as JSON: see `AnyCheckpoint`.
Lineage = dict[str, Any]


@dataclass(frozen=True)
class World(Environment):
    """The environment that a checkpoint has learned.

    Attributes:
        sampling: how dreams are sampled unless the user chooses otherwise; a checkpoint has its
            temperature and guidance.

    Raises:
        UserError: as `Environment`.
    """

    sampling: Sampling = Sampling(temperature=0.8)


@dataclass(frozen=True)
class Starts:
    """S recorded moments, and how the real environment gets there.

    Attributes:
        frames: uint8 (S, T, H, W, C), up to the moment.
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
        lineage: what it was made from: "trained" names the training states that it was exported
            from, "data" their data, "started_from" the checkpoint whose weights training started
            from; "calibrated", "averaged_from" and "shipped_from" what was done since. Entries
            are missing in older checkpoints.
    """

    kind: ClassVar[str | None] = None
    model: Any
    world: World
    starts: Any
    lineage: Lineage = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint(AnyCheckpoint):
    """A dream, the world it learned, and moments to start from."""

    model: WorldModel
    starts: Starts


def present_name(name: str) -> str:
    """The current name of a tensor that a file may store under an older one."""
    return _MOVED.sub(r"\1outcome.\2", name)


def choose_starts(
    reader: EpisodeReader,
    *,
    num_frames: int,
    num_starts: int,
    split: Split = "test",
    starts_at: StartsAt = "anywhere",
    seed: int = 0,
) -> Starts:
    """Choose moments of a split, each of another episode.

    Args:
        num_frames: of each start; starts at a reset have 1.
        num_starts: fewer where the split has fewer episodes.

    Raises:
        UserError: no episode of the split is long enough.
    """
    if starts_at == "reset":
        num_frames = 1
    lengths = reader.index["episode_length"].astype(int)
    members = [int(i) for i in reader.split(split) if lengths[i] + 1 >= num_frames]
    if starts_at == "reset":  # others may begin in the middle of a game
        members = [i for i in members if reader.index["seed"][i] >= 0]
    if not members:
        raise UserError(
            f"{reader.folder}: no {split} episode has {num_frames} frames to start from: record "
            "more or longer episodes"
        )
    rng = randomness.generator(seed, "starts", split)
    order = rng.permutation(members)
    # Of merged data sets, those whose pose is known.
    posed = (i for i in order if not np.isnan(reader.steps(int(i))["pose"]).any())
    chosen = np.array(list(islice(posed, num_starts)) or order[:num_starts])
    latest = np.where(starts_at == "reset", 0, lengths[chosen] - SHOWN_AFTER_START)
    latest = latest.clip(num_frames - 1)
    moments = [int(rng.integers(num_frames - 1, last + 1)) for last in latest]
    steps = [reader.steps(int(i)) for i in chosen]
    longest = max(moments)
    prefixes = [
        np.concatenate([step["action"][:moment], step["action"][:1].repeat(longest - moment, 0)])
        for step, moment in zip(steps, moments, strict=True)
    ]
    spans = [(moment + 1 - num_frames, moment + 1) for moment in moments]

    def cut(name: str, num_less: int = 0) -> np.ndarray:
        parts = zip(steps, spans, strict=True)
        return np.stack([step[name][first : end - num_less] for step, (first, end) in parts])

    frames = [reader.frames(int(i), *span) for i, span in zip(chosen, spans, strict=True)]
    return Starts(
        frames=np.stack(frames),
        actions=cut("action", 1),
        variables=cut("variables"),
        poses=cut("pose"),
        seeds=reader.index["seed"][chosen].astype(np.int64),
        prefix_lengths=np.asarray(moments, np.int64),
        prefixes=np.stack(prefixes),
    )
