"""LayerNorm, with gradients that hold under bf16 on a CPU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def layer_norm(
    x: Float[Tensor, "*batch D"], gain: Float[Tensor, " D"], bias: Float[Tensor, " D"]
) -> Float[Tensor, "*batch D"]:
    """Zero mean and unit variance along D, then the gain and the bias.

    PyTorch's own backward pass in bf16 adds the gradients of gain and bias up in bf16 on a CPU
    (2.13): over 65,536 positions they are wrong by a fifth. Products and sums of their own are
    added up in fp32.
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
        # Free of copies where x lies in memory with channels last.
        x = x.movedim(1, -1)
        return layer_norm(x, self.norm.weight, self.norm.bias).movedim(-1, 1)
