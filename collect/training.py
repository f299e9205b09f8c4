"""How a policy is trained for a world that is collected from."""

from dataclasses import dataclass
from typing import Literal

from collect.recorder import Bot
from collect.rewards import Rule


@dataclass(frozen=True)
class Training:
    """PPO on an environment, perhaps on from what a bot does there.

    Attributes:
        looks_at: stacked frames, or the environment's `state()`; pictures are then drawn as
            little as can be.
        num_steps: environment steps of PPO, in all.
        steps_a_minute: that one core does, to say beforehand how long it will take.
        reward: to learn by; None: the environment's own.
        bot: what the policy is taught to do before PPO; None: PPO begins from nothing.
    """

    looks_at: Literal["frames", "state"]
    num_steps: int
    steps_a_minute: int
    reward: Rule | None = None
    bot: Bot | None = None
