"""A player for Atari's Freeway: it crosses the road, mostly.

To record it: python -m collect.gym --env-id ale_py:ALE/Freeway-v5 --policy
examples.freeway_player:Crosses ...
"""

import numpy as np

from worldmodel import randomness

STAY, UP, DOWN = 0, 1, 2


class Crosses:
    """Goes up in four of five steps; in a third of the games it is slower."""

    def reset(self, seed: int) -> None:
        """Start a game."""
        self.rng = randomness.generator(seed, "crossing a road")
        self.up = self.rng.choice([0.8, 0.8, 0.5])

    def __call__(self, frame: np.ndarray) -> int:
        """The action for an observation."""
        chances = [(1 - self.up) / 2, self.up, (1 - self.up) / 2]
        return int(self.rng.choice([STAY, UP, DOWN], p=chances))
