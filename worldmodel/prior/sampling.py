"""How a code is drawn from its distribution: guidance, temperature, top-k, top-p, and one uniform
number."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST_TOP_K = 2**31 - 1  # beyond any codebook; compiled code counts in integers of bounded size
MOST_GUIDANCE = 1e4  # beyond any use; logits stay finite
# Divided by less, logits in float32 overflow; long before, only the likeliest code is left.
LEAST_TEMPERATURE = 1e-30


@dataclass(frozen=True)
class Sampling:
    """How to draw codes.

    Attributes:
        temperature: divides the logits; 1 draws from the model itself, 0 takes the likeliest.
        top_k: only the k likeliest codes may be drawn; None: all.
        top_p: only the fewest codes that together have this probability; None: all.
        guidance: g of logits + g (logits - logits under the mean action): 0 draws from the model
            itself, 1 doubles what the action changes (classifier-free guidance, w of Ho and
            Salimans 2022; elsewhere a scale of 1 + g). Only for dreams, which are stepped; whole
            clips are drawn without.

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")
        if self.top_k is not None and not 1 <= self.top_k <= MOST_TOP_K:
            raise ValueError(f"top_k must be from 1 to {MOST_TOP_K}, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.guidance <= MOST_GUIDANCE:
            raise ValueError(
                f"guidance must be at least 0 and at most {MOST_GUIDANCE:g}, not {self.guidance}"
            )

    @property
    def takes_likeliest(self) -> bool:
        """Whether nothing is drawn: the temperature is 0, or so low that it makes no difference."""
        return self.temperature < LEAST_TEMPERATURE

    def changed(
        self,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
    ) -> "Sampling":
        """With what is given in place of its own. Raises ValueError as the class does."""
        return Sampling(
            self.temperature if temperature is None else temperature,
            self.top_k if top_k is None else top_k,
            self.top_p if top_p is None else top_p,
            self.guidance if guidance is None else guidance,
        )


def draw_codes(
    logits: Float[Tensor, "*batch K"], uniforms: Float[Tensor, "*batch"], sampling: Sampling
) -> Int[Tensor, "*batch"]:
    """Draw one code from each row by the inverse of its cumulative distribution.

    One uniform number a code, in [0, 1): the same numbers give the same codes, alone or in a
    batch.
    """
    if sampling.takes_likeliest:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kth_largest = logits.topk(sampling.top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < kth_largest, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered = probabilities.sort(-1, descending=True).values
        before = ordered.cumsum(-1) - ordered
        left_out = before >= sampling.top_p
        left_out[..., 0] = False  # a top_p that is 0 in float32 still leaves the likeliest
        smallest_kept = ordered.masked_fill(left_out, 2.0).amin(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < smallest_kept, 0.0)
    cumulative = probabilities.cumsum(-1)
    targets = uniforms[..., None] * cumulative[..., -1:]
    # The first code whose cumulative probability exceeds the target: never one of probability 0.
    return (cumulative <= targets).sum(-1).clamp(max=logits.shape[-1] - 1)
