"""Layers of the prior as published: its blocks, its positions, and how it sees given frames."""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.prior.layers import Affine, ConditionalNorm, init_linear, normalise
from worldmodel.videogpt.configs import GPTConfig
from worldmodel.videogpt.resnet import ResNet, output_size

POSITION_STD = 0.1  # near that of embedded codes
# Added to features of variance 1. With less, it takes longer to learn where things are.
GIVEN_POSITION_STD = 0.7

# Queries, keys and values side by side (B, P, 3D) -> what was attended to (B, P, D)
AttendToPast = Callable[[Tensor], Tensor]


class BlockConditions(NamedTuple):
    """A clip's conditions as one block uses them, computed once for all tokens.

    Attributes:
        affines: of the block's norms.
        given: keys and values of the given frames, (B, heads, M, hs) each.
    """

    affines: tuple[Affine, ...]
    given: tuple[Tensor, Tensor] | None


class PriorBlock(nn.Module):
    """Self-attention, cross-attention to given frames if there are any, and feed-forward; all
    pre-norm, with dropout after each (VideoGPT Sec. 3, Learning a Prior)."""

    def __init__(self, config: GPTConfig, condition_size: int) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.expand = nn.Linear(width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, width)
        branch_outputs = [self.attention_output, self.contract]
        self.given_queries: nn.Linear | None = None
        if config.given_frames:
            self.given_queries = nn.Linear(width, width)
            self.given_keys_values = nn.Linear(width, 2 * width)
            self.given_output = nn.Linear(width, width)
            branch_outputs.append(self.given_output)
        init_linear(*cast(list[nn.Linear], list(self.children())))
        with torch.no_grad():
            if self.given_queries is not None:  # at first a token attends to its own position
                self.given_keys_values.weight[:width] = self.given_queries.weight
            for linear in branch_outputs:  # a sum of all blocks' branches starts with unit variance
                linear.weight /= math.sqrt(len(branch_outputs) * config.layers)
        self.norms = nn.ModuleList(make_norm(width, condition_size) for _ in branch_outputs)

    def conditions(
        self, vector: Float[Tensor, "B S"] | None, given: Float[Tensor, "B M D"] | None
    ) -> BlockConditions:
        affines = tuple(affine_of(norm, vector) for norm in self.norms)
        if given is None:
            return BlockConditions(affines, None)
        keys, values = split_heads(self.given_keys_values(given), 2, self.heads)
        return BlockConditions(affines, (keys, values))

    def forward(
        self,
        x: Float[Tensor, "B P D"],
        vector: Float[Tensor, "B S"] | None,
        given: Float[Tensor, "B M D"] | None,
        attend: AttendToPast,
        dropout: float,
    ) -> Float[Tensor, "B P D"]:
        """`conditions` and `step` in one call, which activation checkpointing recomputes."""
        return self.step(x, self.conditions(vector, given), attend, dropout)

    def step(
        self,
        x: Float[Tensor, "B P D"],
        conditions: BlockConditions,
        attend: AttendToPast,
        dropout: float,
    ) -> Float[Tensor, "B P D"]:
        """The block's output for any number of tokens.

        Args:
            conditions: of this block.
            attend: the attention of tokens to those before them.
            dropout: of each branch; 0 except in training.
        """
        affines = conditions.affines
        attended = attend(self.queries_keys_values(normalise(x, affines[0])))
        x = x + _drop(self.attention_output(attended), dropout)
        if self.given_queries is not None and conditions.given is not None:
            (queries,) = split_heads(self.given_queries(normalise(x, affines[2])), 1, self.heads)
            seen = F.scaled_dot_product_attention(queries, *conditions.given)
            x = x + _drop(self.given_output(merge_heads(seen)), dropout)
        hidden = F.gelu(self.expand(normalise(x, affines[1])))
        return x + _drop(self.contract(hidden), dropout)


def split_heads(
    x: Float[Tensor, "B P parts_D"], num_parts: int, heads: int
) -> tuple[Float[Tensor, "B nh P hs"], ...]:
    """Concatenated queries, keys or values, as views."""
    return x.unflatten(-1, (num_parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def merge_heads(x: Float[Tensor, "B nh P hs"]) -> Float[Tensor, "B P D"]:
    return x.transpose(1, 2).flatten(2)


def _drop(x: Tensor, probability: float) -> Tensor:
    return F.dropout(x, probability) if probability else x


def make_norm(width: int, condition_size: int) -> nn.Module:
    """A LayerNorm, conditional if there is a condition."""
    return ConditionalNorm(width, condition_size) if condition_size else nn.LayerNorm(width)


def affine_of(norm: nn.Module, vector: Float[Tensor, "B S"] | None) -> Affine:
    """The gain and the bias of a norm from `make_norm`."""
    if isinstance(norm, ConditionalNorm):
        assert vector is not None
        return norm.affine(vector)
    assert isinstance(norm, nn.LayerNorm)
    return norm.weight, norm.bias


class AxisPositions(nn.Module):
    """A learned vector for each place along each axis of a grid; a position is their sum."""

    def __init__(self, shape: tuple[int, ...], width: int, *, std: float) -> None:
        super().__init__()
        self.axes = nn.ParameterList(torch.empty(size, width) for size in shape)
        for axis in self.axes:
            nn.init.normal_(axis, std=std)

    def forward(self) -> Float[Tensor, "P D"]:
        """The vectors of all positions of the grid, in raster order."""
        total = self.axes[0]
        for axis in list(self.axes)[1:]:
            total = (total[:, None] + axis).flatten(0, 1)
        return total

    @torch.no_grad()
    def start_like(self, axis: int, other: Float[Tensor, "size D"]) -> None:
        """Start with another grid's vectors along an axis, interpolated to this grid's size."""
        size, std = self.axes[axis].shape[0], self.axes[axis].std()
        stretched = F.interpolate(other.T[None], size, mode="linear")[0].T
        self.axes[axis].copy_(stretched * (std / stretched.std()))


class GivenFrames(nn.Module):
    """Given frames as M vectors to attend to: features of a ResNet, projected to the prior's width,
    plus positions.

    There is one projection, not one per block, as the original's parameter counts imply (3.7M
    without the ResNet for moving digits). Positions of rows and columns start as those of the
    clip's tokens: training then learns in half the steps where to look (docs/decisions.md).
    """

    def __init__(
        self, config: GPTConfig, frame_shape: tuple[int, int, int], tokens: AxisPositions
    ) -> None:
        super().__init__()
        height, width, channels = frame_shape
        self.resnet = ResNet(channels, depth=config.resnet_depth, units=config.resnet_units)
        self.output = nn.Linear(config.resnet_units, config.width)
        self.norm = nn.LayerNorm(config.width)
        grid = (config.given_frames, output_size(height), output_size(width))
        self.positions = AxisPositions(grid, config.width, std=GIVEN_POSITION_STD)
        for axis in (1, 2):
            self.positions.start_like(axis, tokens.axes[axis])

    def forward(self, frames: Float[Tensor, "B C n H W"]) -> Float[Tensor, "B M D"]:
        features = self.resnet(frames).flatten(2).transpose(1, 2)
        # The common part would soon dominate: see worldmodel.videogpt.resnet.
        features = features - features.mean(1, keepdim=True)
        return self.norm(self.output(features)) + self.positions()
