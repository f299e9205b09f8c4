"""A bot for Battle2 that reads object positions from the engine; the policy imitates it.

PPO on pixels doesn't learn to fight within an hour; this bot makes 12 kills per game, and a network
can imitate it from frames.
"""

import math
from typing import Any

import gymnasium
import numpy as np

from envs.doom.env import SCREEN_SIZE, Seen, Senses
from worldmodel import randomness

# Actions are [walk, strafe, attack, sprint, turn], see `envs.doom.scenarios`.
STAY, FORWARD = 0, 1
RIGHT, LEFT = 1, 2
STRAIGHT = 5  # the middle one of 11 turns
DEGREES_A_TURN = 8.0  # on the screen: 2 degrees a tic for four tics

HALF_WIDTH = SCREEN_SIZE[1] / 2  # the field of view is 90 degrees
AIMED = 4.0  # degrees; the bot shoots at least within this angle
CLOSE_ENOUGH = 350.0  # to an imp
IN_REACH = 600.0  # distance of medikits and ammunition
HURT, SHORT_OF_AMMO = 80, 60
LOOKING_BACK = 6  # steps of turning after an attack from out of view
EYE_LEVEL = slice(56, 66)  # rows of the screen
WALL_AHEAD, FREE_AHEAD = 7, 10  # of depth
STUCK_STEPS, STUCK_DISTANCE = 12, 40.0


class Battle2Bot:
    """Shoots imps, fetches medikits and ammunition, and walks to where it sees farthest.

    Args:
        env: Battle2; provides `senses()`.
        seed: of how it turns when it is stuck.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, seed: int = 0) -> None:
        self._env: Any = env.unwrapped
        self.reset(seed=seed)

    def reset(self, *, seed: int | None = None) -> None:
        """Start a game. A seed of None continues with the same generator."""
        if seed is not None:
            self._rng = randomness.generator(seed, "bot")
        self._health = 100.0
        self._looking_back = 0
        self._turning = 0  # away from a wall: 1 to the right, -1 to the left
        self._places: list[tuple[float, float]] = []
        self._escape_left, self._escape_side = 0, 1

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The next action; the frame is ignored."""
        senses: Senses | None = self._env.senses()
        if senses is None:
            return _action()
        game = self._env.variables()
        was_hit = 0 < game["health"] < self._health - 1
        self._health = game["health"]
        imp = _nearest(senses, "DoomImp")
        if imp is not None and game["ammo"] > 0:
            self._looking_back = 0
            return _fight(imp, senses)
        if was_hit and imp is None:
            self._looking_back = LOOKING_BACK
        if self._looking_back:
            self._looking_back -= 1
            return _action(turn=4)
        if self._is_stuck(senses):
            self._escape_left = int(self._rng.integers(3, 9))
            self._escape_side = int(self._rng.choice([-1, 1]))
            self._places.clear()
        if self._escape_left:
            self._escape_left -= 1
            walk = STAY if self._escape_left > 1 else FORWARD
            return _action(walk=walk, turn=4 * self._escape_side)
        wanted = ["CustomMedikit"] * (game["health"] < HURT)
        wanted += ["Clip"] * (game["ammo"] < SHORT_OF_AMMO)
        thing = _nearest(senses, *wanted)
        if thing is not None and thing.distance < IN_REACH:
            self._turning = 0
            return _action(walk=FORWARD, sprint=thing.distance > 150, turn=_turn_to(_middle(thing)))
        return self._explore(senses)

    def _is_stuck(self, senses: Senses) -> bool:
        self._places = [*self._places[1 - STUCK_STEPS :], senses.place]
        moved = math.dist(self._places[0], self._places[-1])
        return not self._escape_left and len(self._places) == STUCK_STEPS and moved < STUCK_DISTANCE

    def _explore(self, senses: Senses) -> np.ndarray:
        depth = senses.depth[EYE_LEVEL].astype(float).mean(0)
        if not self._turning and depth[56:104].min() < WALL_AHEAD:
            self._turning = -1 if depth[:60].max() > depth[100:].max() else 1
        if self._turning:
            if depth[60:100].min() <= FREE_AHEAD:
                return _action(turn=3 * self._turning)
            self._turning = 0
        smooth = np.convolve(depth, np.ones(25) / 25, "valid")
        farthest = float(smooth.argmax()) + 12.5
        return _action(walk=FORWARD, sprint=True, turn=int(np.clip(_turn_to(farthest), -2, 2)))


def _fight(imp: Seen, senses: Senses) -> np.ndarray:
    """Turn to the imp, shoot when it is ahead, sidestep its fireballs."""
    off = _degrees(_middle(imp))
    half_width = math.degrees(math.atan(imp.width / 2 / HALF_WIDTH))
    ball = _nearest(senses, "DoomImpBall")
    strafe = STAY
    if ball is not None:
        strafe = RIGHT if _degrees(_middle(ball)) <= 0 else LEFT
    elif half_width < abs(off) < AIMED:  # too small an angle for a turn
        strafe = RIGHT if off > 0 else LEFT
    return _action(
        walk=FORWARD if imp.distance > CLOSE_ENOUGH else STAY,
        strafe=strafe,
        attack=abs(off) < max(half_width, AIMED),
        turn=_turn_to(_middle(imp)),
    )


def _nearest(senses: Senses, *names: str) -> Seen | None:
    found = [thing for thing in senses.things if thing.name in names]
    return min(found, key=lambda thing: thing.distance, default=None)


def _middle(thing: Seen) -> float:
    """The column of its centre."""
    return thing.left + thing.width / 2


def _degrees(column: float) -> float:
    """The angle of a screen column to the right of straight ahead."""
    return math.degrees(math.atan((column - HALF_WIDTH) / HALF_WIDTH))


def _turn_to(column: float) -> int:
    """Units of turn towards a screen column; positive is to the right."""
    return int(np.clip(round(_degrees(column) / DEGREES_A_TURN), -STRAIGHT, STRAIGHT))


def _action(
    *,
    walk: int = STAY,
    strafe: int = STAY,
    attack: bool = False,
    sprint: bool = False,
    turn: int = 0,
) -> np.ndarray:
    return np.array([walk, strafe, attack, sprint, STRAIGHT + turn])
