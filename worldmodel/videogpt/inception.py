"""Inception score of videos (Salimans et al. 2016; VideoGPT Table 2), and C3D, its classifier.

C3D (Tran et al. 2015) is trained on UCF-101 and run as in pfnet-research/tgan2, the code that
VideoGPT's scores were computed with (Sec. 4.5).
"""

import hashlib
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.errors import UserError
from worldmodel.evaluation.fvd import features_of, source_line, source_of
from worldmodel.evaluation.tables import Blocks, Table, number
from worldmodel.metrics.features import FeatureNetwork, Protocol, describe, read_weights, to_signed

READING = "Whether samples look like distinct classes; samples hardly ever score above real clips."
NUM_FRAMES = 16
SIZE = 112
MEAN_SHAPE = (3, NUM_FRAMES, 128, 171)  # of the clips that it was trained on, blue first
CORNER = 8  # of the square of the mean that is subtracted
URL = "https://github.com/rezoo/tgan2/releases/tag/v1.0"
MEAN = "mean2.npz"  # beside the weights
GET = (
    f"get conv3d_deepnetA_ucf.npz and {MEAN} from {URL} into one folder (their sha256 "
    "is not checked) and give the first as --c3d-weights"
)
TGANV2 = Protocol("TGANv2", 20480, 16)  # 10 times 2048 samples
# name: (channels in, channels out)
CONVOLUTIONS = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
POOLED = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")  # a pooling follows these


def inception_score(probabilities: np.ndarray, *, num_splits: int = 10) -> tuple[float, float]:
    """exp E KL(p(class | clip) || p(class)): mean and standard deviation over splits.

    Each split has its own p(class), so the score grows with the clips of a split, up to the number
    of classes (Salimans et al. 2016).

    Args:
        probabilities: (n, K), rows sum to 1; they are split in their order.

    Raises:
        ValueError: there are fewer rows than splits.
    """
    if len(probabilities) < num_splits:
        raise ValueError(f"{len(probabilities)} clips can't be cut into {num_splits} splits")
    scores = []
    for part in np.array_split(probabilities.astype(np.float64), num_splits):
        marginal = np.broadcast_to(part.mean(0), part.shape)
        seen = part > 0  # 0 log 0 = 0
        divergence = (part[seen] * np.log(part[seen] / marginal[seen])).sum() / len(part)
        scores.append(np.exp(divergence))
    return float(np.mean(scores)), float(np.std(scores))


def measure_inception_score(
    sampled: np.ndarray, real: np.ndarray, network: FeatureNetwork, *, num_splits: int = 10
) -> dict[str, Any]:
    """Inception score of samples, and of real clips for comparison (Table 2).

    Args:
        sampled, real: uint8 (n, T, H, W, C) and (m, T, H, W, C), in random order.
        network: has logits of classes as features.

    Raises:
        UserError: there are fewer clips than splits, or the network refuses them.
    """
    numbers = {**source_of(network, sampled.shape[1]), "num_splits": num_splits}
    for kind, clips in (("sampled", sampled), ("real", real)):
        if len(clips) < num_splits:
            raise UserError(
                f"the inception score needs at least {num_splits} clips, not {len(clips)}"
            )
        logits = features_of(clips, network, f"classes of {kind} clips")
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        mean, deviation = inception_score(chances, num_splits=num_splits)
        numbers[kind] = {"mean": mean, "standard_deviation": deviation, "num_clips": len(clips)}
    return numbers


def inception_score_blocks(n: dict[str, Any]) -> Blocks:
    """The table of `measure_inception_score`."""
    rows = [
        [
            name,
            str(n[kind]["num_clips"]),
            f"{number(n[kind]['mean'])} ± {number(n[kind]['standard_deviation'])}",
        ]
        for name, kind in (("samples", "sampled"), ("real clips", "real"))
    ]
    return [
        Table(["", "clips", n["metric"]], rows),
        f"{source_line(n)} Mean and standard deviation over {n['num_splits']} splits; a score "
        "grows with the clips of a split.",
    ]


