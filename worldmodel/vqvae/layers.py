"""Residual blocks of the encoder and decoder (VideoGPT Fig. 4), for one frame at a time."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)

    def forward(self, x: Float[Tensor, "F C h w"]) -> Float[Tensor, "F C h w"]:
        # Free of copies where x lies in memory with channels last.
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AxialAttention(nn.Module):
    """Self-attention along the rows plus self-attention along the columns of a grid."""

    def __init__(self, num_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys_values = nn.ModuleList(
            nn.Linear(num_channels, 3 * num_channels, bias=False) for _ in range(2)
        )
        self.outputs = nn.ModuleList(nn.Linear(num_channels, num_channels) for _ in range(2))

    def forward(self, x: Float[Tensor, "F C h w"]) -> Float[Tensor, "F C h w"]:
        rows = x.permute(0, 2, 3, 1)  # (F, h, w, C): attend along w
        along_rows = self._attend(rows, axis=0)
        along_columns = self._attend(rows.transpose(1, 2), axis=1).transpose(1, 2)
        return (along_rows + along_columns).permute(0, 3, 1, 2)

    def _attend(
        self, x: Float[Tensor, "F lines length C"], axis: int
    ) -> Float[Tensor, "F lines length C"]:
        heads = self.queries_keys_values[axis](x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(3, 0, 1, 4, 2, 5)  # (F, lines, nh, length, hs) each
        y = F.scaled_dot_product_attention(q, k, v)
        return self.outputs[axis](y.transpose(2, 3).flatten(-2))


class ResidualBlock(nn.Module):
    """norm, ReLU, 3x3; norm, ReLU, 1x1; and, with attention, norm, ReLU, axial attention."""

    def __init__(self, num_channels: int, residual_units: int, *, attention_heads: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            ChannelNorm(num_channels),
            nn.ReLU(),
            nn.Conv2d(num_channels, residual_units, 3, padding=1, bias=False),
            ChannelNorm(residual_units),
            nn.ReLU(),
            nn.Conv2d(residual_units, num_channels, 1, bias=False),
        ]
        if attention_heads:
            layers += [
                ChannelNorm(num_channels),
                nn.ReLU(),
                AxialAttention(num_channels, attention_heads),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "F C h w"]) -> Float[Tensor, "F C h w"]:
        return x + self.layers(x)
