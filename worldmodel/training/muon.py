"""The optimiser of matrices between hidden layers."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

MOMENTUM = 0.95
NEWTON_SCHULZ_STEPS = 5
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # Jordan's: singular values end between 0.7 and 1.2
RMS = 0.2  # of an update at a learning rate of 1: about AdamW's


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum whose singular values are made nearly equal, scaled to
    AdamW's updates (Liu et al. 2025), so that both take one learning rate.

    The same as `torch.optim.Muon`, which computes in bf16 only: a CPU without instructions for it
    takes 200 times as long as in float32. Matrices of one shape are computed together.

    Args:
        params: matrices.
        lr: learning rate; an update's root mean square is 0.2 of it.
        weight_decay: fraction of a weight, times the learning rate, that it loses in a step.
        dtype: of the computation; weights and momentum keep theirs.
    """

    def __init__(
        self, params: ParamsT, *, lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "dtype": dtype})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  no closure
        for group in self.param_groups:
            for matrices in of_one_shape(p for p in group["params"] if p.grad is not None):
                updates = newton_schulz(
                    torch.stack([self._momentum(matrix) for matrix in matrices]).to(group["dtype"])
                )
                scale = RMS * max(matrices[0].shape) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update.to(matrix), alpha=-group["lr"] * scale)

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Nesterov's, after the matrix's gradient is added to it."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(buffer, MOMENTUM)


def of_one_shape(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    """The matrices by shape."""
    groups: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        groups[matrix.shape].append(matrix)
    return list(groups.values())


def newton_schulz(matrices: Tensor) -> Tensor:
    """Matrices (B, m, n) with the same singular vectors, and singular values near 1."""
    if matrices.shape[1] > matrices.shape[2]:
        return newton_schulz(matrices.mT).mT
    a, b, c = COEFFICIENTS
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