class C3D(nn.Module):
    """Logits of the 101 classes of UCF-101.

    Args:
        mean: of the training clips, of MEAN_SHAPE, blue first.
    """

    mean: Tensor

    def __init__(self, mean: np.ndarray) -> None:
        super().__init__()
        square = mean[:, :, CORNER : CORNER + SIZE, CORNER : CORNER + SIZE]
        self.register_buffer("mean", torch.from_numpy(square.astype(np.float32)), persistent=False)
        for name, (inputs, outputs) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(inputs, outputs, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 101)

    def forward(self, clips: Float[Tensor, "B 3 16 112 112"]) -> Float[Tensor, "B 101"]:
        """Logits of clips in 0..256, red first."""
        x = clips.flip(1) - self.mean
        for name in CONVOLUTIONS:
            x = self.get_submodule(name)(x).relu()
            if name in POOLED:
                kernel = (1, 2, 2) if name == "conv1a" else (2, 2, 2)
                # Chainer, where the weights come from, also pools incomplete windows at the edge.
                x = F.max_pool3d(x, kernel, ceil_mode=True)
        return self.fc8(self.fc7(self.fc6(x.flatten(1)).relu()).relu())


def load_c3d(path: Path | None, *, device: str | torch.device = "cpu") -> FeatureNetwork:
    """The C3D of the inception score: logits of the 101 classes of UCF-101.

    Frames are resized to 112x112 as TGANv2's code does, whatever their size.

    Args:
        path: TGANv2's conv3d_deepnetA_ucf.npz, with mean2.npz in the same folder.

    Raises:
        UserError: a file is missing, or not what it should be.
    """
    if path is None:
        raise UserError(f"the inception score needs the weights of C3D: {GET}")
    digest = hashlib.sha256(read_weights(path, GET)).hexdigest()
    read_weights(path.with_name(MEAN), GET)
    mean = _read_arrays(path.with_name(MEAN), {"mean": MEAN_SHAPE})["mean"]
    network = C3D(mean).eval().requires_grad_(False)
    names = {_chainer_name(name): tuple(t.shape) for name, t in network.state_dict().items()}
    arrays = _read_arrays(path, names)
    network.load_state_dict(
        {name: torch.from_numpy(arrays[_chainer_name(name)]) for name in network.state_dict()}
    )
    network.to(device)

    def logits(clips: Tensor) -> Tensor:
        # 128 twice, not 127.5: as TGANv2's code scales them back.
        return network(to_signed(clips, SIZE, align_corners=True) * 128 + 128)

    def features(clips: np.ndarray) -> np.ndarray:
        if clips.shape[1] != NUM_FRAMES:
            raise UserError(f"C3D needs clips of {NUM_FRAMES} frames, not {clips.shape[1]}")
        return describe(logits, clips, device)

    return FeatureNetwork("C3D, logits of UCF-101", "Inception score", TGANV2, digest, features)


def _chainer_name(name: str) -> str:
    layer, _, kind = name.partition(".")
    return f"{layer}/{'W' if kind == 'weight' else 'b'}"


def _read_arrays(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays of an .npz as float32, with the sizes in `shapes`."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, shape in shapes.items():
                arrays[name] = _read_array(archive, name, shape)
    except (
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        ValueError,
        EOFError,
        OSError,
        NotImplementedError,  # an unknown compression
        RuntimeError,  # an encrypted archive
    ) as error:
        raise UserError(f"{path} is damaged or another file: {error}; {GET}") from None
    return arrays


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One .npy; its header must describe the expected array."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} has the version {version} of the format")
        stored, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape)
        if dtype.kind != "f" or by_column or math.prod(stored) != size:
            raise ValueError(f"{name} should be floats of shape {shape}, not {dtype} of {stored}")
        data = file.read(size * dtype.itemsize)
    if len(data) != size * dtype.itemsize:
        raise ValueError(f"{name} is cut off")
    array = np.frombuffer(data, dtype).reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return array
