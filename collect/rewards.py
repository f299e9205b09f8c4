"""What a policy learns from: dense rewards, where an environment's own is sparse or delayed.

A rule looks at the game variables before and after a step, so it serves a real game and a dream of
it alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from collect.recorder import Bot

# (info before, info after, the environment's own reward, terminated) -> the reward to learn from
Rule = Callable[[Mapping[str, float], Mapping[str, float], float, bool], float]


def pickup_reward(
    before: Mapping[str, float], after: Mapping[str, float], own: float, terminated: bool
) -> float:
    """Health Gathering Supreme, whose own reward only says alive or dead: +1 per medikit, -0.5 per
    poison vial, -1 on death, and 0.01 per step."""
    gained = after["pickups"] - before["pickups"]
    return 0.01 + (gained if gained > 0 else 0.5 * gained) - float(terminated)


def battle_reward(
    before: Mapping[str, float], after: Mapping[str, float], own: float, terminated: bool
) -> float:
    """Battle2, whose own reward is 1 per kill: -0.003 per point of health lost, +0.005 per point
    gained, -0.5 on death."""
    gained = after["health"] - before["health"]
    return own + (0.005 if gained > 0 else 0.003) * gained - 0.5 * terminated


def dodging_reward(
    before: Mapping[str, float], after: Mapping[str, float], own: float, terminated: bool
) -> float:
    """Take Cover, whose own reward is 1 per tic alive: 0.02 per step, -0.02 per point of health
    lost, and -1 on death."""
    lost = max(0.0, before["health"] - after["health"])
    return 0.02 - 0.02 * lost - float(terminated)


RULES: dict[str, Rule] = {
    "DoomHealthGatheringSupreme-v0": pickup_reward,
    "DoomBattle2-v0": battle_reward,
    "DoomTakeCover-v0": dodging_reward,
}


@dataclass(frozen=True)
class Training:
    """Reinforcement learning in an environment, optionally starting from a clone of a bot.

    Attributes:
        observes: stacked frames, or the environment's `state()`.
        num_steps: environment steps, in total.
        steps_a_minute: on one core, to estimate the time; None: unknown.
        algorithm: stable-baselines3's. SAC needs actions in a box, and learns from states.
        gamma: discount of a reward that is one step later.
        reward: to learn from; None: the environment's own.
        bot: that the policy imitates before PPO; None: PPO starts from scratch.
        cheapest_frames: arguments of the environment where the policy doesn't see them.
        patience: training stops after this share of its steps without a better mean return; None:
            it never stops early.
    """

    observes: Literal["frames", "state"]
    num_steps: int
    steps_a_minute: int | None
    algorithm: Literal["ppo", "sac"] = "ppo"
    gamma: float = 0.99
    reward: Rule | None = None
    bot: Bot | None = None
    cheapest_frames: Mapping[str, Any] = field(default_factory=dict)
    patience: float | None = None
