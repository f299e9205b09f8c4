"""Dense rewards for learning, where an environment's own reward is sparse or delayed.

A rule looks at the game variables before and after a step, so it serves a real game and a dream of
it alike.
"""

from collections.abc import Callable, Mapping

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
