"""Where training runs: on which devices, in which precision, shared by how many processes."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy

from worldmodel.checkpoint.device import usable_device
from worldmodel.errors import UserError
from worldmodel.training.sharding import shard


def make_fabric(*, device: str, precision: str, strategy: str) -> Fabric:
    """Fabric over the processes that torchrun started, or over this one alone.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".
        strategy: "ddp": every process has all weights; "fsdp": a slice of them; "auto": DDP
            where there are several processes.

    Raises:
        UserError: the device isn't there, or one process alone is to share its work.
    """
    try:
        on_cuda = usable_device(device, or_auto=True) == "cuda"
    except ValueError as error:
        raise UserError(str(error)) from None
    if strategy not in ("auto", "ddp", "fsdp"):
        raise UserError(f"unknown strategy {strategy!r}: auto, ddp or fsdp")
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 and strategy != "auto":
        raise UserError(
            f"--strategy {strategy} shares the work of several processes and there is one: start "
            "them with torchrun --nproc-per-node=N -m worldmodel.train, or leave --strategy out"
        )
    return Fabric(
        accelerator="cuda" if on_cuda else "cpu",
        strategy=_strategy(strategy, processes),
        devices=local_processes,
        num_nodes=processes // local_processes,
        precision="bf16-mixed" if _wants_bf16(precision, on_cuda) else "32-true",
    )


def _strategy(name: str, processes: int) -> str | Strategy:
    if processes == 1:
        return "auto"
    if name == "fsdp":
        return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)
    return "ddp"


def _wants_bf16(precision: str, on_cuda: bool) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if on_cuda:
        return torch.cuda.is_bf16_supported()
    # Without these instructions bf16 is emulated, and five times slower than fp32.
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
