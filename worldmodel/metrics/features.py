"""The network that describes clips for FVD. Its weights are the user's.

    python -m worldmodel.evaluate CHECKPOINT --data DIR --i3d-weights i3d_torchscript.pt

The I3D is StyleGAN-V's TorchScript archive, or a state dict as safetensors. A pickled state dict
(VideoGPT's i3d_pretrained_400.pt, piergiaj's rgb_imagenet.pt) is never opened here; turn it into
safetensors yourself, where you trust it:

    python -c "import torch, safetensors.torch as s; s.save_file(torch.load('IN.pt',
    weights_only=True), 'OUT.safetensors', metadata={'batch_norm_eps': '1e-5'})"

with 1e-5 for VideoGPT's file and 1e-3 for piergiaj's, as their own code has it. The two hold
different weights; published FVDs are of TensorFlow Hub's, which VideoGPT and StyleGAN-V carry.
piergiaj's file has the sha256 2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538;
that of VideoGPT's is not known here.
"""

import hashlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.errors import UserError
from worldmodel.media.frames import to_float
from worldmodel.metrics import i3d

I3D_SIZE = 224
MAX_BYTES = 2**29  # of any file of weights: C3D's have 300 MiB
TORCHSCRIPT_URL = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt"
# 51,235,320 bytes. Not seen here: as LatentSync, flateon/FVD-I3D-torchscript and others record it.
TORCHSCRIPT_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
DEFAULT_EPS = 1e-5  # of VideoGPT's I3D

GET_I3D = (
    f"get StyleGAN-V's i3d_torchscript.pt from {TORCHSCRIPT_URL} (sha256 {TORCHSCRIPT_SHA256}), "
    "or an I3D of Kinetics-400 as safetensors, and give it as --i3d-weights"
)


@dataclass(frozen=True)
class Protocol:
    """How published numbers were measured.

    Attributes:
        num_clips: on either side.
        num_frames: of a clip.
    """

    name: str
    num_clips: int
    num_frames: int


