"""Actions as the vectors that condition a model. `interface.actions` itself needs no torch."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from worldmodel.interface.actions import ActionSpec


def encode_actions(
    spec: ActionSpec, actions: Shaped[Tensor, "*batch_and_shape"]
) -> Float[Tensor, "*batch_and_A"]:
    """Actions (..., *shape) as vectors (..., A): one-hots side by side, or a box scaled to
    [-1, 1]."""
    if spec.kind == "box":
        low, high = actions.new_tensor(spec.low), actions.new_tensor(spec.high)
        return 2 * (actions - low) / (high - low) - 1
    if spec.kind == "discrete":
        actions = actions.unsqueeze(-1)
    one_hots = [
        torch.nn.functional.one_hot(actions[..., i], size) for i, size in enumerate(spec.sizes)
    ]
    return torch.cat(one_hots, -1).float()


def mean_action(spec: ActionSpec) -> Float[Tensor, " A"]:
    """No action in particular, encoded: the mean of all choices, the middle of a box."""
    if spec.kind == "box":
        return torch.zeros(len(spec.low))
    return torch.cat([torch.full((size,), 1 / size) for size in spec.sizes])
