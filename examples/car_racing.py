"""CarRacing-v3 whose info tells where the car is, so that a dream of it has a pose.

To record it: python -m collect.gym --env-id examples.car_racing:CarRacingPose-v3 ...
Any environment of yours can do the same: an attribute `pose` names entries of `info`.
"""

import math
from typing import Any, ClassVar

import gymnasium
from gymnasium.envs.box2d.car_racing import CarRacing


class CarRacingPose(CarRacing):
    """`info` has x, y and angle: the direction that the car drives in, in radians."""

    pose: ClassVar = {
        "position": ("x", "y"),
        "heading": "angle",
        "full_turn": 2 * math.pi,
        "new_levels": True,  # every episode is on another road
    }

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        frame, info = super().reset(**kwargs)
        return frame, info | self._where()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        frame, reward, terminated, truncated, info = super().step(action)
        return frame, reward, terminated, truncated, info | self._where()

    def _where(self) -> dict[str, float]:
        assert self.car is not None
        hull = self.car.hull
        # The hull's angle is 0 when the car drives along y.
        return {"x": hull.position[0], "y": hull.position[1], "angle": hull.angle + math.pi / 2}


gymnasium.register("CarRacingPose-v3", f"{__name__}:CarRacingPose", max_episode_steps=1000)
