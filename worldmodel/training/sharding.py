"""FSDP: each process keeps a slice of every weight, of its gradient and of its moments.

Before a block computes, its weights are gathered from all processes; afterwards they are let go.
A module is sliced beside itself: what trains is a copy, and the module that validates, samples
and is saved in the end gets the weights whole whenever they are asked for.
"""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Slice a module's weights over the processes, a group for each repeated block.

    Args:
        mesh: Fabric's, with a dimension "data_parallel".
    """
    mesh = mesh["data_parallel"]
    empty = {p for p in module.parameters() if p.numel() == 0}  # nothing to slice, or to learn
    for parameter in empty:
        parameter.requires_grad_(False)
    for block in repeated_blocks(module):
        fully_shard(block, mesh=mesh, ignored_params=empty)
    fully_shard(module, mesh=mesh, ignored_params=empty)
    return module


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """Members of a ModuleList or Sequential that have parts of their own and siblings of their
    class: the layers of a transformer, the residual blocks of an encoder. Only the outermost."""
    blocks = []
    for child in module.children():
        siblings = [c for c in module.children() if type(c) is type(child)]
        repeated = isinstance(module, nn.ModuleList | nn.Sequential) and len(siblings) > 1
        if repeated and any(child.children()) and any(True for _ in child.parameters()):
            blocks.append(child)
        else:
            blocks += repeated_blocks(child)
    return blocks


class Sliced:
    """A copy of a module, to be sliced and trained while the module itself is put aside.

    The two share their buffers: a codebook moves in both. Weights are in one of them only,
    between `fill` and `empty` in both.

    Attributes:
        module: the copy; Fabric's strategy is to slice it before `empty` is called.
    """

    def __init__(self, whole: nn.Module) -> None:
        shared: dict[int, Tensor] = {id(buffer): buffer for buffer in whole.buffers()}
        for parameter in whole.parameters():  # FSDP slices what lies in the usual memory order
            usual = parameter.is_contiguous()
            shared[id(parameter)] = (
                parameter if usual else nn.Parameter(parameter.detach().contiguous())
            )
        self.whole = whole
        self.module = copy.deepcopy(whole, dict(shared))
        self._sizes = [p.untyped_storage().nbytes() for p in whole.parameters()]

    def empty(self) -> None:
        """Give back the memory of the whole weights."""
        for parameter in self.whole.parameters():
            parameter.untyped_storage().resize_(0)

    @torch.no_grad()
    def fill(self, *, here: bool) -> None:
        """Gather the weights as they are now; all processes have to call it.

        Args:
            here: whether this process wants them. Otherwise its whole module stays empty.
        """
        parts = zip(self.whole.parameters(), self.module.parameters(), self._sizes, strict=True)
        for parameter, part, size in parts:
            gathered = whole_tensor(part)
            if here:
                parameter.untyped_storage().resize_(size)
                parameter.copy_(gathered)
        for buffer, trained in zip(self.whole.buffers(), self.module.buffers(), strict=True):
            buffer.copy_(trained)  # the same tensor, unless training put another in its place


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor that slices make together; all processes have to call it for a sliced one."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor


def sliced_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's slice of a tensor that is whole in every process, sliced as `like` is."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    slices = torch.zeros_like(like, requires_grad=False)
    # Copied, as the slice would keep the whole tensor's memory.
    return slices.copy_(
        distribute_tensor(tensor.to(like), like.device_mesh, like.placements, src_data_rank=None)
    )
