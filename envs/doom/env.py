"""ViZDoom scenarios as Gymnasium environments, on `vizdoom.DoomGame` directly.

ViZDoom's own wrapper returns a black terminal frame, reports a timeout as both terminated and
truncated, and leaves `info` empty.
"""

import math
import os
import threading
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import vizdoom
from vizdoom import GameVariable

from envs.doom.scenarios import SCENARIOS
from envs.engine_guard import EngineGuard
from worldmodel.errors import UserError
from worldmodel.interface.pose import PoseSpec
from worldmodel.media.resize import AreaResize

TICS_PER_SECOND = 35
SCREEN_SIZE = (120, 160)  # height and width that the engine renders
POSE_VARIABLES = (GameVariable.POSITION_X, GameVariable.POSITION_Y, GameVariable.ANGLE)
_working_folder_lock = threading.Lock()


@dataclass(frozen=True)
class Seen:
    """An object on the screen.

    Attributes:
        name: the engine's name of its kind, for example "DoomImp".
        left, width: columns of the screen that it covers, of `SCREEN_SIZE`.
        top, height: rows, likewise.
        distance: from the player, in the level's units.
    """

    name: str
    left: int
    width: int
    top: int
    height: int
    distance: float


@dataclass(frozen=True, eq=False)
class Senses:
    """What the engine reports of the screen.

    Attributes:
        things: objects on the screen, without the player's own weapon.
        depth: uint8 `SCREEN_SIZE`, larger is farther.
        place: of the player, in the level's units.
    """

    things: tuple[Seen, ...]
    depth: np.ndarray
    place: tuple[float, float]


