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


def clips_to_float(clips: UInt8[Tensor, "B T H W C"]) -> Float[Tensor, "B C T H W"]:
    """`to_float` for models of whole clips."""
    return to_float(clips).transpose(1, 2)


def clips_to_uint8(clips: Float[Tensor, "B C T H W"]) -> UInt8[Tensor, "B T H W C"]:
    """`to_uint8` for models of whole clips."""
    return to_uint8(clips.transpose(1, 2))
