"""Any Gymnasium environment, seen as small square pictures.

import envs
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
from envs.making import made
from worldmodel.errors import UserError, one_line
from worldmodel.interface.pose import PoseSpec
from worldmodel.media.resize import area_resized

LARGEST_SIZE = 1024
MOST_FRAME_SKIP = 1000
SMALLEST_PICTURE = 32  # pixels: uint8 arrays with shorter sides are rather boards than pictures


class PixelsEnv(gymnasium.Env[np.ndarray, Any]):
    """A foreign environment whose observations are its pictures, uint8 RGB, (size, size, 3).

    Pictures are the foreign observations where those are pictures, else what its `render()` gives;
    grey ones become RGB. They are stretched to the square, nothing is cut off, and each pixel is
    the mean of the area that it covers. Actions are the foreign ones as flat numbers from 0
    (`envs.interface.FlatActions`). `info` holds `variables` and the pose alone: an entry that a
    step's info lacks keeps its last value, which is 0 at first.

    A policy that was trained on the foreign environment can act here: `state()` is what the foreign
    one observed last, `own_actions` its actions.

    Args:
        env_id: of the foreign environment; "module:Name-v0" imports the module first.
        env_kwargs: its arguments.
        size: height and width of an observation, in pixels.
        source: "observation", "render", or "auto".
        frame_skip: foreign steps that each action lasts; their rewards are added up.
        variables: names of numbers in the foreign `info`.
        pose: names of those that are the player's position, as in `PoseSpec`; by default what the
            foreign environment's own `pose` says.
        heading: the name of the one that is the player's heading.
        full_turn: what a full turn adds to the heading.
        action_limit: for boxes without bounds, see `flat_actions`.
        render_mode: None or "rgb_array", the whole picture.

    Raises:
        UserError: the foreign environment can't be made or doesn't suit; or another argument is out
            of range.
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
        action_limit: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        _check_arguments(size, source, frame_skip, action_limit, render_mode)
        self._foreign, is_rendered = _open(env_id, dict(env_kwargs or {}), source)
        try:
            self.own_actions = actions_of(self._foreign, limit=action_limit)
            controls = controls_of(self._foreign, self.own_actions)
            self.pose = (
                PoseSpec(tuple(pose), heading, full_turn) if pose else pose_of(self._foreign)
            )
        except UserError as error:
            self._foreign.close()
            raise UserError(f"{env_id}: {error}") from None
        if controls is not None:
            self.controls = controls.to_json()
        self._is_rendered = is_rendered
        self.size, self.frame_skip, self.render_mode = size, frame_skip, render_mode
        self.metadata = {**PixelsEnv.metadata, "render_fps": fps_of(self._foreign) / frame_skip}
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = space_of(self.own_actions.spec)
        self.state_space = self._foreign.observation_space
        self.action_meanings = self.own_actions.spec.meanings
        self.action_choices = self.own_actions.spec.choices
        self.variable_names = tuple(variables)
        # Recordings keep this: change it when the same game comes to give other frames.
        drawn_by = "render()" if is_rendered else "observations"
        self.rendering = f"{drawn_by}, stretched to the mean of the exact area"
        self._picture: np.ndarray | None = None  # None until the first reset
        self._is_over = True

    @property
    def most_steps(self) -> int | None:
        """Steps after which the foreign environment ends an episode; None: it doesn't say."""
        spec = self._foreign.spec
        if spec is None or spec.max_episode_steps is None:
            return None
        return -(-spec.max_episode_steps // self.frame_skip)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        super().reset(seed=seed)
        self._state, self.foreign_info = self._foreign.reset(seed=seed, options=options)
        self._is_over = False
        self._picture = self._look()
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
            own = self.own_actions.to_own(action)  # anew: some write over what they are given
            self._state, reward, terminated, truncated, info = self._foreign.step(own)
            self.foreign_info = info
            self._note_variables()
            total += float(reward)
            if terminated or truncated:
                break
        self._is_over = bool(terminated or truncated)
        self._picture = self._look()
        return self._observation(), total, bool(terminated), bool(truncated), dict(self._variables)

    def state(self) -> Any:
        """What the foreign environment observed last, in `state_space`: a copy."""
        return copy.deepcopy(self._state)

    def render(self) -> np.ndarray | None:
        if self.render_mode is None or self._picture is None:
            return None
        return self._picture.copy()

    def close(self) -> None:
        with _window_kept():
            self._foreign.close()

    def _look(self) -> np.ndarray:
        """The foreign picture as uint8 (H, W, 3)."""
        seen = self._foreign.render() if self._is_rendered else self._state
        picture = np.asarray(seen)
        if picture.ndim == 2:
            picture = picture[..., None]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
            raise UserError(
                f"render() gives {picture.dtype} {picture.shape}, not a picture: uint8 (H, W, 3)"
            )
        return np.broadcast_to(picture, (*picture.shape[:2], 3))

    def _observation(self) -> np.ndarray:
        assert self._picture is not None
        return area_resized(self._picture, (self.size, self.size))

    def _note_variables(self) -> None:
        for name in self._variables:
            if name in self.foreign_info:
                try:
                    self._variables[name] = float(self.foreign_info[name])
                except (TypeError, ValueError):
                    raise UserError(f"{name!r} in info is not a number") from None


@contextlib.contextmanager
def _window_kept() -> Iterator[None]:
    """Many environments end the whole of pygame when they close: not while a window is open, for
    that is of whoever plays beside them. They have none, since they draw into arrays."""
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
    """The foreign environment, and whether its pictures are drawn by `render()`."""
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")):
        # SDL would look for a display, and print an error of its own where there is none.
        os.environ["SDL_VIDEODRIVER"] = "dummy"
    if "render_mode" in env_kwargs:
        raise UserError("env_kwargs may not say render_mode: source decides it")
    env = made(env_id, **env_kwargs)
    seen, modes = env.observation_space, env.metadata.get("render_modes") or ()
    if source == "observation" or (source == "auto" and _shows_pictures(seen, SMALLEST_PICTURE)):
        if _shows_pictures(seen, 1):
            return env, False
        env.close()
        raise UserError(
            f"{env_id} observes {one_line(seen)}, which is no picture: uint8 (H, W, 3), "
            "(H, W, 1) or (H, W) from 0 to 255; try --source render"
        )
    env.close()
    if "rgb_array" not in modes:
        raise UserError(
            f"{env_id} has no pixels: it observes {one_line(seen)} and has no render mode "
            f"rgb_array, only {', '.join(map(str, modes)) or 'none'}"
        )
    return made(env_id, **env_kwargs, render_mode="rgb_array"), True


def _shows_pictures(space: gymnasium.Space[Any], smallest: int) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or space.shape is None:
        return False
    if len(space.shape) not in (2, 3) or min(space.shape[:2]) < smallest:
        return False
    return space.shape[2:] in ((), (1,), (3,))
