"""The head: draws the tokens of one frame one by one, given what the backbone made of the past."""

from functools import partial
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.layers import Block, ConditionalNorm, normalise
from worldmodel.prior.sampling import draw_codes


class Undirected(NamedTuple):
    """What frames would be drawn from under no action in particular, and how far from it
    guidance leads."""

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
        # The code before; index K stands before a frame's first token.
        self.previous_code = nn.Embedding(num_codes + 1, width)
        self.position = nn.Parameter(torch.empty(num_tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, condition_size, num_layers=layers) for _ in range(layers)
        )
        self.norm = ConditionalNorm(width, condition_size)
        self.logits = nn.Linear(width, num_codes)
        # Weaker, and random contexts drown the previous token at first: worth 0.08 nats.
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
        """Draw the frames' tokens.

        Args:
            context, actions: of each frame.
            uniforms: in [0, 1), one for each token.
            sampling: how to draw.
            undirected: what guidance leads away from; None: no guidance.

        Returns:
            The codes, and the mean negative log-likelihood of a frame's tokens in nats a
            token, under the model itself whatever the sampling.
        """
        own = slice(len(context))
        if undirected is not None:  # behind the frames' own, token by token beside them
            context = torch.cat([context, undirected.context])
            actions = torch.cat([actions, undirected.actions])
        num_frames, _, width = context.shape
        shape = (num_frames, self.heads, self.num_tokens, width // self.heads)
        blocks = [cast(Block, block) for block in self.blocks]
        caches = [(context.new_empty(shape), context.new_empty(shape)) for _ in blocks]
        affines = [block.affines(actions) for block in blocks]
        last_affine = self.norm.affine(actions)
        placed = context + self.position
        previous = actions.new_full((num_frames,), self.logits.out_features, dtype=torch.int64)
        codes, logits = [], []
        for i in range(self.num_tokens):
            x = placed[:, i : i + 1] + self.previous_code(previous)[:, None]
            for block, affine, (keys, values) in zip(blocks, affines, caches, strict=True):
                attend = partial(_attend_to_earlier, keys=keys, values=values, i=i)
                x = block.told(x, affine, attend)
            all_logits = self.logits(normalise(x, last_affine))[:, 0]
            logits.append(all_logits[own])
            guided = all_logits
            if undirected is not None:
                directed, away_from = all_logits.chunk(2)
                guided = directed + undirected.guidance * (directed - away_from)
            codes.append(draw_codes(guided, uniforms[:, i], sampling))
            previous = codes[-1] if undirected is None else codes[-1].repeat(2)
        drawn = torch.stack(codes, 1)
        nats = F.cross_entropy(torch.stack(logits, 2), drawn, reduction="none")
        return drawn, nats.mean(1)


def _attend_causally(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _attend_to_earlier(
    q: Tensor, k: Tensor, v: Tensor, *, keys: Tensor, values: Tensor, i: int
) -> Tensor:
    """Token i to those before it, whose keys and values are kept."""
    keys[:, :, i : i + 1], values[:, :, i : i + 1] = k, v
    return F.scaled_dot_product_attention(q, keys[:, :, : i + 1], values[:, :, : i + 1])
