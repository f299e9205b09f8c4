"""The only place where pixels change type: uint8 with channels last, float with channels first."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_float(frames: UInt8[Tensor, "*batch H W C"]) -> Float[Tensor, "*batch C H W"]:
    """Scale 0..255 to [-0.5, 0.5] (VideoGPT Sec. 4.1)."""
    return frames.movedim(-1, -3).float() / 255 - 0.5


def to_uint8(frames: Float[Tensor, "*batch C H W"]) -> UInt8[Tensor, "*batch H W C"]:
    """Round [-0.5, 0.5] to 0..255; what lies outside is clipped. Undoes `to_float` exactly."""
    levels = ((frames + 0.5) * 255).round().clamp(0, 255)
    return levels.to(torch.uint8).movedim(-3, -1).contiguous()
