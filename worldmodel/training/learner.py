"""A stage's module and its optimisers at work, in one process or in several."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from worldmodel import randomness
from worldmodel.configs.recipe import StageRecipe
from worldmodel.vqvae.codebook import Codebook

# Of a module, the generator of a whole batch and the clips of it to work through: named means.
Losses = Callable[[nn.Module, np.random.Generator, slice], dict[str, Tensor]]

LARGEST_NORM = 1.0  # of the gradient; longer ones are cut to it


class Learner:
    """Steps of the optimiser, the same whatever the number of processes and parts.

    Args:
        module: to train, with the weights to begin from.
        shares: the clips of a batch that this process works through, part by part.
        compiled: whether to compile the module.

    Attributes:
        optimizers: of the module's weights.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: StageRecipe,
        fabric: Fabric,
        shares: list[slice],
        *,
        compiled: bool,
    ) -> None:
        self.fabric, self.shares = fabric, shares
        for part in module.modules():
            if isinstance(part, Codebook):
                part.num_parts = len(shares)
        trained = cast(nn.Module, torch.compile(module)) if compiled else module
        self._wrapped = fabric.setup_module(trained)
        self.optimizers = make_optimizers(module, recipe)
        self._wrapped_optimizers = [
            cast(torch.optim.Optimizer, fabric.setup_optimizers(optimizer))
            for optimizer in self.optimizers
        ]

    def gradients(
        self, losses: Losses, batch: tuple[int, str, int]
    ) -> tuple[dict[str, Tensor], float]:
        """Gather the gradient of one batch.

        Args:
            losses: as `Stage.losses`; "loss" is the one to minimise.
            batch: seed, name and number: the stream that it is drawn from.

        Returns:
            The named means over this process's clips, and the norm of the gradient of the
            whole batch, before it is cut to `LARGEST_NORM`.
        """
        self._wrapped.train()
        totals: dict[str, Tensor] = {}
        for share in self.shares:
            waits = share != self.shares[-1]  # processes need the sum once a step
            # The same again in a run that was stopped and resumed.
            randomness.seed_torch(*batch, "dropout", share.start)
            with self.fabric.no_backward_sync(self._wrapped, enabled=waits):
                numbers = losses(self._wrapped, randomness.generator(*batch), share)
                self.fabric.backward(numbers["loss"] / len(self.shares))
            for name, value in numbers.items():
                totals[name] = totals.get(name, 0.0) + value.detach() / len(self.shares)
        # In the optimisers' order, as Fabric does it: the rounding of the norm depends on it.
        moved = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        return totals, float(nn.utils.clip_grad_norm_(moved, LARGEST_NORM))

    def step(self, rate: float) -> None:
        """Move the weights along the gradient.

        Args:
            rate: the learning rate.
        """
        for optimizer, wrapped in zip(self.optimizers, self._wrapped_optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            wrapped.step()
            wrapped.zero_grad()


def make_optimizers(module: nn.Module, recipe: StageRecipe) -> list[torch.optim.Optimizer]:
    """AdamW, and where the recipe says so, Muon beside it for the module's `hidden_matrices`; what
    has two dimensions or more decays, biases don't.

    Muon (Jordan et al. 2024) moves a matrix by its momentum made orthogonal, as far as AdamW would
    (Liu et al. 2025), so both take one learning rate.
    """
    hidden: list[nn.Parameter] = []
    if recipe.optimizer == "muon":
        hidden = module.hidden_matrices()  # pyright: ignore[reportCallIssue]
    chosen = {id(parameter) for parameter in hidden}
    rest = [p for p in module.parameters() if id(p) not in chosen]
    matrices = [p for p in rest if p.ndim >= 2]
    others = [p for p in rest if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(recipe.momentum, 0.99),
    )
    if not hidden:
        return [adamw]
    muon = torch.optim.Muon(
        hidden,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]
