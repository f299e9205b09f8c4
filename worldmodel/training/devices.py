"""Where training runs: on which device, in which precision, in how many processes."""

import os

import torch
from lightning_fabric import Fabric

from worldmodel.checkpoint.device import usable_device


def make_fabric(*, device: str, precision: str) -> Fabric:
    """Fabric over the processes that torchrun started (DDP), or over this one alone.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".

    Raises:
        UserError: the device isn't available.
    """
    on_cuda = usable_device(device, or_auto=True) == "cuda"
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return Fabric(
        accelerator="cuda" if on_cuda else "cpu",
        strategy="auto" if processes == 1 else "ddp",
        devices=local_processes,
        num_nodes=processes // local_processes,
        precision="bf16-mixed" if _wants_bf16(precision, on_cuda) else "32-true",
    )


def _wants_bf16(precision: str, on_cuda: bool) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if on_cuda:
        return torch.cuda.is_bf16_supported()
    # Without these instructions bf16 is emulated, and five times slower than fp32.
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
