"""What a dream keeps of its past: the last frames as keys and values, older ones as codes."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.configs.dream import WorldModelConfig
from worldmodel.prior.past import Here

KEYFRAMES = 1024  # at most, of older frames; the oldest give way
KEYFRAME_STEPS = 4  # from one keyframe to the next


State = TypeVar("State", bound="Batched")


class Batched:
    """A dataclass of tensors, or of such dataclasses, whose first dimension counts dreams."""

    def clone(self: State) -> State:
        """A copy that shares no storage: a saved moment, or a branch."""
        return replace(self, **{k: kept.clone() for k, kept in _fields(self).items()})  # pyright: ignore[reportArgumentType]

    def repeated(self: State, times: int) -> State:
        """One dream as a batch of so many alike, each with storage of its own."""
        alike = {
            name: kept.repeat(times, *[1] * (kept.ndim - 1))
            if isinstance(kept, Tensor)
            else kept.repeated(times)
            for name, kept in _fields(self).items()
        }
        return replace(self, **alike)  # pyright: ignore[reportArgumentType]

    def write(self: State, rows: Int[Tensor, " R"], others: State) -> None:
        """Put R other dreams in the place of those at `rows`."""
        for name, kept in _fields(self).items():
            if isinstance(kept, Tensor):
                kept[rows] = getattr(others, name)
            else:
                kept.write(rows, getattr(others, name))


def _fields(state: Any) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in fields(state)}


@dataclass(frozen=True)
class Keyframes(Batched):
    """Frames that may be older than the window. Frame t is kept at `t // KEYFRAME_STEPS` modulo
    `KEYFRAMES` until a later one takes its place.

    Attributes:
        codes: int16 (B, KEYFRAMES, h, w, q).
        poses: (B, KEYFRAMES, pose size).
        known: which of the poses are known.
        age: for how many steps each frame was dreamed; 0: it was given.
        times: of each frame; -1: there is none yet.
    """

    codes: Int[Tensor, "B keyframes h w q"]
    poses: Float[Tensor, "B keyframes P"]
    known: Bool[Tensor, "B keyframes"]
    age: Int[Tensor, "B keyframes"]
    times: Int[Tensor, "B keyframes"]

    def keep(self, time: Int[Tensor, " B"], codes: Int[Tensor, "B h w q"], here: Here) -> None:
        """Write the frames of this time into the storage."""
        dreams, slots = _numbers(time), time // KEYFRAME_STEPS % KEYFRAMES
        self.codes[dreams, slots] = codes.to(self.codes.dtype)
        self.poses[dreams, slots] = here.pose
        self.known[dreams, slots] = here.known
        self.age[dreams, slots] = here.age
        self.times[dreams, slots] = time

    def first(self, count: int) -> "Keyframes":
        """Those in the first slots."""
        return Keyframes(*(getattr(self, field.name)[:, :count] for field in fields(self)))


@dataclass(frozen=True)
class Memory(Batched):
    """Of the last frames their keys, values, game variables, poses and actions; `slot` = time
    modulo window is overwritten next.

    Attributes:
        keys_values: (B, layers, 2, heads, window, P, head size).
        variables: (B, window, V).
        poses: (B, window, pose size).
        known: (B, window), which of the poses are known.
        actions: (B, window, A), encoded, taken at each frame.
        filled: (B, window), which slots hold a frame.
        time: (B,), the number of frames remembered so far, forgotten ones included.
        keyframes: of frames that may be older.
    """

    keys_values: Float[Tensor, "B L two nh window P hs"]
    variables: Float[Tensor, "B window V"]
    poses: Float[Tensor, "B window pose"]
    known: Bool[Tensor, "B window"]
    actions: Float[Tensor, "B window A"]
    filled: Bool[Tensor, "B window"]
    time: Int[Tensor, " B"]
    keyframes: Keyframes

    def last(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Poses (B, count, P), which of them are known, and actions of the last frames, the newest
        last; zeros where there were none."""
        ago = torch.arange(-count, 0, device=self.time.device)
        window, dreams = self.filled.shape[1], _numbers(self.time)[:, None]
        slots = (self.time[:, None] + ago) % window
        # The ring may be shorter: what was overwritten is no longer known.
        there = self.filled[dreams, slots] & (ago >= -window)
        poses = torch.where(there[..., None], self.poses[dreams, slots], 0.0)
        actions = torch.where(there[..., None], self.actions[dreams, slots], 0.0)
        return poses, self.known[dreams, slots] & there, actions

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Variables (B, window, V) of the last frames, the newest last, and which frames there
        are; the newest has been written into its slot but not counted yet."""
        window, device = self.filled.shape[1], self.time.device
        slots = (self.time[:, None] + torch.arange(1, window + 1, device=device)) % window
        dreams = _numbers(self.time)[:, None]
        return self.variables[dreams, slots], self.filled[dreams, slots]


def empty_memory(world: WorldModelConfig, batch_size: int, device: torch.device) -> Memory:
    """The memory of dreams that have seen nothing yet."""
    prior, tokenizer, pose_size = world.prior, world.tokenizer, len(world.used_pose)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(batch_size, *shape, dtype=dtype, device=device)

    head_size, kept = prior.width // prior.heads, KEYFRAMES if prior.recalled else 0
    return Memory(
        keys_values=zeros(prior.layers, 2, prior.heads, prior.window, world.positions, head_size),
        variables=zeros(prior.window, len(world.variable_names)),
        poses=zeros(prior.window, pose_size),
        known=zeros(prior.window, dtype=torch.bool),
        actions=zeros(prior.window, world.actions.vector_size),
        filled=zeros(prior.window, dtype=torch.bool),
        time=zeros(dtype=torch.int64),
        keyframes=Keyframes(
            codes=zeros(kept, *tokenizer.grid, tokenizer.num_codebooks, dtype=torch.int16),
            poses=zeros(kept, pose_size),
            known=zeros(kept, dtype=torch.bool),
            age=zeros(kept, dtype=torch.int64),
            times=zeros(kept, dtype=torch.int64) - 1,
        ),
    )


def _numbers(of_each: Tensor) -> Tensor:
    """0, 1, 2 and so on, one for each dream."""
    return torch.arange(len(of_each), device=of_each.device)
