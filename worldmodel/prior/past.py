"""What is known of the frames that a prediction starts from, besides what they show."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NUM_AGES = 9  # that the prior tells apart: 0, 1, 2, up to 4, 8, 16, 32, 64 dreamed steps, and more


class Older(NamedTuple):
    """M older frames for each of T predictions of B clips.

    Attributes:
        codes: (B, T, M, h, w, q).
        poses: (B, T, M, P).
        known: which of the poses are known.
        age: for how many steps each frame was dreamed; 0: it was given.
        since: steps from each frame to the newest one.
        there: which of the M there are.
    """

    codes: Int[Tensor, "B T M h w q"]
    poses: Float[Tensor, "B T M P"]
    known: Bool[Tensor, "B T M"]
    age: Int[Tensor, "B T M"]
    since: Int[Tensor, "B T M"]
    there: Bool[Tensor, "B T M"]


class Past(NamedTuple):
    """Of T predictions, of frames 1..T from frames 0..T-1.

    Attributes:
        poses: of frames 0..T; P is 0 in worlds without one.
        known: which of these poses are known.
        age: of frames 0..T-1: for how many steps it was dreamed; 0: it was given.
        hidden: which of frames 0..T-1 can't be seen.
        older: frames that are looked at again; None: there are none.
    """

    poses: Float[Tensor, "B T+1 P"]
    known: Bool[Tensor, "B T+1"]
    age: Int[Tensor, "B T"]
    hidden: Bool[Tensor, "B T"]
    older: Older | None = None

    def steps(self, chosen: slice) -> "Past":
        """Of some of the predictions."""
        frames = slice(chosen.start, chosen.stop + 1)
        older = self.older and Older(*(part[:, chosen] for part in self.older))
        return Past(
            self.poses[:, frames],
            self.known[:, frames],
            self.age[:, chosen],
            self.hidden[:, chosen],
            older,
        )


class Here(NamedTuple):
    """Where the newest frames of B dreams are, and for how many steps they were dreamed."""

    pose: Float[Tensor, "B P"]
    known: Bool[Tensor, " B"]
    age: Int[Tensor, " B"]


def age_group(age: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """0 for frames that were given; 1, 2, 3 to 4, 5 to 8 and so on steps have a number each."""
    group = 1 + age.clamp(min=1).double().log2().ceil().long()
    return torch.where(age > 0, group.clamp(max=NUM_AGES - 1), 0)
