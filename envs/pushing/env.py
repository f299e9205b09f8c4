"""`RobotPushing-v0`. Use `envs.pushing.make`, which chooses the renderer first."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (MuJoCo's bindings have no types.)

from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np

from envs.pushing.camera import open_camera
from envs.pushing.scene import (
    ARM_BASE,
    BIN,
    FINGER_TRAVEL,
    HAND_HIGH,
    HAND_LOW,
    TIMESTEP_S,
    WRIST_HEIGHT,
    elbow,
    random_scene,
)
from envs.renderers import Renderer
from worldmodel.errors import UserError
from worldmodel.interface.pose import PoseSpec

SUBSTEPS = 10
SETTLING_SUBSTEPS = (100, 50)  # before the first frame: objects fall, then the hand comes down
# How far an action of 1 moves the hand's goal, in metres along x, y and z.
STRIDE = np.array([0.05, 0.05, 0.035])
START_HEIGHTS = (0.06, 0.14)
TARGET_STEPS = (10, 16)  # range of steps for which an object stays the target
AT_WALL = (BIN[0] - 0.045, BIN[1] - 0.045)  # beyond, an object can hardly be pushed
# The reward: for being near the target, and above all for moving it.
NEARNESS_SCALE, PUSH_REWARD, LARGEST_PUSH = 8.0, 40.0, 0.04


class PushingEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A hand with two fingers pushes objects around in a bin, seen from BAIR's camera.

    Observations are uint8 RGB, (obs_size, obs_size, 3). An action is four numbers in [-1, 1]: dx
    and dy (times 5 cm), dz (times 3.5 cm), and the fingers, closed above 0. One object at a time is
    the target; after 10 to 15 steps, or when it reaches a wall, another one is. The reward is
    `1 - tanh(8 d) + 40 min(m, 0.04)`, where d is the distance of the hand from the target and m how
    far the target moved in this step, in metres. `info` has the hand's position, how far the
    fingers are closed (0 to 1), and `moved`, how far targets have moved so far in the episode.

    An episode ends only by its `length` (`truncated`). The same seed and actions give the same
    frames, bit for bit, with the same renderer.

    Args:
        renderer: from `choose_renderer`.
        length: steps per episode; BAIR's have 30.
        num_objects: the minimum and the maximum.
        obs_size: height and width of an observation, in pixels.
        render_mode: None or "rgb_array", which is the observation.

    Raises:
        UserError: an argument is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": round(1 / (SUBSTEPS * TIMESTEP_S), 2),
    }
    action_meanings = ("dx", "dy", "dz", "close")
    action_choices = (("left", "right"), ("nearer", "away"), ("down", "up"), ("open", "close"))
    variable_names = ("x", "y", "z", "closed", "moved")
    pose = PoseSpec(position=("x", "y", "z"))  # of the hand, in metres
    state_space = gymnasium.spaces.Box(-np.inf, np.inf, (10,), np.float32)
    # See worldmodel/interface/controls.py. Idle fingers are fully open: they close above 0.
    controls: ClassVar[dict[str, Any]] = {
        "idle": [0, 0, 0, -1],
        "keys": [
            {"keys": [key], "sets": {component: value}, "name": name}
            for name, component, value, keys in (
                ("left", "0", -1, ("left", "a")),
                ("right", "0", 1, ("right", "d")),
                ("away", "1", 1, ("up", "w")),
                ("nearer", "1", -1, ("down", "s")),
                ("up", "2", 1, ("e", "page up")),
                ("down", "2", -1, ("c", "page down")),
                ("close", "3", 1, ("space", "mouse 1")),
            )
            for key in keys
        ],
        # 30 pixels of the window, about the width of the hand, are one full step.
        "mouse": {
            "x": {"component": 0, "per_pixel": 0.03},
            "y": {"component": 1, "per_pixel": -0.03},
        },
    }

    def __init__(
        self,
        *,
        renderer: Renderer,
        length: int = 30,
        num_objects: tuple[int, int] = (4, 7),
        obs_size: int = 64,
        render_mode: str | None = None,
    ) -> None:
        fewest, most = num_objects
        if not 1 <= fewest <= most <= 8:  # more don't fit
            raise UserError(f"num_objects must be two numbers from 1 to 8, not {num_objects}")
        for name, value in (("length", length), ("obs_size", obs_size)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
        self.renderer = renderer
        # Stored with recordings: change it when the same scene gives different frames.
        self.rendering = f"{renderer}, twice the size, shrunk to means of four pixels"
        self.render_mode = render_mode
        self.length, self.num_objects, self.obs_size = length, num_objects, obs_size
        self.most_steps = length  # of an episode
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (obs_size, obs_size, 3), np.uint8)
        self._camera = open_camera(renderer, size=obs_size)
        self._model: mujoco.MjModel | None = None  # None until the first reset
        self._frame: np.ndarray | None = None
        self._steps_done = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        super().reset(seed=seed)
        rng = self.np_random
        self._count = int(rng.integers(self.num_objects[0], self.num_objects[1] + 1))
        scene = random_scene(rng, num_objects=self._count, offscreen_size=2 * self.obs_size)
        self._model = mujoco.MjModel.from_xml_string(scene)
        self._data = mujoco.MjData(self._model)
        self._objects = [self._model.body(f"object{i}").id for i in range(self._count)]
        self._goal = rng.uniform(HAND_LOW, HAND_HIGH)
        self._goal[2] = HAND_HIGH[2]  # out of the way while objects fall
        self._data.qpos[:3] = self._goal
        self._control(closed=False)
        self._advance(SETTLING_SUBSTEPS[0])
        self._goal[2] = rng.uniform(*START_HEIGHTS)
        self._control(closed=False)
        self._advance(SETTLING_SUBSTEPS[1])
        self._steps_done, self._moved = 0, 0.0
        self._target = self._objects[0]
        self._choose_target()
        self._camera.look_at(self._model)
        self._frame = self._picture()
        return self._frame.copy(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        action = np.asarray(action, np.float32)
        if not self.action_space.contains(action):
            raise UserError(f"action {action!r} is outside {self.action_space}")
        if self._model is None or self._steps_done == self.length:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        self._goal = (self._goal + STRIDE * action[:3]).clip(HAND_LOW, HAND_HIGH)
        self._control(closed=bool(action[3] > 0))
        before = self._place(self._target)
        self._advance(SUBSTEPS)
        pushed = float(np.hypot(*(self._place(self._target) - before)[:2]))
        distance = float(np.linalg.norm(self._hand() - self._place(self._target)))
        reward = 1 - np.tanh(NEARNESS_SCALE * distance) + PUSH_REWARD * min(pushed, LARGEST_PUSH)
        self._moved += pushed
        self._steps_done += 1
        self._target_steps -= 1
        if self._target_steps == 0 or self._is_at_wall(self._target):
            self._choose_target()
        self._frame = self._picture()
        truncated = self._steps_done == self.length
        return self._frame.copy(), float(reward), False, truncated, self._info()

    def state(self) -> np.ndarray:
        """The observation of a state policy, float32 (10,): the hand's position, how far the
        fingers are closed, and the target's position relative to the bin and to the hand.
        """
        hand, target = self._hand(), self._place(self._target)
        return np.concatenate([hand, [self._closed()], target, target - hand]).astype(np.float32)

    def render(self) -> np.ndarray | None:
        if self.render_mode is None or self._frame is None:
            return None
        return self._frame.copy()

    def close(self) -> None:
        self._camera.close()

    def _control(self, *, closed: bool) -> None:
        self._data.ctrl[:3] = self._goal
        self._data.ctrl[3:] = FINGER_TRAVEL * closed

    def _advance(self, num_substeps: int) -> None:
        mujoco.mj_step(self._model, self._data, num_substeps)
        # mj_step leaves the positions of bodies as they were before it.
        mujoco.mj_kinematics(self._model, self._data)

    def _choose_target(self) -> None:
        """Choose another object as the target, away from the walls if there is one."""
        others = [body for body in self._objects if body != self._target]
        free = [body for body in others if not self._is_at_wall(body)]
        candidates = free or others or self._objects
        self._target = candidates[int(self.np_random.integers(len(candidates)))]
        self._target_steps = int(self.np_random.integers(*TARGET_STEPS))

    def _is_at_wall(self, body: int) -> bool:
        return bool((np.abs(self._place(body)[:2]) > AT_WALL).any())

    def _place(self, body: int) -> np.ndarray:
        return self._data.xipos[body].copy()

    def _hand(self) -> np.ndarray:
        """The position between the finger tips."""
        return self._data.qpos[:3].copy()

    def _closed(self) -> float:
        return float(self._data.qpos[3:5].mean() / FINGER_TRAVEL)

    def _picture(self) -> np.ndarray:
        wrist = self._hand() + np.array([0, 0, WRIST_HEIGHT])
        bend = elbow(wrist)
        for i, (begin, end) in enumerate(((np.asarray(ARM_BASE), bend), (bend, wrist))):
            self._data.mocap_pos[i] = (begin + end) / 2
            mujoco.mju_quatZ2Vec(self._data.mocap_quat[i], end - begin)
        mujoco.mj_kinematics(self._model, self._data)
        return self._camera.picture(self._data)

    def _info(self) -> dict[str, float]:
        x, y, z = self._hand()
        numbers = (x, y, z, self._closed(), self._moved)
        return dict(zip(self.variable_names, map(float, numbers), strict=True))
