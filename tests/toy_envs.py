"""Foreign environments whose every number is known; ids are "toy_envs:NAME"."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Count(gymnasium.Env):
    """Counts up by what its odd actions say. The picture, 40x60 and grey, shows the count; the
    reward is the count before; `info` tells the count, from the first step on."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (40, 60), np.uint8)
    action_space = spaces.Discrete(3, start=1)

    def __init__(self, render_mode: str | None = None, *, is_random: bool = False) -> None:
        self.render_mode, self.is_random = render_mode, is_random

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(50))
        return self._picture(), {"name": "count"}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = self.count
        self.count += int(action)
        if self.is_random:
            self.count += int(np.random.default_rng().integers(3))
        return self._picture(), reward, self.count >= 200, False, {"count": self.count}

    def render(self):
        return np.full((40, 60, 3), self.count, np.uint8)

    def _picture(self):
        return np.full((40, 60), self.count, np.uint8)


class Steered(Count):
    """The same, and it names its actions and the keys for them."""

    def get_action_meanings(self):
        return ["one", "two", "three"]

    def get_keys_to_action(self):
        return {(): 1, "d": 2, (ord("d"), 275): 3, 2**30: 3}


class Buttons(Count):
    """Actions are four buttons in two rows; the picture shows which were down."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.MultiBinary((2, 2))

    def _picture(self):
        return np.zeros(3, np.float32)

    def step(self, action):
        assert self.action_space.contains(action)
        self.count = int(action.reshape(-1) @ [1, 2, 4, 8])
        return self._picture(), 0.0, False, False, {}


class FlatButtons(Buttons):
    """The same in a row, as policies want them."""

    action_space = spaces.MultiBinary(4)


class Unbounded(Count):
    """A real number without bounds."""

    action_space = spaces.Box(-np.inf, np.inf, (1,))


class Blind(Count):
    """Nothing to see."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012
    observation_space = spaces.Dict(a=spaces.Discrete(2))


gymnasium.register("Count-v0", f"{__name__}:Count")
gymnasium.register("Steered-v0", f"{__name__}:Steered")
gymnasium.register("Short-v0", f"{__name__}:Count", max_episode_steps=9)
gymnasium.register("Random-v0", f"{__name__}:Count", kwargs={"is_random": True})
gymnasium.register("Buttons-v0", f"{__name__}:Buttons")
gymnasium.register("Flat-buttons-v0", f"{__name__}:FlatButtons")
gymnasium.register("Unbounded-v0", f"{__name__}:Unbounded")
gymnasium.register("Blind-v0", f"{__name__}:Blind")
