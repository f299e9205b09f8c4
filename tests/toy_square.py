"""The world that `conftest.toy_episode` records, as an environment."""

from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium import spaces

ENV_ID = "MovingSquare"


class MovingSquare(gymnasium.Env):
    """Action 1 moves the square to the right, for a point; the far side ends the game."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(2)
    most_steps = 24

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.column, self.steps = int(self.np_random.integers(40)), 0, 0
        return self._frame(), {"column": 0.0}

    def step(self, action):
        self.column = min(self.column + 4 * int(action), 48)
        self.steps += 1
        over = self.column == 48
        cut_off = not over and self.steps == self.most_steps
        return self._frame(), float(action), over, cut_off, {"column": float(self.column)}

    def _frame(self):
        frame = np.full((64, 64, 3), 40, np.uint8)
        frame[self.row : self.row + 16, self.column : self.column + 16] = (250, 200, 90)
        return frame


def square(**_: object) -> MovingSquare:
    return MovingSquare()


@contextmanager
def registered_square() -> Iterator[None]:
    """The id that the toy data were recorded under, registered for a while."""
    gymnasium.register(ENV_ID, f"{__name__}:square")
    try:
        yield
    finally:
        del gymnasium.registry[ENV_ID]