class DoomEnv(gymnasium.Env[np.ndarray, Any]):
    """One ViZDoom scenario.

    Observations are uint8 RGB, (obs_size, obs_size, 3). At every step, including the last, `info`
    has the scenario's game variables and the player's pose: x and y in the level's units, and the
    angle in degrees, counterclockwise from the x axis. Rewards are the scenario's own: in Health
    Gathering Supreme +1 per tic alive and -100 on death, in Take Cover +1 per tic alive, in Battle2
    +1 per kill. An action is an index if the scenario has one factor, else an index for each.
    `terminated` is the player's death, `truncated` the scenario's timeout. The engine shows no
    frame after the end, so the last observation repeats the one before it.

    The same seed and actions give the same frames, bit for bit.

    Args:
        scenario: a key of `SCENARIOS`.
        obs_size: height and width of an observation, in pixels.
        frame_skip: tics for which each action is repeated; there are 35 tics per second.
        render_mode: None or "rgb_array", the engine's full 160x120 screen.
        labels: provide `senses`, in any scenario.

    Raises:
        UserError: the scenario is unknown (the message lists the known ones), or another argument
            is out of range; or the scenario's level can't be downloaded.
    """

    # Stored with recordings: change it when the same game gives different frames.
    rendering = "160x120 without HUD and flashes, shrunk to the mean of the exact area"

    pose = PoseSpec(position=("x", "y"), heading="angle")

    metadata = {"render_modes": ["rgb_array"], "render_fps": TICS_PER_SECOND / 4}  # noqa: RUF012

    def __init__(
        self,
        scenario: str,
        *,
        obs_size: int = 64,
        frame_skip: int = 4,
        render_mode: str | None = None,
        labels: bool = False,
    ) -> None:
        if scenario not in SCENARIOS:
            known = ", ".join(sorted(SCENARIOS))
            raise UserError(f"unknown scenario {scenario!r}; the known ones are: {known}")
        for name, value in (("obs_size", obs_size), ("frame_skip", frame_skip)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        self.metadata = {**DoomEnv.metadata, "render_fps": TICS_PER_SECOND / frame_skip}
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
        self.render_mode = render_mode
        self.scenario = SCENARIOS[scenario]
        self._choices = [list(factor.choices.values()) for factor in self.scenario.factors]
        if len(self._choices) == 1:
            self.action_meanings = tuple(self.scenario.factors[0].choices)
            self.action_space = gymnasium.spaces.Discrete(len(self._choices[0]))
        else:
            self.action_meanings = tuple(factor.name for factor in self.scenario.factors)
            self.action_choices = tuple(tuple(factor.choices) for factor in self.scenario.factors)
            self.action_space = gymnasium.spaces.MultiDiscrete(
                [len(choices) for choices in self._choices]
            )
        self.controls = self.scenario.controls
        self.variable_names = tuple(self.scenario.variables)
        self._has_labels = labels or self.scenario.has_senses
        self.obs_size = obs_size
        self.frame_skip = frame_skip
        self.observation_space = gymnasium.spaces.Box(0, 255, (obs_size, obs_size, 3), np.uint8)
        self._guard: EngineGuard | None = None
        self._game = self._start_engine()
        self._shrink = AreaResize(SCREEN_SIZE, (obs_size, obs_size))
        self._screen: np.ndarray | None = None  # None until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        super().reset(seed=seed)
        # Every episode is seeded, so frames depend only on its own seed and actions, not on the
        # engine's earlier episodes.
        engine_seed = int(self.np_random.integers(2**31)) if seed is None else seed % 2**31
        self._game.set_seed(engine_seed)
        self._game.new_episode()
        if self.scenario.idle_tics:
            self._game.advance_action(self.scenario.idle_tics)
        self._screen = self._game.get_state().screen_buffer
        return self._observation(), self.variables()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        if not self.action_space.contains(action):
            raise UserError(f"action {action!r} is outside {self.action_space}")
        if self._screen is None or self._game.is_episode_finished():
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        reward = self._game.make_action(self._buttons(action), self.frame_skip)
        terminated = self._game.is_player_dead()
        truncated = self._game.is_episode_finished() and not terminated
        state = self._game.get_state()
        if state is not None:
            self._screen = state.screen_buffer
        return self._observation(), float(reward), terminated, truncated, self.variables()

    @property
    def most_steps(self) -> int:
        """Steps after which the scenario ends a game."""
        tics = self._game.get_episode_timeout() - self.scenario.idle_tics
        return -(-tics // self.frame_skip)

    def variables(self) -> dict[str, float]:
        """The current game variables and pose."""
        values = {name: float(read(self._game)) for name, read in self.scenario.variables.items()}
        for name, variable in zip(self.pose.names, POSE_VARIABLES, strict=True):
            values[name] = float(self._game.get_game_variable(variable))
        return values

    def senses(self) -> Senses | None:
        """Objects and depth on the screen; None after the end, and without labels."""
        state = self._game.get_state()
        if state is None or state.labels is None or state.depth_buffer is None:
            return None
        place = (
            self._game.get_game_variable(GameVariable.POSITION_X),
            self._game.get_game_variable(GameVariable.POSITION_Y),
        )
        things = tuple(
            Seen(
                name=label.object_name,
                left=label.x,
                width=label.width,
                top=label.y,
                height=label.height,
                distance=math.dist(place, (label.object_position_x, label.object_position_y)),
            )
            for label in state.labels
            if label.object_name != "DoomPlayer"
        )
        return Senses(things, state.depth_buffer, place)

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return None if self._screen is None else self._screen.copy()

    def close(self) -> None:
        if self._guard is not None:
            self._game.close()
            self._guard.close()
            self._guard = None

    def _start_engine(self) -> vizdoom.DoomGame:
        game = vizdoom.DoomGame()
        self.scenario.load(game)
        game.set_labels_buffer_enabled(self._has_labels)
        game.set_depth_buffer_enabled(self._has_labels)
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_render_hud(False)
        game.set_render_screen_flashes(False)
        game.set_window_visible(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        self._guard = EngineGuard()
        game.set_doom_config_path(str(self._guard.folder / "vizdoom.ini"))
        # The engine creates an empty folder `_vizdoom` in its working directory.
        with _working_folder_lock:
            working_folder = os.getcwd()
            os.chdir(self._guard.folder)
            try:
                game.init()
            finally:
                os.chdir(working_folder)
        self._guard.note_engines()
        return game

    def _buttons(self, action: Any) -> list[float]:
        indices = np.atleast_1d(action)
        pressed = [choices[i] for choices, i in zip(self._choices, indices, strict=True)]
        return [sum(values) for values in zip(*pressed, strict=True)]

    def _observation(self) -> np.ndarray:
        assert self._screen is not None
        return self._shrink(self._screen)
