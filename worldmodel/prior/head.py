"""The head: samples the tokens of one frame one by one, given the backbone's states."""

from functools import partial
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.layers import Block, ConditionalNorm, normalise


class Undirected(NamedTuple):
    """The context of frames under the mean action, and how far guidance moves away from it."""

    context: Float[Tensor, "F n D"]
    actions: Float[Tensor, "F A"]
    guidance: float


class TokenHead(nn.Module):
    """A small causal transformer over the n tokens of a frame, in raster order.

    Each token sees its own context vector and the tokens before it, so a frame's likelihood
    is exact. F counts frames, of any clips.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        num_codes: int,
        width: int,
        layers: int,
        heads: int,
        condition_size: int,
    ) -> None:
        super().__init__()
        self.num_tokens, self.heads = num_tokens, heads
        # Of the code before each token; index K stands for the start of a frame.
        self.previous_code = nn.Embedding(num_codes + 1, width)
        self.position = nn.Parameter(torch.empty(num_tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, condition_size, num_layers=layers) for _ in range(layers)
        )
        self.norm = ConditionalNorm(width, condition_size)
        self.logits = nn.Linear(width, num_codes)
        # With less, random contexts drown the previous token at first: 0.08 nats worse.
        nn.init.normal_(self.previous_code.weight, std=0.3)
        nn.init.normal_(self.position, std=0.1)
        nn.init.normal_(self.logits.weight, std=0.02)
        nn.init.zeros_(self.logits.bias)

    def forward(
        self,
        context: Float[Tensor, "F n D"],
        codes: Int[Tensor, "F n"],
        actions: Float[Tensor, "F A"],
    ) -> Float[Tensor, "F n K"]:
        """Logits of every token, given the true tokens before it."""
        start = codes.new_full((len(codes), 1), self.logits.out_features)
        previous = torch.cat([start, codes[:, :-1]], 1)
        x = context + self.previous_code(previous) + self.position
        for block in self.blocks:
            x = block(x, actions, _attend_causally)
        return self.logits(self.norm(x, actions))

    @torch.no_grad()
    def sample(
        self,
        context: Float[Tensor, "F n D"],
        actions: Float[Tensor, "F A"],
        uniforms: Float[Tensor, "F n"],
        sampling: Sampling,
        undirected: Undirected | None = None,
    ) -> tuple[Int[Tensor, "F n"], Float[Tensor, " F"]]:
        """Sample the frames' tokens.

        Args:
            uniforms: in [0, 1), one for each token.
            undirected: what guidance moves away from; None: no guidance.

        Returns:
            The codes, and the mean negative log-likelihood of a frame's tokens in nats a
            token, under the unmodified model whatever the sampling.
        """
        num_sampled = len(context)
        if undirected is not None:  # a second half of the batch
            context = torch.cat([context, undirected.context])
            actions = torch.cat([actions, undirected.actions])
        num_frames, _, width = context.shape
        shape = (num_frames, self.heads, self.num_tokens, width // self.heads)
        blocks = [cast(Block, block) for block in self.blocks]
        caches = [(context.new_empty(shape), context.new_empty(shape)) for _ in blocks]
        affines = [block.affines(actions) for block in blocks]
        last_affine = self.norm.affine(actions)
        positioned = context + self.position
        previous = actions.new_full((num_frames,), self.logits.out_features, dtype=torch.int64)
        codes, logits = [], []
        for i in range(self.num_tokens):
            x = positioned[:, i : i + 1] + self.previous_code(previous)[:, None]
            for block, affine, (keys, values) in zip(blocks, affines, caches, strict=True):
                attend = partial(_attend_to_earlier, keys=keys, values=values, i=i)
                x = block.run(x, affine, attend)
            all_logits = self.logits(normalise(x, last_affine))[:, 0]
            logits.append(all_logits[:num_sampled])
            guided = all_logits
            if undirected is not None:
                directed, baseline = all_logits.chunk(2)
                guided = directed + undirected.guidance * (directed - baseline)
            codes.append(draw_codes(guided, uniforms[:, i], sampling))
            previous = codes[-1] if undirected is None else codes[-1].repeat(2)
        sampled = torch.stack(codes, 1)
        nats = F.cross_entropy(torch.stack(logits, 2), sampled, reduction="none")
        return sampled, nats.mean(1)


def _attend_causally(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _attend_to_earlier(
    q: Tensor, k: Tensor, v: Tensor, *, keys: Tensor, values: Tensor, i: int
) -> Tensor:
    """Attention of token i to itself and the tokens before it, whose keys and values are cached."""
    keys[:, :, i : i + 1], values[:, :, i : i + 1] = k, v
    return F.scaled_dot_product_attention(q, keys[:, :, : i + 1], values[:, :, : i + 1])


def draw_codes(
    logits: Float[Tensor, "*batch K"], uniforms: Float[Tensor, "*batch"], sampling: Sampling
) -> Int[Tensor, "*batch"]:
    """Sample one code from each row by inverse transform sampling.

    Each code takes one uniform number in [0, 1): the same numbers give the same codes, alone or in
    a batch.
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
        excluded = before >= sampling.top_p
        excluded[..., 0] = False  # a top_p that is 0 in float32 still keeps the likeliest
        smallest_kept = ordered.masked_fill(excluded, 2.0).amin(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < smallest_kept, 0.0)
    cumulative = probabilities.cumsum(-1)
    targets = uniforms[..., None] * cumulative[..., -1:]
    # The first code whose cumulative probability exceeds the target: never one of probability 0.
    return (cumulative <= targets).sum(-1).clamp(max=logits.shape[-1] - 1)
