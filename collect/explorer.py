"""A player that explores a Doom level, and returns to places that it has seen.

It goes where it has been least in this game, and in between looks around, looks away and back,
walks out and back, and walks in a square. Policies rarely revisit places, so their episodes alone
don't teach a world model to remember.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel import randomness
from worldmodel.interface.pose import PoseSpec

CELL = 64.0  # units of the level; a step forward is about 30
RAY_CELLS = 5  # how far ahead it counts visits
NUM_HEADINGS = 16  # to choose from
BLOCKED = 0.6  # of the longest step in this game; sliding along a wall is slower
BLOCKED_COUNTS = 6  # visits that a wall adds
CLOSE_ENOUGH = math.radians(12)  # to a heading
# The probabilities of what it does next.
MANOEUVRES = {
    "go": 0.45,
    "look around": 0.12,
    "look away and back": 0.18,
    "out and back": 0.13,
    "around": 0.07,
    "stand": 0.05,
}


class Steering:
    """An environment's actions by meaning: Health Gathering's four, or Battle2's five numbers."""

    def __init__(self, space: gymnasium.Space[Any], meanings: tuple[str, ...]) -> None:
        self._is_one = isinstance(space, spaces.Discrete)
        self._meanings = meanings

    def stand(self) -> Any:
        return self._action("noop")

    def forward(self, turn: float = 0.0) -> Any:
        """Forward; Battle2 can turn at the same time, in radians to the left."""
        return self._action("forward", turn)

    def turn(self, radians: float) -> Any:
        """Turn to the left by at most so many radians; Health Gathering has one turning speed."""
        return self._action("left" if radians > 0 else "right", radians)

    def _action(self, name: str, turn: float = 0.0) -> Any:
        if self._is_one:
            return np.int64(self._meanings.index(name))
        # [walk, strafe, attack, sprint, turn]; a unit of turn is 2 degrees per tic to the right.
        choices = int(np.clip(round(math.degrees(-turn) / 8), -5, 5))
        return np.asarray([int(name == "forward"), 0, 0, 0, 5 + choices], np.int64)


class Explorer:
    """Explores by the environment's pose; ignores the frames.

    Args:
        env: provides the pose through `variables()`.
        seed: of its choices.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, seed: int = 0) -> None:
        self._env: Any = env.unwrapped
        self._pose: PoseSpec = self._env.pose
        self._steering = Steering(env.action_space, self._env.action_meanings)
        self.reset(seed=seed)

    def reset(self, *, seed: int | None = None) -> None:
        """Start a game. A seed of None continues with the same generator."""
        if seed is not None:
            self._rng = randomness.generator(seed, "explorer")
        self._visits: Counter[tuple[int, int]] = Counter()
        self._longest_step = 0.0
        self._plan: Iterator[Any] = iter(())

    def act(self, frame: np.ndarray) -> Any:
        """The next action."""
        x, y, _ = self._place()
        self._visits[_cell(x, y)] += 1
        while True:
            for action in self._plan:
                return action
            self._plan = self._manoeuvre()

    def _place(self) -> tuple[float, float, float]:
        """The player's position, and its heading in radians."""
        values = self._env.variables()
        pose = np.asarray([values[name] for name in self._pose.names])
        return float(pose[0]), float(pose[1]), float(self._pose.radians(pose))

    def _manoeuvre(self) -> Iterator[Any]:
        name = self._rng.choice(list(MANOEUVRES), p=list(MANOEUVRES.values()))
        match name:
            case "go":
                yield from self._turn_to(self._least_seen())
                yield from self._walk(int(self._rng.integers(6, 26)))
            case "look around":
                yield from self._turn(int(self._rng.integers(8, 24)), self._side())
            case "look away and back":
                num_steps, side = int(self._rng.integers(2, 20)), self._side()
                yield from self._turn(num_steps, side)
                yield from self._stand(int(self._rng.integers(0, 5)))
                yield from self._turn(num_steps, -side)
            case "out and back":
                num_steps = int(self._rng.integers(4, 20))
                for _ in range(2):
                    heading = self._place()[2]
                    yield from self._walk(num_steps)
                    yield from self._turn_to(heading + math.pi)
            case "around":
                num_steps, side = int(self._rng.integers(3, 10)), self._side()
                for _ in range(4):
                    heading = self._place()[2]
                    yield from self._walk(num_steps)
                    yield from self._turn_to(heading + side * math.pi / 2)
            case "stand":
                yield from self._stand(int(self._rng.integers(1, 8)))

    def _side(self) -> int:
        return 1 if self._rng.random() < 0.5 else -1

    def _stand(self, num_steps: int) -> Iterator[Any]:
        for _ in range(num_steps):
            yield self._steering.stand()

    def _turn(self, num_steps: int, side: int) -> Iterator[Any]:
        """Turn to one side for so many steps, at a random speed."""
        speed = side * math.radians(float(self._rng.choice([8, 16, 24, 40])))
        for _ in range(num_steps):
            yield self._steering.turn(speed)

    def _turn_to(self, heading: float) -> Iterator[Any]:
        for _ in range(40):  # a half turn takes at most 20
            off = _angle(heading - self._place()[2])
            if abs(off) < CLOSE_ENOUGH:
                return
            yield self._steering.turn(off)

    def _walk(self, num_steps: int) -> Iterator[Any]:
        """Walk forward, until a wall blocks."""
        for step in range(num_steps):
            x, y, heading = self._place()
            yield self._steering.forward()
            now_x, now_y, _ = self._place()
            length = math.hypot(now_x - x, now_y - y)
            self._longest_step = max(self._longest_step, length)
            if step > 1 and length < BLOCKED * self._longest_step:
                ahead = _cell(x + CELL * math.cos(heading), y + CELL * math.sin(heading))
                self._visits[ahead] += BLOCKED_COUNTS
                return

    def _least_seen(self) -> float:
        """The heading with the fewest visits ahead, plus some noise."""
        x, y, _ = self._place()
        headings = self._rng.random() * 2 * math.pi + np.arange(NUM_HEADINGS) * (
            2 * math.pi / NUM_HEADINGS
        )
        visits = [
            sum(
                self._visits[_cell(x + d * CELL * math.cos(h), y + d * CELL * math.sin(h))] / d
                for d in range(1, RAY_CELLS + 1)
            )
            for h in headings
        ]
        return float(headings[np.argmin(np.asarray(visits) + 2 * self._rng.random(NUM_HEADINGS))])


def _cell(x: float, y: float) -> tuple[int, int]:
    return int(x // CELL), int(y // CELL)


def _angle(radians: float) -> float:
    """The same angle between -pi and pi."""
    return (radians + math.pi) % (2 * math.pi) - math.pi
