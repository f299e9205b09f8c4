"""Any Gymnasium environment as small square frames.

import gymnasium, videogpt_dream
env = gymnasium.make("Pixels-v0", env_id="CarRacing-v3", frame_skip=2)
"""

import contextlib
import copy
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import window
from envs.interface import actions_of, controls_of, fps_of, pose_of, space_of
from envs.making import family_of, made
from envs.renderers import INSTALL_OPENGL, OPENGL, choose_opengl
from worldmodel.errors import UserError, one_line
from worldmodel.interface.pose import PoseSpec
from worldmodel.media.resize import area_resized

LARGEST_SIZE = 1024
MOST_FRAME_SKIP = 1000
SMALLEST_IMAGE = 32  # pixels; smaller uint8 arrays are probably boards


class PixelsEnv(gymnasium.Env[np.ndarray, Any]):
    """A wrapped environment that observes frames, uint8 RGB, (size, size, 3).

    Frames are the wrapped environment's observations if these are images, else its `render()`; grey
    ones become RGB. They are stretched to a square, and each pixel is the mean of its exact area.
    Actions are the wrapped environment's as flat numbers from 0 (`envs.interface.FlatActions`).
    `info` has only `variables` and the pose; a variable that a step's info lacks keeps its last
    value, initially 0.

    A policy that was trained on the wrapped environment can act here, through `state()` (its last
    observation) and `own_actions`.

    Args:
        env_id: of the wrapped environment; "module:Name-v0" imports the module first.
        env_kwargs: its arguments.
        size: height and width of an observation, in pixels.
        source: "observation", "render", or "auto".
        frame_skip: steps for which each action is repeated; rewards are summed.
        variables: names of numbers in the wrapped environment's `info`.
        pose: names of those that are the player's position, as in `PoseSpec`; default: the wrapped
            environment's own `pose`.
        heading: the name of the one that is the player's heading.
        full_turn: change of the heading in a full turn.
        new_levels: whether every episode has a level of its own.
        action_limit: for boxes without bounds, see `flat_actions`.
        is_blank: whether frames stay black, for players that only look at `state()`: drawing may
            take most of the time.
        render_mode: None or "rgb_array", the image in its original size.

    Raises:
        UserError: the wrapped environment can't be made or isn't suitable; or another argument is
            out of range. In `reset` and `step`: an info lacks a part of the pose, or a frame has
            another shape than the episode's first.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30.0}  # noqa: RUF012

    def __init__(
        self,
        env_id: str,
        *,
        env_kwargs: dict[str, Any] | None = None,
        size: int = 64,
        source: Literal["auto", "observation", "render"] = "auto",
        frame_skip: int = 1,
        variables: Sequence[str] = (),
        pose: Sequence[str] = (),
        heading: str | None = None,
        full_turn: float = 360.0,
        new_levels: bool = False,
        action_limit: float | None = None,
        is_blank: bool = False,
        render_mode: str | None = None,
    ) -> None:
        _check_arguments(size, source, frame_skip, action_limit, render_mode)
        self._wrapped, is_rendered = _open(env_id, dict(env_kwargs or {}), source)
        try:
            self.own_actions = actions_of(self._wrapped, limit=action_limit)
            controls = controls_of(self._wrapped, self.own_actions)
            self.pose = (
                PoseSpec(tuple(pose), heading, full_turn, new_levels)
                if pose
                else pose_of(self._wrapped)
            )
        except UserError as error:
            self.close()
            raise UserError(f"{env_id}: {error}") from None
        if controls is not None:
            self.controls = controls.to_json()
        self._is_rendered, self._is_blank = is_rendered, is_blank
        self.size, self.frame_skip, self.render_mode = size, frame_skip, render_mode
        self.metadata = {**PixelsEnv.metadata, "render_fps": fps_of(self._wrapped) / frame_skip}
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = space_of(self.own_actions.spec)
        self.state_space = self._wrapped.observation_space
        self.action_meanings = self.own_actions.spec.meanings
        self.action_choices = self.own_actions.spec.choices
        self.variable_names = tuple(variables)
        # Stored with recordings: change it when the same game gives different frames.
        drawn_by = "render()" if is_rendered else "observations"
        self.rendering = f"{drawn_by}, stretched to the mean of the exact area"
        self._image: np.ndarray | None = None  # None until the first reset
        self._is_over = True

    @property
    def draws_observations(self) -> bool:
        """Whether frames are the wrapped environment's observations."""
        return not self._is_rendered

    @property
    def most_steps(self) -> int | None:
        """The wrapped environment's limit on steps per episode; None: unknown."""
        spec = self._wrapped.spec
        if spec is None or spec.max_episode_steps is None:
            return None
        return -(-spec.max_episode_steps // self.frame_skip)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        super().reset(seed=seed)
        self._state, self.wrapped_info = self._wrapped.reset(seed=seed, options=options)
        self._is_over, self._image = False, None
        self._image = self._read_image()
        self._variables = dict.fromkeys((*self.variable_names, *self.pose.names), 0.0)
        self._note_variables()
        return self._observation(), dict(self._variables)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        action = self.own_actions.spec.checked(action)
        if self._is_over:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        total = 0.0
        terminated = truncated = False
        for _ in range(self.frame_skip):
            own = self.own_actions.to_own(
                action
            )  # a new array each time: some environments modify it
            self._state, reward, terminated, truncated, info = self._wrapped.step(own)
            self.wrapped_info = info
            self._note_variables()
            total += float(reward)
            if terminated or truncated:
                break
        self._is_over = bool(terminated or truncated)
        self._image = self._read_image()
        return self._observation(), total, bool(terminated), bool(truncated), dict(self._variables)

    def state(self) -> Any:
        """A copy of the wrapped environment's last observation, in `state_space`."""
        return copy.deepcopy(self._state)

    def render(self) -> np.ndarray | None:
        if self.render_mode is None or self._image is None:
            return None
        return self._image.copy()

    def close(self) -> None:
        _close(self._wrapped)

    def _read_image(self) -> np.ndarray:
        """The current image as uint8 (H, W, 3)."""
        if self._is_blank:
            return np.zeros((self.size, self.size, 3), np.uint8)
        seen = self._wrapped.render() if self._is_rendered else self._state
        image = np.asarray(seen)
        if image.ndim == 2:
            image = image[..., None]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise UserError(
                f"render() gives {image.dtype} {image.shape}, not an image: uint8 (H, W, 3)"
            )
        if self._image is not None and self._image.shape[:2] != image.shape[:2]:
            raise UserError(
                f"an image is {image.shape[0]}x{image.shape[1]}, but the first of its episode was "
                f"{self._image.shape[0]}x{self._image.shape[1]}: they must have one size"
            )
        return np.broadcast_to(image, (*image.shape[:2], 3))

    def _observation(self) -> np.ndarray:
        assert self._image is not None
        return area_resized(self._image, (self.size, self.size))

    def _note_variables(self) -> None:
        if lacking := [name for name in self.pose.names if name not in self.wrapped_info]:
            raise UserError(
                f"info lacks {lacking[0]!r}, which is part of the pose: it must be in the info of "
                "reset and of every step"
            )
        for name in self._variables:
            if name in self.wrapped_info:
                try:
                    self._variables[name] = float(self.wrapped_info[name])
                except (TypeError, ValueError):
                    raise UserError(f"{name!r} in info is not a number") from None


def _close(env: gymnasium.Env) -> None:
    with _open_windows_preserved():
        env.close()


@contextlib.contextmanager
def _open_windows_preserved() -> Iterator[None]:
    """Keep pygame running in this context if a window is open. Many environments quit pygame when
    they close, although they have no window here, because they render to arrays."""
    pygame: Any = sys.modules.get("pygame")
    if pygame is None or not pygame.display.get_init():
        yield
        return
    if pygame.display.get_surface() is None and not window.any_is_open():
        yield
        return
    quits = pygame.quit, pygame.display.quit
    pygame.quit = pygame.display.quit = lambda: None
    try:
        yield
    finally:
        pygame.quit, pygame.display.quit = quits


def _check_arguments(
    size: int, source: str, frame_skip: int, action_limit: float | None, render_mode: str | None
) -> None:
    if not 1 <= size <= LARGEST_SIZE:
        raise UserError(f"size must be from 1 to {LARGEST_SIZE}, not {size}")
    if not 1 <= frame_skip <= MOST_FRAME_SKIP:
        raise UserError(f"frame_skip must be from 1 to {MOST_FRAME_SKIP}, not {frame_skip}")
    if source not in ("auto", "observation", "render"):
        raise UserError(f"source must be auto, observation or render, not {source!r}")
    if action_limit is not None and not 0 < action_limit < float("inf"):
        raise UserError(f"action_limit must be above 0 and finite, not {action_limit}")
    if render_mode not in (None, "rgb_array"):
        raise UserError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")


def _open(
    env_id: str, env_kwargs: dict[str, Any], source: str
) -> tuple[gymnasium.Env[Any, Any], bool]:
    """Make the wrapped environment; the bool says whether frames come from `render()`."""
    has_display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not has_display:  # SDL would look for one and print an error
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if "render_mode" in env_kwargs:
        raise UserError("env_kwargs can't contain render_mode: source determines it")
    is_mujoco = family_of(env_id).startswith("gymnasium.envs.mujoco")
    if is_mujoco and sys.platform == "linux" and not has_display and not choose_opengl():
        given = os.environ.get("MUJOCO_GL")
        what = f"MUJOCO_GL={given}" if given in OPENGL else "OpenGL"
        raise UserError(
            f"{env_id} can't be drawn: there is no display, and {what} doesn't work without one "
            f"here. To install it {INSTALL_OPENGL}"
        )
    env = made(env_id, **env_kwargs)
    seen, modes = env.observation_space, env.metadata.get("render_modes") or ()
    if source == "observation" or (source == "auto" and _is_image(seen, SMALLEST_IMAGE)):
        if _is_image(seen, 1):
            return env, False
        _close(env)
        raise UserError(
            f"{env_id} observes {one_line(seen)}, which is not an image: uint8 (H, W, 3), "
            "(H, W, 1) or (H, W) from 0 to 255; try --source render"
        )
    _close(env)
    if "rgb_array" not in modes:
        raise UserError(
            f"{env_id} has no images: it observes {one_line(seen)} and has no render mode "
            f"rgb_array, only {', '.join(map(str, modes)) or 'none'}"
        )
    return made(env_id, **env_kwargs, render_mode="rgb_array"), True


def _is_image(space: gymnasium.Space[Any], smallest: int) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or space.shape is None:
        return False
    if len(space.shape) not in (2, 3) or min(space.shape[:2]) < smallest:
        return False
    return space.shape[2:] in ((), (1,), (3,))
