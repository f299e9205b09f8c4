"""The prior as published: one GPT over all codes of a clip (VideoGPT Sec. 3, Learning a Prior).

Codes are in raster order: frames, rows, columns, codebooks. The input at a position is the code
before it (its frozen vector from the codebook), or a start vector; the output is the logits of the
code at that position. The prior is unconditional, or conditioned on a vector (actions, class) by
the norms, on given frames by cross-attention, or on both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import draw_codes
from worldmodel.prior.layers import Affine, init_linear, normalise
from worldmodel.videogpt.attention import (
    dense_attention,
    sparse_attention,
    visible_keys,
)
from worldmodel.videogpt.configs import GPTConfig, VideoGPTConfig
from worldmodel.videogpt.gpt_layers import (
    POSITION_STD,
    AxisPositions,
    BlockConditions,
    GivenFrames,
    PriorBlock,
    affine_of,
    make_norm,
    merge_heads,
    split_heads,
)


class Conditions(NamedTuple):
    """What a prior is conditioned on, besides a clip's codes.

    Attributes:
        vector: flat actions and a one-hot class; None where the config has neither.
        frames: the given frames in [-0.5, 0.5]; None where the config gives none.
    """

    vector: Float[Tensor, "B S"] | None = None
    frames: Float[Tensor, "B C n H W"] | None = None


@dataclass(frozen=True)
class GPTCache:
    """State of sampling B clips.

    Attributes:
        keys_values: of every layer and token, keys before values; overwritten in place.
        blocks, norm: the clips' conditions as each block and the last norm use them.
        positions: of all tokens.
        length: number of tokens whose keys and values are present.
    """

    keys_values: Float[Tensor, "L B N two_D"]
    blocks: tuple[BlockConditions, ...]
    norm: Affine
    positions: Float[Tensor, "N D"]
    length: int

    def clone(self) -> "GPTCache":
        return replace(self, keys_values=self.keys_values.clone())


class GPT(nn.Module):
    """A causal transformer over a clip's N = t h w q codes.

    Attributes:
        code_vectors: a copy of the tokenizer's codes; zeros until it is made.
        checkpoint_activations: recompute blocks in the backward pass, to save memory.
    """

    def __init__(self, config: VideoGPTConfig) -> None:
        super().__init__()
        self.config: GPTConfig = config.prior
        self.condition_size = config.condition_size
        tokenizer, width = config.tokenizer, config.prior.width
        self.latent_shape = tokenizer.latent_shape
        self.num_books = tokenizer.num_codebooks
        self.checkpoint_activations = False
        self.code_vectors: Tensor
        self.register_buffer(
            "code_vectors",
            torch.zeros(tokenizer.num_codebooks, tokenizer.num_codes, tokenizer.code_dim),
        )
        self.input = nn.Linear(tokenizer.code_dim, width)
        self.start = nn.Parameter(torch.empty(width))
        self.positions = AxisPositions(self.latent_shape, width, std=POSITION_STD)
        self.given = None
        if self.config.given_frames:
            self.given = GivenFrames(config.prior, tokenizer.clip_shape[1:], self.positions)
        self.blocks = nn.ModuleList(
            PriorBlock(config.prior, config.condition_size) for _ in range(self.config.layers)
        )
        self.norm = make_norm(width, config.condition_size)
        # One for each codebook: code 7 of one is unrelated to that of another. A token passes only
        # one of them.
        self.heads = nn.ModuleList(
            nn.Linear(width, tokenizer.num_codes) for _ in range(self.num_books)
        )
        init_linear(self.input)
        nn.init.normal_(self.start, std=POSITION_STD)
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)

    @property
    def num_tokens(self) -> int:
        """N, the codes of a clip."""
        return math.prod(self.latent_shape)

    def forward(
        self, codes: Int[Tensor, "B t h w q"], conditions: Conditions
    ) -> Float[Tensor, "B N K"]:
        """Logits of every code in raster order, each given the codes before it.

        Raises:
            ValueError: the codes or conditions don't have the config's sizes.
        """
        if codes.shape[1:] != self.latent_shape:
            raise ValueError(f"expected codes of {self.latent_shape}, not {tuple(codes.shape[1:])}")
        given = self._given(conditions)
        x = self._embed(codes.flatten(1), self.positions())
        dropout = self.config.dropout if self.training else 0.0
        for block in self.blocks:
            run = block
            if self.checkpoint_activations and torch.is_grad_enabled():
                run = partial(checkpoint, block, use_reentrant=False)
            x = run(x, conditions.vector, given, self._attend, dropout)
        x = normalise(x, affine_of(self.norm, conditions.vector))
        if self.num_books == 1:
            return self.heads[0](x)
        by_book = x.unflatten(1, (-1, self.num_books)).unbind(2)
        logits = [head(y) for head, y in zip(self.heads, by_book, strict=True)]
        return torch.stack(logits, 2).flatten(1, 2)

    @torch.no_grad()
    def sample(
        self,
        conditions: Conditions,
        uniforms: Float[Tensor, "B N"],
        sampling: Sampling,
        *,
        given: Int[Tensor, "B n"] | None = None,
        on_token: Callable[[], None] | None = None,
    ) -> Int[Tensor, "B t h w q"]:
        """Sample the codes of B clips, one by one, without dropout.

        The same numbers give the same codes, alone or in a batch.

        Args:
            uniforms: in [0, 1), one for each code, given ones included.
            given: the first n codes of each clip, in raster order.
            on_token: called after each sampled code.

        Raises:
            ValueError: there are not N numbers, or more than N codes given.
        """
        batch_size, num_numbers = uniforms.shape
        if num_numbers != self.num_tokens:
            raise ValueError(f"expected {self.num_tokens} numbers a clip, not {num_numbers}")
        codes = torch.zeros(uniforms.shape, dtype=torch.int64, device=uniforms.device)
        if given is None:
            given = codes[:, :0]
        num_given = given.shape[1]
        if num_given > self.num_tokens:
            raise ValueError(f"{num_given} codes are given of {self.num_tokens}")
        codes[:, :num_given] = given
        if num_given < self.num_tokens:
            logits, cache = self.prefill(conditions, given)
            for i in range(num_given, self.num_tokens):
                codes[:, i] = draw_codes(logits, uniforms[:, i], sampling)
                if on_token is not None:
                    on_token()
                if i + 1 < self.num_tokens:
                    logits, cache = self.decode_one_token(cache, codes[:, i])
        return codes.view(batch_size, *self.latent_shape)

    @torch.no_grad()
    def prefill(
        self, conditions: Conditions, given: Int[Tensor, "B n"]
    ) -> tuple[Float[Tensor, "B K"], GPTCache]:
        """Process the first n < N codes at once.

        Returns:
            The logits of the code after them, and the cache for the next one.
        """
        batch_size, num_given = given.shape
        given_frames = self._given(conditions)
        blocks = tuple(
            cast(PriorBlock, b).conditions(conditions.vector, given_frames) for b in self.blocks
        )
        norm = affine_of(self.norm, conditions.vector)
        shape = (self.config.layers, batch_size, self.num_tokens, 2 * self.config.width)
        cache = GPTCache(self.start.new_empty(shape), blocks, norm, self.positions(), 0)
        if num_given == 0:
            start = self.start + cache.positions[0]
            return self._step(cache, start.expand(batch_size, 1, -1))
        # Padded to full frames for sparse attention; later codes don't affect earlier ones.
        num_seen = num_given + 1
        frame_size = self.num_tokens // self.latent_shape[0]
        num_padded = -(-num_seen // frame_size) * frame_size
        x = self._embed(F.pad(given, (0, num_padded - num_given)), cache.positions[:num_padded])
        for block, of_block, kept in zip(self.blocks, blocks, cache.keys_values, strict=True):

            def attend(qkv: Tensor, kept: Tensor = kept) -> Tensor:
                kept[:, :num_seen] = qkv[:, :num_seen, self.config.width :]
                return self._attend(qkv)

            x = cast(PriorBlock, block).step(x, of_block, attend, 0.0)
        return self._head(x[:, num_given], num_given, norm), replace(cache, length=num_seen)

    @torch.no_grad()
    def decode_one_token(
        self, cache: GPTCache, codes: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B K"], GPTCache]:
        """Process one more code of each clip.

        Returns:
            The logits of the code after it, and the new cache, which shares storage with `cache`.

        Raises:
            ValueError: that code was the last.
        """
        if cache.length == self.num_tokens:
            raise ValueError(f"all {self.num_tokens} codes are sampled: none follows the last")
        x = self.vectors(codes[:, None], cache.length - 1) + cache.positions[cache.length]
        return self._step(cache, x)

    def vectors(self, codes: Int[Tensor, "B P"], first: int = 0) -> Float[Tensor, "B P D"]:
        """Input vectors of codes at the positions from `first` on."""
        books = torch.arange(first, first + codes.shape[1], device=codes.device) % self.num_books
        rows = codes + books * self.code_vectors.shape[1]
        return self.input(F.embedding(rows, self.code_vectors.flatten(0, 1)))

    def _step(
        self, cache: GPTCache, x: Float[Tensor, "B 1 D"]
    ) -> tuple[Float[Tensor, "B K"], GPTCache]:
        i, width, heads = cache.length, self.config.width, self.config.heads
        seen = None  # everything up to i
        if self.config.attention == "sparse":
            seen = visible_keys(i, self.latent_shape, x.device)

        def attend_to_past(kept: Tensor, qkv: Tensor) -> Tensor:
            kept[:, i] = qkv[:, 0, width:]
            past = kept[:, : i + 1] if seen is None else kept.index_select(1, seen)
            (queries,) = split_heads(qkv[..., :width], 1, heads)
            keys, values = split_heads(past, 2, heads)
            return merge_heads(F.scaled_dot_product_attention(queries, keys, values))

        for block, of_block, kept in zip(self.blocks, cache.blocks, cache.keys_values, strict=True):
            x = cast(PriorBlock, block).step(x, of_block, partial(attend_to_past, kept), 0.0)
        return self._head(x[:, 0], i, cache.norm), replace(cache, length=i + 1)

    def _attend(self, qkv: Float[Tensor, "B P three_D"]) -> Float[Tensor, "B P D"]:
        q, k, v = split_heads(qkv, 3, self.config.heads)
        if self.config.attention == "dense":
            return merge_heads(dense_attention(q, k, v))
        return merge_heads(sparse_attention(q, k, v, self.latent_shape))

    def _given(self, conditions: Conditions) -> Float[Tensor, "B M D"] | None:
        """Vectors of the given frames; raises ValueError for conditions of other sizes."""
        vector, frames = conditions
        size = self.condition_size
        if (0 if vector is None else vector.shape[-1]) != size:
            shown = "none" if vector is None else f"one of {vector.shape[-1]}"
            raise ValueError(f"expected a condition of {size} numbers (0: None), but got {shown}")
        num_frames = 0 if frames is None else frames.shape[2]
        if num_frames != self.config.given_frames:
            raise ValueError(f"expected {self.config.given_frames} given frames, not {num_frames}")
        return None if self.given is None else self.given(frames)

    def _embed(
        self, codes: Int[Tensor, "B P"], positions: Float[Tensor, "P D"]
    ) -> Float[Tensor, "B P D"]:
        """The start vector and all codes but the last, each at the position of the next code."""
        start = self.start.expand(len(codes), 1, -1)
        return torch.cat([start, self.vectors(codes[:, :-1])], 1) + positions

    def _head(self, x: Float[Tensor, "B D"], i: int, norm: Affine) -> Float[Tensor, "B K"]:
        """Logits of the code at position i."""
        return self.heads[i % self.num_books](normalise(x[:, None], norm))[:, 0]
