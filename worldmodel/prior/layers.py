"""Encoded actions, and transformer layers conditioned on them (VideoGPT Sec. 3)."""

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.interface.actions import ActionSpec
from worldmodel.vqvae.layers import layer_norm

FEW_POSITIONS = 256  # of 16 frames of 16; 768 take twice as long product by product
# (queries, keys, values), (..., heads, positions, head size) each -> the same shape as queries
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# The gain and the bias of a norm: (D,) each of a plain one, (*batch, 1, D) of a conditional one.
Affine = tuple[Tensor, Tensor]


class ConditionalNorm(nn.Module):
    """LayerNorm with a gain and a bias that are affine in a condition.

    Starts as a plain LayerNorm whatever the condition: a condition of many ones would
    otherwise inflate the gain.
    """

    def __init__(self, width: int, condition_size: int) -> None:
        super().__init__()
        self.width = width
        self.gain_and_bias = nn.Linear(condition_size, 2 * width)
        nn.init.zeros_(self.gain_and_bias.weight)
        nn.init.ones_(self.gain_and_bias.bias[:width])
        nn.init.zeros_(self.gain_and_bias.bias[width:])

    def forward(
        self, x: Float[Tensor, "*batch P D"], condition: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch P D"]:
        return normalise(x, self.affine(condition))

    def affine(self, condition: Float[Tensor, "*batch A"]) -> Affine:
        """The gain and the bias, (*batch, 1, D) each; they can be reused while the condition is
        the same."""
        gain, bias = self.gain_and_bias(condition).unsqueeze(-2).chunk(2, -1)
        return gain, bias


def normalise(x: Float[Tensor, "*batch P D"], affine: Affine) -> Float[Tensor, "*batch P D"]:
    """Zero mean and unit variance along D, then the gain and the bias."""
    gain, bias = affine
    if gain.ndim == 1:
        return layer_norm(x, gain, bias)
    return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), gain)


class Block(nn.Module):
    """A pre-norm transformer block; the caller provides the attention."""

    def __init__(self, width: int, heads: int, condition_size: int, *, num_layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = ConditionalNorm(width, condition_size)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.norm2 = ConditionalNorm(width, condition_size)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        init_linear(self.queries_keys_values, self.attention_output, self.expand, self.contract)
        with torch.no_grad():  # a sum of 2 x num_layers branches starts with unit variance
            self.attention_output.weight /= math.sqrt(2 * num_layers)
            self.contract.weight /= math.sqrt(2 * num_layers)

    def forward(
        self,
        x: Float[Tensor, "*batch P D"],
        condition: Float[Tensor, "*batch A"],
        attend: Attend,
    ) -> Float[Tensor, "*batch P D"]:
        return self.run(x, self.affines(condition), attend)

    def affines(self, condition: Float[Tensor, "*batch A"]) -> tuple[Affine, Affine]:
        """The gains and biases of the two norms; they can be reused while the condition is the
        same."""
        return self.norm1.affine(condition), self.norm2.affine(condition)

    def run(
        self,
        x: Float[Tensor, "*batch P D"],
        affines: tuple[Affine, Affine],
        attend: Attend,
    ) -> Float[Tensor, "*batch P D"]:
        """`forward`, given the condition's `affines`."""
        qkv = self.queries_keys_values(normalise(x, affines[0]))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        y = attend(q, k, v).transpose(-2, -3).flatten(-2)
        x = x + self.attention_output(y)
        hidden = self.expand(normalise(x, affines[1])).relu().square()
        return x + self.contract(hidden)


def init_linear(*layers: nn.Linear) -> None:
    """Initialise layers for outputs of the inputs' variance, without biases."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)


def linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """A linear layer; `num_inputs` may be 0, as in a world without game variables."""
    with warnings.catch_warnings():
        # torch warns that there is nothing to initialise.
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.Linear(num_inputs, num_outputs)


class Rotary:
    """Rotary positions over (time, row, column): attention depends only on their differences.

    Half of a head's channels rotate with time, a quarter each with the row and the column.
    """

    TIME_BASE = 1000.0
    SPACE_BASE = 100.0

    def __init__(self, head_size: int, rows: int, columns: int) -> None:
        quarter = head_size // 4
        if quarter % 2 or head_size % 4:
            raise ValueError(f"rotary positions need a head size divisible by 8, not {head_size}")
        # On the meta device, where checkpoints are checked, arange would import the compiler: a
        # second.
        with torch.device("cpu"):
            self.time_speeds = _speeds(2 * quarter, self.TIME_BASE)
            space = _speeds(quarter, self.SPACE_BASE)
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            self.space_angles = torch.cat(  # (P, head_size / 4)
                [row.flatten()[:, None] * space, column.flatten()[:, None] * space], 1
            )

    def turns(self, time: Int[Tensor, "*batch"]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (*batch, P, head_size / 2) of the frames at these times.

        Angles are computed in float64: a dream may last for millions of frames.
        """
        time_angles = time[..., None, None].double() * self.time_speeds.to(time.device)
        space_angles = self.space_angles.to(time.device)
        shape = (*time.shape, len(space_angles))
        angles = torch.cat([a.expand(*shape, -1) for a in (time_angles, space_angles)], -1)
        return angles.cos().float(), angles.sin().float()


def _speeds(num_channels: int, base: float) -> Tensor:
    return base ** -(torch.arange(0, num_channels, 2, dtype=torch.float64) / num_channels)


def turn(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + hs/2) of x (..., hs) by angles (..., hs/2)."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], -1)


def frames_visible(num_frames: int, window: int) -> Bool[Tensor, "T T"]:
    """[t, s]: whether frame t sees frame s; it sees itself and the window - 1 frames before it."""
    age = torch.arange(num_frames)[:, None] - torch.arange(num_frames)
    return (age >= 0) & (age < window)


def attend_where(
    visible: Bool[Tensor, "*masks Q_or_1 K"],
    q: Float[Tensor, "*batch Q hs"],
    k: Float[Tensor, "*batch K hs"],
    v: Float[Tensor, "*batch K hs"],
) -> Float[Tensor, "*batch Q hs"]:
    """Softmax attention of each query to the keys that it sees.

    Training in bf16 on a CPU uses plain matrix products for few positions: the backward pass of
    torch's fused kernel is slower there (torch 2.13, with AMX). Not when compiled: gradients
    of products of 256 positions in bf16 came out as NaN.
    """
    in_bf16_on_cpu = q.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    by_products = in_bf16_on_cpu and not torch.compiler.is_compiling()
    if by_products and q.requires_grad and q.shape[-2] <= FEW_POSITIONS:
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        return scores.masked_fill(~visible, -torch.inf).softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)


def encode_actions(
    spec: ActionSpec, actions: Shaped[Tensor, "*batch_and_shape"]
) -> Float[Tensor, "*batch_and_A"]:
    """Encode actions (..., *shape) as vectors (..., A): concatenated one-hots, or a box scaled to
    [-1, 1]."""
    if spec.kind == "box":
        low, high = actions.new_tensor(spec.low), actions.new_tensor(spec.high)
        return 2 * (actions - low) / (high - low) - 1
    if spec.kind == "discrete":
        actions = actions.unsqueeze(-1)
    one_hots = [F.one_hot(actions[..., i], size) for i, size in enumerate(spec.sizes)]
    return torch.cat(one_hots, -1).float()


def mean_action(spec: ActionSpec) -> Float[Tensor, " A"]:
    """The mean of all encoded actions: of all choices, or the middle of a box."""
    if spec.kind == "box":
        return torch.zeros(len(spec.low))
    return torch.tensor([1 / size for size in spec.sizes for _ in range(size)])
