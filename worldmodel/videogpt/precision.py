"""Where bf16 on a CPU can't be trusted."""

from contextlib import AbstractContextManager, nullcontext

import torch


def sound_precision(num_frames: int) -> AbstractContextManager:
    """For 3D convolutions over so many frames: the caller's precision, but on a CPU fp32 for two.

    There the bf16 gradients of a convolution's weights are never set to zero before they are
    summed up (oneDNN of torch 2.13, AVX512-BF16, a filter of 3 in time, a length of 2): they hold
    whatever was in memory before.
    """
    return torch.autocast("cpu", enabled=False) if num_frames == 2 else nullcontext()
