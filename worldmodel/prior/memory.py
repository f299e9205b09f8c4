"""What a dream keeps of its past: the last frames as keys and values, older ones as codes."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

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