VIDEOGPT = Protocol("VideoGPT", 256, 16)  # FVD, Sec. 4.3; one sample a clip
STYLEGAN_V = Protocol("StyleGAN-V", 2048, 16)  # FVD
FVD_PROTOCOLS = {"videogpt": VIDEOGPT, "stylegan-v": STYLEGAN_V}


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that turns clips into vectors.

    Attributes:
        name: of the network and its output.
        metric: what distances or scores of its features are called; only trained networks that
            were loaded from a file bear a name of the literature.
        protocol: whose preprocessing `features` applies.
        sha256: of the file of weights.
        features: uint8 clips (B, T, H, W, C) of 1 or 3 colours to float64 (B, d).
    """

    name: str
    metric: str
    protocol: Protocol
    sha256: str
    features: Callable[[np.ndarray], np.ndarray]


def load_i3d(
    path: Path | None,
    protocol: Protocol,
    *,
    device: str | torch.device = "cpu",
    trust_weights: bool = False,
) -> FeatureNetwork:
    """The I3D of FVD, logits of Kinetics-400.

    Under VideoGPT's protocol frames are resized to 224x224 here, bilinearly, and scaled to
    [-1, 1]; under StyleGAN-V's the archive does both.

    Args:
        path: StyleGAN-V's i3d_torchscript.pt, or a state dict as *.safetensors.
        trust_weights: run a TorchScript archive whatever its digest: it is code.

    Raises:
        UserError: there is no file, it is not what it should be, or the protocol needs the
            other kind.
    """
    if path is None:
        raise UserError(f"FVD needs the weights of an I3D: {GET_I3D}")
    data = read_weights(path, GET_I3D)
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix == ".safetensors":
        if protocol is STYLEGAN_V:
            raise UserError(
                f"StyleGAN-V's protocol needs its own archive, {path} is another: {GET_I3D}"
            )
        network = _read_i3d(path).to(device)

        def logits(clips: Tensor) -> Tensor:
            return network(to_signed(clips, I3D_SIZE, align_corners=False))
    else:
        archive = _run_archive(path, data, digest, trust_weights, device)
        own = protocol is STYLEGAN_V  # the archive's own resizing and scaling

        def logits(clips: Tensor) -> Tensor:
            x = clips.movedim(-1, 1).float()
            x = x if own else to_signed(clips, I3D_SIZE, align_corners=False)
            return archive(x, rescale=own, resize=own, return_features=True)

    def features(clips: np.ndarray) -> np.ndarray:
        if clips.shape[1] < i3d.LEAST_FRAMES:
            raise UserError(
                f"I3D needs clips of {i3d.LEAST_FRAMES} frames at least, not {clips.shape[1]}"
            )
        return describe(logits, clips, device)

    return FeatureNetwork("I3D, logits of Kinetics-400", "FVD", protocol, digest, features)


def describe(
    logits: Callable[[Tensor], Tensor], clips: np.ndarray, device: str | torch.device
) -> np.ndarray:
    coloured = np.broadcast_to(clips, (*clips.shape[:-1], 3))  # grey becomes three equal colours
    with torch.no_grad():
        found = logits(torch.tensor(coloured, device=device))
    return found.double().cpu().numpy()


def to_signed(clips: Tensor, size: int, *, align_corners: bool) -> Float[Tensor, "B C T S S"]:
    """uint8 (B, T, H, W, C) to [-1, 1], resized bilinearly."""
    frames = 2 * to_float(clips)
    resized = F.interpolate(
        frames.flatten(0, 1), (size, size), mode="bilinear", align_corners=align_corners
    )
    return resized.unflatten(0, clips.shape[:2]).transpose(1, 2)


def read_weights(path: Path, how_to_get: str) -> bytes:
    if not path.is_file():
        raise UserError(f"there is no file {path}: {how_to_get}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES} bytes: {how_to_get}")
    return path.read_bytes()


def _run_archive(
    path: Path, data: bytes, digest: str, trust_weights: bool, device: str | torch.device
) -> torch.jit.ScriptModule:
    """A TorchScript archive. It unpickles no Python, but what it holds is run."""
    if digest != TORCHSCRIPT_SHA256 and not trust_weights:
        raise UserError(
            f"{path} is not StyleGAN-V's i3d_torchscript.pt: its sha256 is {digest}, not "
            f"{TORCHSCRIPT_SHA256}; a TorchScript archive is code: give --trust-weights if you "
            "trust it; a pickled state dict must become safetensors first (see the docstring of "
            "worldmodel.metrics.features)"
        )
    try:
        with warnings.catch_warnings():
            # The archive exists in this format only; torch can read it for now.
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            archive = torch.jit.load(io.BytesIO(data), map_location=device).eval()
            arguments = {argument.name for argument in archive.forward.schema.arguments}
    except RuntimeError:
        raise UserError(f"{path} is no TorchScript archive: {GET_I3D}") from None
    if not arguments >= {"rescale", "resize", "return_features"}:
        raise UserError(f"{path} is not called as StyleGAN-V's I3D is: {GET_I3D}")
    return archive


def _read_i3d(path: Path) -> nn.Module:
    with torch.device("meta"):
        expected = i3d.I3D(DEFAULT_EPS).state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    weights = {}
    try:
        with safe_open(path, "pt") as file:
            eps = float((file.metadata() or {}).get("batch_norm_eps", DEFAULT_EPS))
            missing = set(expected) - counters - set(file.keys())
            if missing:
                raise UserError(f"{path} is no I3D of Kinetics-400: it lacks {min(missing)}")
            for name in set(expected) - counters:
                shape, wanted = file.get_slice(name).get_shape(), list(expected[name].shape)
                if shape != wanted:
                    raise UserError(f"{path}: {name} has shape {shape}, not {wanted}")
                weights[name] = file.get_tensor(name).float()
                if not weights[name].isfinite().all():
                    raise UserError(f"{path}: {name} holds numbers that are not finite")
    except UserError:
        raise
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}; {GET_I3D}") from None
    if not (0 < eps < 1 and math.isfinite(eps)):
        raise UserError(f"{path}: batch_norm_eps must be between 0 and 1, not {eps}")
    network = i3d.I3D(eps)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
