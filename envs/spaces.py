"""Action spaces: Gymnasium's, and worldmodel's own description of them."""

import gymnasium
import numpy as np

from worldmodel.actions import ActionSpec


def space_of(actions: ActionSpec) -> gymnasium.Space:
    """The Gymnasium space that a description stands for."""
    if actions.kind == "discrete":
        return gymnasium.spaces.Discrete(actions.sizes[0])
    if actions.kind == "multi_discrete":
        return gymnasium.spaces.MultiDiscrete(list(actions.sizes))
    return gymnasium.spaces.Box(
        np.asarray(actions.low, np.float32), np.asarray(actions.high, np.float32)
    )
