"""Play without a window, as fast as possible."""

import threading
import time
from dataclasses import dataclass

import numpy as np

from play.pilot import Pilot
from worldmodel.interface.actions import Action, ActionSpec
from worldmodel.randomness import generator

MEAN_HOLD_STEPS = 4  # about half a second of Doom


class RandomWalk:
    """Random actions, each held for a while; half of them are "forward" if there is such an action.

    Actions with several components are sampled uniformly.
    """

    def __init__(self, actions: ActionSpec, *, seed: int) -> None:
        self._actions = actions
        self._random = generator(seed, "random walk")
        names = actions.components[0].names
        weights = np.ones(len(names))
        if "forward" in names and len(weights) > 1:
            weights[names.index("forward")] = len(weights) - 1
        self._probabilities = weights / weights.sum()  # of the choices of a discrete action
        self._steps_left = 0

    def next_action(self) -> Action:
        if self._steps_left == 0:
            self._action = self._draw()
            self._steps_left = int(self._random.geometric(1 / MEAN_HOLD_STEPS))
        self._steps_left -= 1
        return self._action

    def _draw(self) -> Action:
        if self._actions.kind == "discrete":
            return int(self._random.choice(len(self._probabilities), p=self._probabilities))
        return self._actions.plain(self._actions.sample(self._random))


@dataclass(frozen=True)
class Summary:
    """The result of a headless run; `total_reward` is summed over its episodes."""

    num_steps: int
    num_episodes: int
    total_reward: float
    steps_per_s: float


def walk(pilot: Pilot, *, num_steps: int, seed: int, stop: threading.Event) -> Summary:
    """Take `num_steps` steps, by the policy if it steers, else a random walk.

    After an episode's end another one starts. `stop` (Ctrl-C) ends the walk early.
    """
    wanderer = RandomWalk(pilot.actions, seed=seed)
    num_taken, num_episodes, total_reward, stepping_s = 0, 1, 0.0, 0.0
    while num_taken < num_steps and not stop.is_set():
        if pilot.is_over:
            pilot.another_start()
            num_episodes += 1
        started_s = time.perf_counter()
        total_reward += pilot.step(wanderer.next_action()).reward
        stepping_s += time.perf_counter() - started_s
        num_taken += 1
    rate = num_taken / stepping_s if stepping_s else 0.0
    return Summary(num_taken, num_episodes, total_reward, rate)


def replay(pilot: Pilot, *, stop: threading.Event) -> None:
    """Replay to the end, or until `stop`."""
    while not pilot.is_over and not stop.is_set():
        pilot.step(pilot.controls.idle)
