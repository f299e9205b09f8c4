"""ViZDoom scenarios as Gymnasium environments, on `vizdoom.DoomGame` directly.

The wrapper bundled with ViZDoom returns a black terminal frame, calls a timeout both
terminated and truncated, and leaves `info` empty; agents and world models need better.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import vizdoom

from envs.engine_guard import EngineGuard
from worldmodel.resize import AreaResize

TICS_PER_SECOND = 35
SCREEN_SIZE = (120, 160)  # height and width that the engine renders
_working_folder_lock = threading.Lock()


@dataclass(frozen=True)
class Scenario:
    """What a player can do and what is logged in one ViZDoom scenario.

    Attributes:
        config: name of a .cfg file among the wheel's scenarios.
        actions: action name -> value of each button, in the order of `config`'s buttons.
        variables: name -> how to read it from a running game, as a float.
    """

    config: str
    actions: dict[str, tuple[float, ...]]
    variables: dict[str, Callable[[vizdoom.DoomGame], float]]


def _health(game: vizdoom.DoomGame) -> float:
    """Health in [0, 100]; the engine may report less than zero at death."""
    return max(0.0, game.get_game_variable(vizdoom.GameVariable.HEALTH))


def _pickups(game: vizdoom.DoomGame) -> float:
    """Medikits taken minus poisons taken so far.

    The scenario's script keeps the score as a 16.16 fixed-point number, 100 an item. Unlike
    the change of health it counts medikits taken at full health.
    """
    return game.get_game_variable(vizdoom.GameVariable.USER1) / 65536 / 100


SCENARIOS = {
    "health_gathering_supreme": Scenario(
        config="health_gathering_supreme.cfg",
        actions={
            "noop": (0, 0, 0),
            "left": (1, 0, 0),
            "right": (0, 1, 0),
            "forward": (0, 0, 1),
        },
        variables={"health": _health, "pickups": _pickups},
    ),
}


class DoomEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One ViZDoom scenario.

    Observations are uint8 RGB, (obs_size, obs_size, 3). `info` holds the scenario's game
    variables at every step, the last included. Rewards are the scenario's own: in Health
    Gathering Supreme +1 a tic alive and -100 at death. `terminated` is the player's death,
    `truncated` the scenario's timeout. The engine shows no frame after the end, so the last
    observation repeats the one before it.

    The same seed and actions give the same frames, bit for bit.

    Args:
        scenario: a key of `SCENARIOS`.
        obs_size: height and width of an observation, in pixels.
        frame_skip: tics that each action lasts; 35 tics are a second.
        render_mode: None or "rgb_array", the engine's whole 160x120 screen.

    Raises:
        ValueError: the scenario is unknown (the message lists the known ones), or another
            argument is out of range.
    """

    # Recordings keep this: change it when the same game comes to give other frames.
    rendering = "160x120 without HUD and flashes, shrunk to the mean of the exact area"

    metadata = {"render_modes": ["rgb_array"], "render_fps": TICS_PER_SECOND / 4}  # noqa: RUF012

    def __init__(
        self,
        scenario: str,
        *,
        obs_size: int = 64,
        frame_skip: int = 4,
        render_mode: str | None = None,
    ) -> None:
        if scenario not in SCENARIOS:
            known = ", ".join(sorted(SCENARIOS))
            raise ValueError(f"unknown scenario {scenario!r}; the known ones are: {known}")
        for name, value in (("obs_size", obs_size), ("frame_skip", frame_skip)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.metadata = {**DoomEnv.metadata, "render_fps": TICS_PER_SECOND / frame_skip}
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
        self.render_mode = render_mode
        self.scenario = SCENARIOS[scenario]
        self.action_meanings = tuple(self.scenario.actions)
        self.variable_names = tuple(self.scenario.variables)
        self.obs_size = obs_size
        self.frame_skip = frame_skip
        self.action_space = gymnasium.spaces.Discrete(len(self.scenario.actions))
        self.observation_space = gymnasium.spaces.Box(0, 255, (obs_size, obs_size, 3), np.uint8)
        self._buttons = [list(buttons) for buttons in self.scenario.actions.values()]
        self._guard: EngineGuard | None = None
        self._game = self._start_engine()
        self._shrink = AreaResize(SCREEN_SIZE, (obs_size, obs_size))
        self._screen: np.ndarray | None = None  # None until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        super().reset(seed=seed)
        # Every episode is seeded: frames then depend on its own seed and actions alone,
        # not on the episodes that the engine has played before.
        engine_seed = int(self.np_random.integers(2**31)) if seed is None else seed % 2**31
        self._game.set_seed(engine_seed)
        self._game.new_episode()
        self._screen = self._game.get_state().screen_buffer
        return self._observation(), self._info()

    def step(
        self, action: np.int64 | int
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is outside {self.action_space}")
        if self._screen is None or self._game.is_episode_finished():
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        reward = self._game.make_action(self._buttons[int(action)], self.frame_skip)
        terminated = self._game.is_player_dead()
        truncated = self._game.is_episode_finished() and not terminated
        state = self._game.get_state()
        if state is not None:
            self._screen = state.screen_buffer
        return self._observation(), float(reward), terminated, truncated, self._info()

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
        game.load_config(str(Path(vizdoom.scenarios_path) / self.scenario.config))
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_render_hud(False)
        game.set_render_screen_flashes(False)
        game.set_window_visible(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        self._guard = EngineGuard()
        game.set_doom_config_path(str(self._guard.folder / "vizdoom.ini"))
        # The engine makes an empty `_vizdoom` folder where it is started.
        with _working_folder_lock:
            working_folder = os.getcwd()
            os.chdir(self._guard.folder)
            try:
                game.init()
            finally:
                os.chdir(working_folder)
        return game

    def _observation(self) -> np.ndarray:
        assert self._screen is not None
        return self._shrink(self._screen)

    def _info(self) -> dict[str, float]:
        return {name: float(read(self._game)) for name, read in self.scenario.variables.items()}
