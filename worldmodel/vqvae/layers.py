"""Layers of encoder and decoder (VideoGPT Fig. 4), over frames or clips."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def layer_norm(
    x: Float[Tensor, "*batch D"], gain: Float[Tensor, " D"], bias: Float[Tensor, " D"]
) -> Float[Tensor, "*batch D"]:
    """Zero mean and unit variance along D, then the gain and the bias.

    On a CPU in bf16, PyTorch's backward pass (2.13) accumulates the gradients of gain and bias in
    bf16: over 65,536 positions they are wrong by a fifth. Separate products and sums accumulate in
    fp32.
    """
    if x.dtype == torch.float32 or x.device.type != "cpu":
        return F.layer_norm(x, gain.shape, gain, bias)
    return torch.addcmul(bias.to(x.dtype), F.layer_norm(x, gain.shape), gain.to(x.dtype))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position of a grid."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)

    def forward(self, x: Float[Tensor, "B C *grid"]) -> Float[Tensor, "B C *grid"]:
        # Makes no copies where x has channels last in memory.
        x = x.movedim(1, -1)
        return layer_norm(x, self.norm.weight, self.norm.bias).movedim(-1, 1)


class AxialAttention(nn.Module):
    """Self-attention along each axis of a grid by itself, summed over the axes.

    Args:
        num_axes: 2: rows and columns; 3: time too.
    """

    def __init__(self, num_channels: int, num_heads: int, *, num_axes: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys_values = nn.ModuleList(
            nn.Linear(num_channels, 3 * num_channels, bias=False) for _ in range(num_axes)
        )
        self.outputs = nn.ModuleList(nn.Linear(num_channels, num_channels) for _ in range(num_axes))

    def forward(
        self, x: Float[Tensor, "B C *grid"], positions: Float[Tensor, "*grid C"] | None = None
    ) -> Float[Tensor, "B C *grid"]:
        """Attend; without `positions`, which are added to x, attention knows no order."""
        x = x.movedim(1, -1)
        if positions is not None:
            x = x + positions
        y = self._attend(x, axis=0)
        for axis in range(1, len(self.outputs)):
            y = y + self._attend(x, axis)
        return y.movedim(-1, 1)

    def _attend(self, x: Tensor, axis: int) -> Tensor:
        """Along the last axis of the grid (0), the one before it (1) or the first of three (2)."""
        heads = self.queries_keys_values[axis](x).unflatten(-1, (3, self.num_heads, -1))
        lines = heads.movedim(-3, 0).transpose(-3 - axis, -3)  # (3, B, ..., length, nh, hs)
        q, k, v = lines.transpose(-2, -3)
        # Not PyTorch's fused attention: on such short axes it is slower on a CPU (in bf16 the layer
        # takes half as long again), and the weights are smaller than q, k and v.
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        y = (weights @ v).transpose(-2, -3).transpose(-3 - axis, -3)
        return self.outputs[axis](y.flatten(-2))


class ResidualBlock(nn.Module):
    """norm, ReLU, conv 3; norm, ReLU, conv 1; and, with attention, norm, ReLU, axial attention.

    Args:
        num_axes: of the grid: 2 for frames, 3 for clips.
    """

    def __init__(
        self,
        num_channels: int,
        residual_units: int,
        *,
        attention_heads: int,
        num_axes: Literal[2, 3],
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[num_axes]
        layers: list[nn.Module] = [
            ChannelNorm(num_channels),
            nn.ReLU(),
            convolution(num_channels, residual_units, 3, padding=1, bias=False),
            ChannelNorm(residual_units),
            nn.ReLU(),
            convolution(residual_units, num_channels, 1, bias=False),
        ]
        if attention_heads:
            layers += [
                ChannelNorm(num_channels),
                nn.ReLU(),
                AxialAttention(num_channels, attention_heads, num_axes=num_axes),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, x: Float[Tensor, "B C *grid"], positions: Float[Tensor, "*grid C"] | None = None
    ) -> Float[Tensor, "B C *grid"]:
        y = x
        for layer in self.layers:
            y = layer(y, positions) if isinstance(layer, AxialAttention) else layer(y)
        return x + y
