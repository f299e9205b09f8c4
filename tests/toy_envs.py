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


class Blowing(Count):
    """A simulation whose reward is no number in some episodes, and too large for a float in
    others; its info holds ragged lists."""

    def reset(self, *, seed=None, options=None):
        frame, info = super().reset(seed=seed, options=options)
        self.bad = {0: float("nan"), 1: 1e300}.get(int(self.np_random.integers(4)), 1.0)
        return frame, {**info, "contacts": [[1, 2], [3]]}

    def step(self, action):
        frame, _, terminated, truncated, info = super().step(action)
        return frame, self.bad, terminated, truncated, {**info, "contacts": [[1, 2], [3]]}


class Walking(Count):
    """Its `info` tells where it is; not from step `lost` on. In step `grown` its picture grows, and
    in step `falls` it raises."""

    def __init__(self, render_mode=None, *, lost=99, grown=99, falls=99):
        super().__init__(render_mode)
        self.lost, self.grown, self.falls = lost, grown, falls

    def reset(self, *, seed=None, options=None):
        self.time = 0
        frame, _ = super().reset(seed=seed, options=options)
        return frame, {"x": 0.0, "y": 0.0}

    def step(self, action):
        frame, reward, terminated, truncated, _ = super().step(action)
        self.time += 1
        if self.time == self.falls:
            raise ArithmeticError("no ground")
        if self.time == self.grown:
            frame = np.zeros((41, 60), np.uint8)
        info = {"x": float(self.time), "y": 0.0}
        if self.time >= self.lost:
            del info["x"]
        return frame, reward, terminated, truncated, info


class Instructed(Count):
    """It observes a picture and an instruction in words, which no policy here reads."""

    observation_space = spaces.Dict(
        {"picture": spaces.Box(0, 255, (40, 60), np.uint8), "words": spaces.Text(9)}
    )

    def _picture(self):
        return {"picture": np.full((40, 60), self.count, np.uint8), "words": "go"}


class Broken(Count):
    """It fails at its third step."""

    def step(self, action):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            raise RuntimeError("the counter is broken")
        return super().step(action)


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


class Scaling(Count):
    """Writes over the action that it is given, and adds up what it was given; and over the one
    array that all its pictures are."""

    action_space = spaces.Box(-1, 1, (2,))
    shown = np.zeros((40, 60), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.moved = 0.0
        return super().reset(seed=seed)

    def step(self, action):
        self.moved += float(action[0])
        action *= 0.5
        self.count += 1
        return self._picture(), 0.0, False, False, {"moved": self.moved}

    def _picture(self):
        self.shown[:] = self.count
        return self.shown


class PictureAndPlace(gymnasium.Env):
    """A robot's kind of observation: a picture and numbers."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (40, 40, 3), np.uint8), place=spaces.Box(-1, 1, (2,))
    )
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        return self._seen(), float(action), self.t >= 8, False, {}

    def render(self):
        return self._seen()["image"]

    def _seen(self):
        image = np.full((40, 40, 3), 20 * self.t, np.uint8)
        return {"image": image, "place": np.full(2, self.t / 10, np.float32)}


class Blind(Count):
    """Nothing to see."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012
    observation_space = spaces.Dict(a=spaces.Discrete(2))


gymnasium.register("Count-v0", f"{__name__}:Count")
gymnasium.register("Steered-v0", f"{__name__}:Steered")
gymnasium.register("Short-v0", f"{__name__}:Count", max_episode_steps=9)
gymnasium.register("Random-v0", f"{__name__}:Count", kwargs={"is_random": True})
gymnasium.register("Blowing-v0", f"{__name__}:Blowing")
gymnasium.register("Walking-v0", f"{__name__}:Walking")
gymnasium.register("Instructed-v0", f"{__name__}:Instructed")
gymnasium.register("Broken-v0", f"{__name__}:Broken")
gymnasium.register("Buttons-v0", f"{__name__}:Buttons")
gymnasium.register("Flat-buttons-v0", f"{__name__}:FlatButtons")
gymnasium.register("Unbounded-v0", f"{__name__}:Unbounded")
gymnasium.register("Scaling-v0", f"{__name__}:Scaling")
gymnasium.register("PictureAndPlace-v0", f"{__name__}:PictureAndPlace")
gymnasium.register("Blind-v0", f"{__name__}:Blind")


class Alternating:
    """A policy of `Count`, for --policy toy_envs:Alternating: 2 and 3 in turn, from one that its
    seed chooses."""

    def reset(self, seed: int) -> None:
        self.count = seed

    def __call__(self, observation: np.ndarray) -> int:
        self.count += 1
        return 2 + self.count % 2


def confused(observation: np.ndarray) -> str:
    """Not a policy of anything."""
    return "left"
