"""The 3D ResNet over given frames (VideoGPT Sec. 3, Cross Attention).

The paper doesn't say how it is normalised. Here every channel is normalised over the positions of
one clip: like a batch norm, but without other clips. With a LayerNorm over channels, as in the
original, features of all clips and positions become alike within ten steps; with zero padding they
come to encode little but the border (docs/decisions.md).
"""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.videogpt.vqvae import sound_precision

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # in each of four stages (He et al. 2016, Table 1)
FIRST_WIDTHS = (64, 128, 256)  # of the stages but the last


class ResNet(nn.Module):
    """Basic blocks at a quarter of the frames' resolution in space, and full resolution in time.

    The stem halves the resolution twice, the stages keep it. With 240 units in the last stage
    the 34 layers have the 33.9M parameters of the original.

    Args:
        in_channels: C of the frames.
        depth: 18 or 34 layers.
        units: channels of the last stage, and of the output.
    """

    def __init__(self, in_channels: int, *, depth: int, units: int) -> None:
        super().__init__()
        self.stem = Conv(in_channels, FIRST_WIDTHS[0], (3, 7, 7), stride=2)
        self.norm = _norm(FIRST_WIDTHS[0])
        blocks: list[nn.Module] = []
        width_in = FIRST_WIDTHS[0]
        for width, num_blocks in zip((*FIRST_WIDTHS, units), BLOCKS[depth], strict=True):
            for _ in range(num_blocks):
                blocks.append(BasicBlock(width_in, width))
                width_in = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, frames: Float[Tensor, "B C n H W"]) -> Float[Tensor, "B units n h w"]:
        with sound_precision(frames.shape[2]):
            x = self.norm(self.stem(frames.to(self.stem.weight.dtype))).relu()
            x = F.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
            return self.blocks(x)


def output_size(num_pixels: int) -> int:
    """Size of the ResNet's output along a side of `num_pixels`."""
    return math.ceil(math.ceil(num_pixels / 2) / 2)


def _norm(num_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_channels, num_channels)


class BasicBlock(nn.Module):
    """Two convolutions of 3x3x3 beside a shortcut (He et al. 2016, Fig. 5)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1 = Conv(width_in, width_out, (3, 3, 3))
        self.norm1 = _norm(width_out)
        self.conv2 = Conv(width_out, width_out, (3, 3, 3))
        self.norm2 = _norm(width_out)
        self.shortcut: nn.Module = nn.Identity()
        if width_in != width_out:
            self.shortcut = nn.Sequential(Conv(width_in, width_out, (1, 1, 1)), _norm(width_out))

    def forward(self, x: Float[Tensor, "B C n h w"]) -> Float[Tensor, "B D n h w"]:
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


class Conv(nn.Conv3d):
    """A 3D convolution without bias or stride in time, with replicated borders in space and zero
    padding in time.

    For a single frame, which has only zeros before and after it, the middle slice of the kernel
    gives the same result with a third of the arithmetic.
    """

    def __init__(
        self, width_in: int, width_out: int, kernel: tuple[int, int, int], *, stride: int = 1
    ) -> None:
        super().__init__(
            width_in,
            width_out,
            kernel,
            stride=(1, stride, stride),
            padding=(kernel[0] // 2, 0, 0),
            bias=False,
        )
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, input: Float[Tensor, "B C n H W"]) -> Float[Tensor, "B D n h w"]:
        length, height, width = self.kernel_size
        if height > 1 or width > 1:
            border = (width // 2, width // 2, height // 2, height // 2, 0, 0)
            input = F.pad(input, border, mode="replicate")
        if input.shape[2] > 1:
            return super().forward(input)
        middle = self.weight[:, :, length // 2]
        return F.conv2d(input[:, :, 0], middle, stride=self.stride[1:])[:, :, None]  # pyright: ignore[reportArgumentType]
