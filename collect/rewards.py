"""Rewards to learn by: what a scenario's own says late or seldom, said at once.

A rule looks at the game variables before and after a step, so it serves a real game and a dream
of it alike.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

# (info before, info after, the environment's own reward, terminated) -> the reward to learn by
Rule = Callable[[Mapping[str, float], Mapping[str, float], float, bool], float]


def pickup_reward(
    before: Mapping[str, float], after: Mapping[str, float], own: float, terminated: bool
) -> float:
    """For Health Gathering Supreme, whose own says alive or dead: +1 a medikit, -0.5 a poison, -1
    at death, and 0.01 a step."""
    gained = after["pickups"] - before["pickups"]
    return 0.01 + (gained if gained > 0 else 0.5 * gained) - float(terminated)


def battle_reward(
    before: Mapping[str, float], after: Mapping[str, float], own: float, terminated: bool
) -> float:
    """For Battle2, whose own is a point a kill: -0.003 a point of health lost, +0.005 one gained,
    -0.5 at death."""
    gained = after["health"] - before["health"]
    return own + (0.005 if gained > 0 else 0.003) * gained - 0.5 * terminated


def dodging_reward(
    before: Mapping[str, float], after: Mapping[str, float], own: float, terminated: bool
) -> float:
    """For Take Cover, whose own is a point a tic alive: 0.02 a step, -0.02 a point of health lost,
    and -1 at death."""
    lost = max(0.0, before["health"] - after["health"])
    return 0.02 - 0.02 * lost - float(terminated)


class LearningReward(gymnasium.Wrapper):
    """An environment with the rewards of a rule."""

    def __init__(self, env: gymnasium.Env[Any, Any], rule: Rule) -> None:
        super().__init__(env)
        self._rule = rule

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, self._before = self.env.reset(**kwargs)
        return observation, self._before

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, own, terminated, truncated, info = self.env.step(action)
        reward = self._rule(self._before, info, float(own), terminated)
        self._before = info
        return observation, reward, terminated, truncated, info
