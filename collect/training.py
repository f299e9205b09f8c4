"""How a policy is trained for a world that is collected from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium

from collect.recorder import Bot


@dataclass(frozen=True)
class Training:
    """PPO on an environment, perhaps on from what a bot does there.

    Attributes:
        looks_at: stacked frames, or the environment's `state()`; pictures are then drawn as
            little as can be.
        num_steps: environment steps of PPO, in all.
        reward: wraps the environment into one with the rewards to learn by; None: its own.
        bot: what the policy is taught to do before PPO goes on; None: PPO begins from nothing.
    """

    looks_at: Literal["frames", "state"]
    num_steps: int
    reward: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]] | None = None
    bot: Bot | None = None
