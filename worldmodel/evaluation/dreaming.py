"""Dreams that continue clips."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from worldmodel.data import Clips
from worldmodel.dream import WorldModel, dream_along
from worldmodel.interface.sampling import Sampling


@dataclass(frozen=True)
class Dreamed:
    """B dreams of T steps.

    Attributes:
        frames: uint8 (B, T, H, W, C).
        reward: float32 (B, T), expected.
        end_probability: float32 (B, T).
        variables: float32 (B, T, V), drawn.
        pose: float32 (B, T, P), predicted; NaN where it is not known.
        codes: int64 (B, T, h, w, q), of the frames.
        nats: float32 (B, T), the model's own surprise at each frame, a token.
    """

    frames: np.ndarray
    reward: np.ndarray
    end_probability: np.ndarray
    variables: np.ndarray
    pose: np.ndarray
    codes: np.ndarray
    nats: np.ndarray


def dream_on(
    model: WorldModel,
    clips: Clips,
    num_given: int,
    actions: np.ndarray,
    *,
    rng: np.random.Generator,
    sampling: Sampling,
    poses: np.ndarray | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Dreamed:
    """Continue the first `num_given` frames of B clips under `actions` (B, T, *shape).

    Args:
        poses: (B, T, P), to be used in place of predicted ones.
        advance: called after each step.
    """
    device = next(model.parameters()).device

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    dream = model.start(
        tensor(clips.frames[:, :num_given]),
        tensor(clips.action[:, : num_given - 1]),
        tensor(clips.variables[:, :num_given]),
        tensor(clips.pose[:, :num_given]),
    )
    steps = []
    given = None if poses is None else tensor(poses)
    for step in dream_along(model, dream, tensor(actions), rng=rng, sampling=sampling, poses=given):
        steps.append(step)
        advance()

    def gathered(name: str) -> np.ndarray:
        return torch.stack([getattr(step, name).cpu() for step in steps], 1).numpy()

    return Dreamed(**{field.name: gathered(field.name) for field in fields(Dreamed)})
