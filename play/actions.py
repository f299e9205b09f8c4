"""Actions as plain numbers, whatever space an environment takes them from."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from play.checks import legible
from worldmodel.errors import UserError

Number = int | float
# The index of a Discrete space, or a number for each component of another.
Action = int | tuple[Number, ...]


@dataclass(frozen=True)
class Component:
    """One of the numbers that make up an action.

    Attributes:
        name: what it does.
        low, high: the smallest and the largest value.
        dtype: of the space; its values are exact in it.
    """

    name: str
    low: Number
    high: Number
    dtype: np.dtype[Any]

    @property
    def is_integer(self) -> bool:
        return self.dtype.kind in "iu"

    def nearest(self, value: Number) -> Number:
        """The value in range, and exact in the space's type, that is nearest."""
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.is_integer else float(self.dtype.type(inside))

    def contains(self, value: Any) -> bool:
        kinds = (int,) if self.is_integer else (int, float)
        return type(value) in kinds and self.low <= value <= self.high

    def draw(self, random: np.random.Generator) -> Number:
        """A value in range, each as likely."""
        if self.is_integer:
            return int(random.integers(int(self.low), int(self.high), endpoint=True))
        return self.nearest(random.uniform(self.low, self.high))


class Actions:
    """The actions of one environment: a fixed number of numbers, each in its range.

    Attributes:
        components: one for Discrete; else one for each number.
        is_discrete, is_box: the kind of the space; neither: MultiDiscrete.
        meanings: of a Discrete space: the name of each action; otherwise empty.

    Raises:
        UserError: its actions are of another kind.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        space = env.action_space
        names = [legible(str(n)) for n in getattr(env.unwrapped, "action_meanings", ())]
        self.is_discrete = isinstance(space, spaces.Discrete)
        self.is_box = isinstance(space, spaces.Box)
        self._dtype = np.dtype(space.dtype)
        low, high = _bounds(space)
        num_names = int(high[0]) + 1 if self.is_discrete else len(low)
        if len(names) != num_names:
            names = [f"action {number}" for number in range(num_names)]
        self.meanings = tuple(names) if self.is_discrete else ()
        of_components = ["action"] if self.is_discrete else names
        self.components = tuple(
            Component(name, least, most, self._dtype)
            for name, least, most in zip(of_components, low, high, strict=True)
        )

    def contains(self, action: Action) -> bool:
        numbers = (action,) if isinstance(action, int) else action
        return (
            isinstance(action, int) == self.is_discrete
            and len(numbers) == len(self.components)
            and all(c.contains(n) for c, n in zip(self.components, numbers, strict=True))
        )

    def of(self, numbers: tuple[Number, ...]) -> Action:
        """An action of one number for each component."""
        return int(numbers[0]) if self.is_discrete else numbers

    def plain(self, action: Any) -> Action:
        """An action as an environment or a policy has it, as plain numbers."""
        return int(action) if self.is_discrete else tuple(np.asarray(action, self._dtype).tolist())

    def for_env(self, action: Action) -> int | np.ndarray:
        """An action as the environment takes it."""
        return action if isinstance(action, int) else np.asarray(action, self._dtype)

    def draw(self, random: np.random.Generator) -> Action:
        """A random action."""
        return self.of(tuple(component.draw(random) for component in self.components))


def _bounds(space: gymnasium.Space[Any]) -> tuple[list[Number], list[Number]]:
    """The smallest and the largest value of each component."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return [0], [int(space.n) - 1]
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return [0] * len(space.nvec), (space.nvec - 1).tolist()
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return space.low.tolist(), space.high.tolist()
    raise UserError(
        f"keys choose actions of a Discrete space, or of a flat MultiDiscrete, both from 0, or of "
        f"a flat bounded Box; the actions here are {space}"
    )
