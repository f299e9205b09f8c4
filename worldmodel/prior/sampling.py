"""Draws codes from their distributions: temperature, top-k, top-p, and one uniform number each."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.interface.sampling import Sampling


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
