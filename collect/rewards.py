"""Rewards to learn by: what a scenario's own says late or seldom, said at once."""

from typing import Any

import gymnasium


class PickupReward(gymnasium.Wrapper):
    """For Health Gathering Supreme, whose own says alive or dead: +1 a medikit, -0.5 a poison, -1
    at death, and 0.01 a step."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._pickups = info["pickups"]
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        gained = info["pickups"] - self._pickups
        self._pickups = info["pickups"]
        reward = 0.01 + (gained if gained > 0 else 0.5 * gained) - float(terminated)
        return observation, reward, terminated, truncated, info


class BattleReward(gymnasium.Wrapper):
    """For Battle2, whose own is a point a kill: -0.003 a point of health lost, +0.005 one gained,
    -0.5 at death."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._health = info["health"]
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, kills, terminated, truncated, info = self.env.step(action)
        gained = info["health"] - self._health
        self._health = info["health"]
        reward = float(kills) + (0.005 if gained > 0 else 0.003) * gained - 0.5 * terminated
        return observation, reward, terminated, truncated, info
