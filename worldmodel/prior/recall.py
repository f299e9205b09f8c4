"""Recall: the codes of older frames predict those of the next.

Each token of an older frame lies in some direction from the player's next pose. The tokens of the
next frame attend to those whose direction is near their own, and a network decides between copies
of what they find there and what is expected without older frames.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.configs.dream import RECALL_WIDTH, WorldModelConfig
from worldmodel.prior.look_back import HALF_VIEW
from worldmodel.prior.memory import Older
from worldmodel.prior.pose import PoseSpace, in_float32
from worldmodel.vqvae.codebook import Codebooks

HEADS = 4
BEARING_WAVES, ROW_WAVES = (1, 2, 4, 8, 16), (1, 2, 4)  # in 2 pi radians, in four frames' heights
SHARPNESS = 2.0  # at first, of attention to near directions: half a token's standard deviation
NOTHING = -2.0  # at first, the score of attending to nothing; that of a token straight ahead is 0
NEAR = 8.0  # a displacement of the level's size over this is a large one


class Recall(nn.Module):
    """Predicts how the next frame's codes differ from what is expected, from older frames.

    Args:
        space: of the poses, owned by the prior's place; None in worlds without a pose.
    """

    space: PoseSpace | None

    def __init__(self, world: WorldModelConfig, space: PoseSpace | None) -> None:
        super().__init__()
        vars(self)["space"] = space  # not a submodule
        tokenizer, width = world.tokenizer, RECALL_WIDTH
        self.grid, self.num_codes = tokenizer.grid, tokenizer.num_codes
        num_codes, num_tokens = tokenizer.num_codebooks * self.num_codes, math.prod(self.grid)
        size = tokenizer.num_codebooks * tokenizer.code_dim
        num_features = 2 * len(BEARING_WAVES) + 2 * len(ROW_WAVES)
        num_offsets = 0 if space is None else space.num_offsets
        # Of every code, standardised; code k of codebook q is row q K + k.
        self.code: Tensor
        self.scale: Tensor
        self.register_buffer("code", torch.zeros(num_codes, size))
        self.register_buffer("scale", torch.ones(()))
        self.turned = nn.Parameter(torch.full((), -1.0))  # bearing, by a turn to the left
        self.enter = nn.Linear(size + num_features + num_offsets + 2, 2 * width)
        self.embed = nn.Linear(2 * width, width)
        self.older_position = nn.Parameter(torch.empty(num_tokens, 2 * width))
        self.expected = nn.Linear(size, width)
        self.position = nn.Parameter(torch.empty(num_tokens, width))
        self.attention = NearAttention(width)
        self.values = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.copying = NearAttention(width)
        self.norm_copies = nn.LayerNorm(width)
        self.judge = nn.Linear(width + HEADS * (size + 1) + size, 2 * width)
        self.choose = nn.Linear(2 * width, 1 + HEADS)
        self.correct = nn.Linear(2 * width, size)
        # What the backbone sees of the result.
        self.shown = nn.Linear(world.prior.merge**2 * size, world.prior.width, bias=False)
        nn.init.normal_(self.older_position, std=0.1)
        nn.init.normal_(self.position, std=0.1)
        for last in (self.choose, self.correct, self.shown):  # no effect yet on the backbone
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    @property
    def knows_codes(self) -> bool:
        """Whether `take_codes` was called, or weights were loaded."""
        return bool(self.code.any())

    @torch.no_grad()
    def take_codes(self, codebooks: Codebooks) -> None:
        """Take the vectors of a tokenizer's codes."""
        vectors = codebooks.vectors()  # (q, K, E / q)
        self.scale.copy_(vectors.std().clamp(min=1e-6))
        self.code.copy_(torch.block_diag(*vectors) / self.scale)

    def vectors(self, codes: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch E"]:
        """The standardised vectors of codes."""
        offsets = torch.arange(codes.shape[-1], device=codes.device) * self.num_codes
        return F.embedding(codes + offsets, self.code).sum(-2)

    def forward(
        self,
        expected: Float[Tensor, "B T h w E"],
        older: Older,
        next_poses: Float[Tensor, "B T P"],
        next_known: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T h w E"]:
        """What to add to the vectors expected of the next frames' codes; zeros where no older frame
        is present. Vectors are standardised."""
        shape, size = expected.shape, expected.shape[-1]
        expected = expected.flatten(2, 3).flatten(0, 1)  # (B T, n, E), as all from here on
        older = Older(*(part.flatten(0, 1) for part in older))
        vectors = self.vectors(older.codes).flatten(2, 3)  # (B T, M, n, E)
        offsets, turn = self._offsets(older, next_poses.flatten(0, 1), next_known.flatten())
        bearings, rows = self._directions(expected)
        older_bearings = bearings + self.turned * turn[..., None]
        older_rows = rows.expand_as(older_bearings)
        inputs = [vectors, _waves(older_bearings, older_rows)]
        inputs.append(offsets[:, :, None].expand(*older_bearings.shape, -1))
        seen = self.embed(F.silu(self.enter(torch.cat(inputs, -1)) + self.older_position))
        others = Tokens(
            seen.flatten(1, 2),
            self._in_tokens(older_bearings, older_rows).flatten(1, 2),
            older.present.repeat_interleave(len(rows), -1),
        )
        own = self._in_tokens(bearings, rows)
        x = self.expected(expected) + self.position
        values = _by_head(self.values(others.states))
        x = x + self.mix(self.attention(x, own, others, values).transpose(1, 2).flatten(2))
        x = x + self.contract(F.silu(self.expand(self.norm(x))))
        # The last number of a copy tells how much of it was found at all.
        found = F.pad(vectors.flatten(1, 2), (0, 1), value=1.0)[:, None]
        copies = self.copying(x, own, others, found.expand(-1, HEADS, -1, -1))
        all_copies = copies.transpose(1, 2).flatten(2)
        judged = torch.cat([self.norm_copies(x), all_copies, expected], -1)
        judged = F.silu(self.judge(judged))
        shares = self.choose(judged).softmax(-1)[..., 1:].transpose(1, 2)[..., None]
        differences = copies[..., :size] - copies[..., size:] * expected[:, None]
        recalled = (shares * differences).sum(1) + self.correct(judged)
        recalled = torch.where(older.present.any(-1)[:, None, None], recalled, 0.0)
        return recalled.view(shape)

    def _offsets(
        self, older: Older, next_poses: Tensor, next_known: Tensor
    ) -> tuple[Float[Tensor, "N M offsets"], Float[Tensor, "N M"]]:
        """Where and when older frames were seen; and their turns to the left, in radians."""
        since = (1 + older.since.clamp(min=0)).log2()[..., None] / 10
        known = (older.known & next_known[:, None])[..., None]
        told, turn = [since, known.to(since)], torch.zeros_like(since)
        if self.space is not None:
            here, axes = next_poses[:, None].expand_as(older.poses), self.space.num_coordinates
            offsets = self.space.offsets(here, older.poses)
            offsets = torch.cat([NEAR * offsets[..., :axes], offsets[..., axes:]], -1)
            told.append(torch.where(known, offsets, 0.0))
            if self.space.spec.heading is not None:
                turn = self.space.displacement(here, older.poses)[..., -1:]
                turn = torch.where(known, turn, 0.0)
        return torch.cat(told, -1), turn[..., 0]

    def _directions(self, like: Tensor) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Of each token, its bearing to the right in radians, and its row from -1 to 1."""
        height, width = self.grid
        rows = (2 * torch.arange(height, device=like.device) + 1 - height) / height
        columns = (2 * torch.arange(width, device=like.device) + 1 - width) / width
        bearings = (columns * math.tan(HALF_VIEW)).atan()
        return bearings.repeat(height), rows.repeat_interleave(width)

    def _in_tokens(
        self, bearings: Float[Tensor, "*batch n"], rows: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n 2"]:
        """Directions in numbers of tokens."""
        height, width = self.grid
        return torch.stack([bearings * (width / (2 * HALF_VIEW)), rows * (height / 2)], -1)


class Tokens(NamedTuple):
    """The tokens of a prediction's older frames, k of them.

    Attributes:
        directions: see `Recall._in_tokens`.
    """

    states: Float[Tensor, "N k D"]
    directions: Float[Tensor, "N k 2"]
    present: Bool[Tensor, "N k"]


class NearAttention(nn.Module):
    """Attention to tokens whose directions, corrected by what they say, are near."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm_others = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys = nn.Linear(width, width), nn.Linear(width, width)
        self.moved = nn.Linear(width, 2 * HEADS)
        self.log_sharpness = nn.Parameter(torch.full((HEADS, 1, 1), math.log(SHARPNESS)))
        self.nothing = nn.Parameter(torch.full((HEADS, 1, 1), NOTHING))
        nn.init.zeros_(self.moved.weight)
        nn.init.zeros_(self.moved.bias)

    def forward(
        self,
        x: Float[Tensor, "N n D"],
        directions: Float[Tensor, "n 2"],
        others: Tokens,
        values: Float[Tensor, "N heads k V"],
    ) -> Float[Tensor, "N heads n V"]:
        """Means of the values; zeros to the share that nothing is attended to."""
        states = self.norm_others(others.states)
        q = _by_head(self.queries(self.norm(x))) * (x.shape[-1] // HEADS) ** -0.5
        k = _by_head(self.keys(states))
        moved = self.moved(states).unflatten(-1, (HEADS, 2)).transpose(1, 2)
        with in_float32(x):  # squares of distances need precision
            there = others.directions[:, None] + moved.float()
            # -|a - b|^2 as a product of (2 a, 1, -|a|^2) and (b, -|b|^2, 1).
            sharpness, one = self.log_sharpness.exp(), torch.ones_like(directions[:, :1])
            here = torch.cat([2 * directions, one, -_square(directions)], -1) * sharpness
            there = torch.cat([there, -_square(there), torch.ones_like(there[..., :1])], -1)
            q = torch.cat([q.float(), here.expand(len(q), -1, -1, -1)], -1)
            k = torch.cat([k.float(), there], -1)
            k, values = (F.pad(part, (0, 0, 1, 0)) for part in (k, values.float()))
            scores = torch.where(others.present, 0.0, -torch.inf)[:, None, None]
            scores = scores.expand(-1, HEADS, -1, -1)
            scores = torch.cat([self.nothing.expand(len(q), -1, -1, -1), scores], -1)
            return F.scaled_dot_product_attention(q, k, values, attn_mask=scores, scale=1.0)


def _waves(
    bearings: Float[Tensor, "*batch n"], rows: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n waves"]:
    """Sines and cosines of directions."""
    turns = [wave * bearings for wave in BEARING_WAVES]
    turns += [wave * math.pi / 2 * rows for wave in ROW_WAVES]
    angles = torch.stack(turns, -1)
    return torch.cat([angles.sin(), angles.cos()], -1)


def _by_head(x: Float[Tensor, "N k D"]) -> Float[Tensor, "N heads k hs"]:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _square(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 1"]:
    return x.square().sum(-1, keepdim=True)
