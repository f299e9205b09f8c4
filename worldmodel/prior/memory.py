"""What a prediction starts from: the past of a clip, and the memory of a dream.

A dream remembers the last frames as keys and values, older ones as codes.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.configs.dream import WorldModelConfig

KEYFRAMES = 1024  # older frames at most; the oldest are replaced
KEYFRAME_STEPS = 2  # from one keyframe to the next


class Older(NamedTuple):
    """M older frames to look back at, for each of T predictions of B clips.

    Attributes:
        known: which of the poses are known.
        since: steps from each frame to the newest one.
        present: which of the M slots hold a frame.
    """

    codes: Int[Tensor, "B T M h w q"]
    poses: Float[Tensor, "B T M P"]
    known: Bool[Tensor, "B T M"]
    since: Int[Tensor, "B T M"]
    present: Bool[Tensor, "B T M"]


class View(NamedTuple):
    """What is known of frames 1..T before their codes are predicted.

    Attributes:
        map: what the map shows at their poses, see `Place.seen`; None in worlds without a pose.
        recalled: what older frames add to the map's sketch, see `Recall`; None: there are none.
        sketch: the tokenizer's vectors of their codes, predicted by the map and older frames;
            zeros where the pose is unknown, None in worlds without one.
    """

    map: Float[Tensor, "B T positions D"] | None
    recalled: Float[Tensor, "B T h w E"] | None
    sketch: Float[Tensor, "B T h w E"] | None

    def steps(self, chosen: slice) -> "View":
        """The view of some of the predictions."""
        return View(*(None if part is None else part[:, chosen] for part in self))


class Past(NamedTuple):
    """What is known, besides codes, when frames 1..T are predicted from frames 0..T-1.

    Attributes:
        poses: of frames 0..T; P is 0 in worlds without a pose.
        known: which of these poses are known.
        hidden: which of frames 0..T-1 are hidden.
        older: frames to look back at; None: there are none.
        view: of frames 1..T; None: it was not looked up yet.
    """

    poses: Float[Tensor, "B T+1 P"]
    known: Bool[Tensor, "B T+1"]
    hidden: Bool[Tensor, "B T"]
    older: Older | None = None
    view: View | None = None

    def steps(self, chosen: slice) -> "Past":
        """The past of some of the predictions."""
        frames = slice(chosen.start, chosen.stop + 1)
        older = self.older and Older(*(part[:, chosen] for part in self.older))
        return Past(
            self.poses[:, frames],
            self.known[:, frames],
            self.hidden[:, chosen],
            older,
            self.view and self.view.steps(chosen),
        )


class Here(NamedTuple):
    """The poses of the newest frames of B dreams, and which of them are known."""

    pose: Float[Tensor, "B P"]
    known: Bool[Tensor, " B"]


State = TypeVar("State", bound="Batched")


class Batched:
    """A dataclass of tensors, or of such dataclasses, whose first dimension counts dreams."""

    def clone(self: State) -> State:
        """A copy with its own storage: a saved moment, or a branch."""
        return replace(self, **{k: value.clone() for k, value in _fields(self).items()})  # pyright: ignore[reportArgumentType]

    def repeated(self: State, times: int) -> State:
        """One dream as a batch of `times` copies, each with its own storage."""
        copies = {
            name: value.repeat(times, *[1] * (value.ndim - 1))
            if isinstance(value, Tensor)
            else value.repeated(times)
            for name, value in _fields(self).items()
        }
        return replace(self, **copies)  # pyright: ignore[reportArgumentType]

    def write(self: State, rows: Int[Tensor, " R"], others: State) -> None:
        """Replace the dreams at `rows` by R others."""
        for name, value in _fields(self).items():
            if isinstance(value, Tensor):
                value[rows] = getattr(others, name)
            else:
                value.write(rows, getattr(others, name))


def _fields(state: Any) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in fields(state)}


@dataclass(frozen=True)
class Keyframes(Batched):
    """Frames that may be older than the window. Frame t is stored in slot `t // KEYFRAME_STEPS`
    modulo `KEYFRAMES`, until a later one replaces it.

    Attributes:
        codes: int16.
        known: which of the poses are known.
        times: of each frame; -1: the slot is empty.
    """

    codes: Int[Tensor, "B keyframes h w q"]
    poses: Float[Tensor, "B keyframes P"]
    known: Bool[Tensor, "B keyframes"]
    times: Int[Tensor, "B keyframes"]

    def store(self, time: Int[Tensor, " B"], codes: Int[Tensor, "B h w q"], here: Here) -> None:
        """Write the frames of this time into their slots."""
        dreams, slots = _numbers(time), time // KEYFRAME_STEPS % KEYFRAMES
        self.codes[dreams, slots] = codes.to(self.codes.dtype)
        self.poses[dreams, slots] = here.pose
        self.known[dreams, slots] = here.known
        self.times[dreams, slots] = time

    def first(self, count: int) -> "Keyframes":
        """The first `count` slots."""
        return Keyframes(*(getattr(self, field.name)[:, :count] for field in fields(self)))


@dataclass(frozen=True)
class Memory(Batched):
    """Ring buffers over the last `window` frames; slot `time` modulo `window` is overwritten next.

    Attributes:
        keys_values: of each layer, keys before values.
        known: which of the poses are known.
        actions: encoded, taken at each frame.
        filled: which slots hold a frame.
        time: number of frames so far.
        keyframes: frames that may be older.
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
        """Poses (B, count, P) of the last frames, which of them are known, and actions, the newest
        last; zeros before the first frame. `count` is at most the window."""
        ago = torch.arange(-count, 0, device=self.time.device)
        window, dreams = self.filled.shape[1], _numbers(self.time)[:, None]
        slots = (self.time[:, None] + ago) % window
        present = self.filled[dreams, slots]
        poses = torch.where(present[..., None], self.poses[dreams, slots], 0.0)
        actions = torch.where(present[..., None], self.actions[dreams, slots], 0.0)
        return poses, self.known[dreams, slots] & present, actions

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Variables (B, window, V) of the last frames, the newest last, and which slots hold a
        frame. The newest must be in its slot, but not yet counted in `time`."""
        window, device = self.filled.shape[1], self.time.device
        slots = (self.time[:, None] + torch.arange(1, window + 1, device=device)) % window
        dreams = _numbers(self.time)[:, None]
        return self.variables[dreams, slots], self.filled[dreams, slots]


def empty_memory(world: WorldModelConfig, batch_size: int, device: torch.device) -> Memory:
    """The memory of dreams before their first frame."""
    prior, tokenizer, pose_size = world.prior, world.tokenizer, len(world.used_pose)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(batch_size, *shape, dtype=dtype, device=device)

    head_size, num_keyframes = prior.width // prior.heads, KEYFRAMES if prior.recalled else 0
    return Memory(
        keys_values=zeros(prior.layers, 2, prior.heads, prior.window, world.positions, head_size),
        variables=zeros(prior.window, len(world.variable_names)),
        poses=zeros(prior.window, pose_size),
        known=zeros(prior.window, dtype=torch.bool),
        actions=zeros(prior.window, world.actions.vector_size),
        filled=zeros(prior.window, dtype=torch.bool),
        time=zeros(dtype=torch.int64),
        keyframes=Keyframes(
            codes=zeros(num_keyframes, *tokenizer.grid, tokenizer.num_codebooks, dtype=torch.int16),
            poses=zeros(num_keyframes, pose_size),
            known=zeros(num_keyframes, dtype=torch.bool),
            times=zeros(num_keyframes, dtype=torch.int64) - 1,
        ),
    )


def _numbers(of_each: Tensor) -> Tensor:
    """Indices 0, 1, 2 and so on, one for each dream."""
    return torch.arange(len(of_each), device=of_each.device)
