"""The head's loop over a frame's tokens as one ONNX `Scan`.

The same as `TokenHead.sample`, written for few nodes: a runtime in a browser takes microseconds for
each, and each runs once a token. Keys are cached transposed.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch.nn import functional as F

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import TokenHead, Undirected, draw_codes
from worldmodel.prior.layers import Block, ConditionalNorm, normalise


def sample_by_scan(
    head: TokenHead,
    context: Float[Tensor, "1 n D"],
    actions: Float[Tensor, "1 A"],
    uniforms: Float[Tensor, "1 n"],
    sampling: Sampling,
    undirected: Undirected | None,
    given: Int[Tensor, " n"],
) -> tuple[Int[Tensor, "1 n"], Float[Tensor, "1"]]:
    """Sample a frame's tokens, but for those that are given.

    Args:
        given: codes that are not sampled; -1: they are.
    """
    if undirected is not None:
        context = torch.cat([context, undirected.context])
        actions = torch.cat([actions, undirected.actions])
    num_contexts, num_tokens, width = context.shape
    heads, size = head.heads, width // head.heads
    blocks = [cast(Block, block) for block in head.blocks]
    norms = [norm for block in blocks for norm in (block.norm1, block.norm2)] + [head.norm]
    affines = [_affine(norm, actions) for norm in norms]
    index = torch.arange(num_tokens, device=context.device)
    is_here = index == index[:, None]  # (n, n)
    later = torch.where(index > index[:, None], -torch.inf, 0.0)  # (n, n)
    keys = [context.new_zeros(num_contexts, heads, size, num_tokens) for _ in blocks]
    values = [context.new_zeros(num_contexts, heads, num_tokens, size) for _ in blocks]

    def step(carried, scanned):
        previous, keys, values = carried
        own, uniform, known, here, later = scanned
        embedded = head.previous_code(previous)
        if num_contexts > 1:  # torch takes the two sizes for unknown ones that must be equal
            embedded = embedded.expand(num_contexts, -1)
        x = own + embedded  # (contexts, D)
        new_keys, new_values = [], []
        for i, block in enumerate(blocks):
            qkv = block.queries_keys_values(normalise(x, affines[2 * i])).split(width, -1)
            q, v = (part.view(num_contexts, heads, 1, size) for part in (qkv[0], qkv[2]))
            k = qkv[1].view(num_contexts, heads, size, 1)
            new_keys.append(torch.where(here, k, keys[i]))
            new_values.append(torch.where(here[:, None], v, values[i]))
            weights = ((q * size**-0.5) @ new_keys[i] + later).softmax(-1)
            y = (weights @ new_values[i]).view(num_contexts, width)
            x = x + block.attention_output(y)
            x = x + block.contract(block.expand(normalise(x, affines[2 * i + 1])).relu().square())
        logits = head.logits(normalise(x, affines[-1]))
        guided = logits[:1]
        if undirected is not None:
            guided = guided + undirected.guidance * (guided - logits[1:])
        code = torch.where(known >= 0, known, draw_codes(guided, uniform, sampling))
        return (code, new_keys, new_values), (code.clone(), logits[:1].clone())

    positioned = (context + head.position).movedim(1, 0)  # (n, contexts, D)
    first = index.new_full((1,), head.logits.out_features)
    scanned = (positioned, uniforms.mT.clone(), given[:, None].clone(), is_here, later)
    _, (codes, logits) = scan(step, (first, keys, values), scanned)
    nats = F.cross_entropy(logits[:, 0], codes[:, 0])
    return codes.mT, nats[None]


def _affine(norm: ConditionalNorm, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and bias of a norm, (D,) each for one context and else (contexts, D), in storage of
    their own, which a scan needs."""
    gain, bias = norm.gain_and_bias(actions).chunk(2, -1)
    if len(actions) == 1:  # then the norm is a single node
        gain, bias = gain[0], bias[0]
    return gain.clone(), bias.clone()
