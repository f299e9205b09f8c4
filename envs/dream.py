"""The learned simulator as a Gymnasium environment.

import envs
env = gymnasium.make("VideoGPTDream-v0", checkpoint="dream-doom")
frame, info = env.reset(seed=0, options={"start": 3})
frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from envs.spaces import space_of
from worldmodel.checkpoint import CheckpointError as CheckpointError
from worldmodel.checkpoint import load_checkpoint
from worldmodel.model import Dream
from worldmodel.prior.sampling import Sampling


@dataclass(frozen=True)
class RealMoment:
    """How the real environment gets to the moment that a dream begins from.

    Make it, reset it with the seed, and take the actions.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    seed: int
    actions: np.ndarray


@dataclass(frozen=True)
class DreamState:
    """A moment of a `DreamEnv`, to return to or to branch from. Opaque but for its being kept."""

    dream: Dream
    frame: np.ndarray
    num_steps: int
    rng_state: Mapping[str, Any]


class DreamEnv(gymnasium.Env[np.ndarray, Any]):
    """A world model that is stepped like the environment it learned.

    Observations, actions and the names in `info` are those of the recorded environment. The
    reward is the model's expectation; the end, and the changes of the game variables, are
    drawn. `info["surprise"]` says how unexpected the new frame was to the model, in nats a
    token. The same seed, start and actions give the same frames on one machine; other
    processors may round differently.

    Args:
        checkpoint: a shipped name, a folder, or a Hugging Face Hub id.
        horizon: steps until `truncated`; None: never.
        temperature, top_k, top_p: how tokens are drawn, as in `Sampling`.
        device: of torch, for example "cpu" or "cuda".
        render_mode: None, "rgb_array" (the frame itself) or "human" (a window).

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ValueError: another argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 8.75}  # noqa: RUF012
    WINDOW_SIZE = 512  # pixels

    def __init__(
        self,
        checkpoint: str = "dream-doom",
        *,
        horizon: int | None = None,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon must be at least 1, or None for no end, not {horizon}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, rgb_array or human, not {render_mode!r}")
        self.device = _usable(device)
        self.sampling = Sampling(temperature, top_k, top_p)
        loaded = load_checkpoint(checkpoint, device=self.device)
        self.model, self.world, self.starts = loaded.model, loaded.world, loaded.starts
        self.horizon = horizon
        self.render_mode = render_mode
        self.metadata = {**DreamEnv.metadata, "render_fps": self.world.fps}
        config = self.model.config
        self.action_meanings = config.actions.meanings
        self.variable_names = config.variable_names
        self.controls = self.world.controls  # the recorded environment's
        self.observation_space = gymnasium.spaces.Box(
            0, 255, config.tokenizer.frame_shape, np.uint8
        )
        self.action_space = space_of(config.actions)
        self._dream: Dream | None = None  # None until the first reset
        self._over = True
        self._window: Any = None

    @property
    def num_starts(self) -> int:
        """How many recorded moments `options={"start": k}` can name."""
        return len(self.starts)

    def real_moment(self, start: int) -> RealMoment:
        """How the real environment gets to where dreams from `start` begin.

        Raises:
            ValueError: the checkpoint, which is data, names a module that would be imported.
        """
        for name in (self.world.env_id, str(self.world.env_kwargs.get("env_id", ""))):
            module, names_module, _ = name.rpartition(":")
            if names_module and module not in sys.modules:
                raise ValueError(
                    f"{name!r} imports a module: import {module!r} yourself first if you trust it"
                )
        length = self.starts.prefix_lengths[start]
        return RealMoment(
            env_id=self.world.env_id,
            env_kwargs=self.world.env_kwargs,
            seed=int(self.starts.seeds[start]),
            actions=self.starts.prefixes[start, :length],
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream.

        Args:
            seed: of everything drawn from now on.
            options: {"start": k} names a recorded moment (drawn otherwise); or your own one:
                {"frames": uint8 (T, H, W, C), "actions": (T-1, ...), "variables": (T, V)}
                with T >= 1; without variables they begin at their mean.

        Raises:
            ValueError: an option is unknown, or does not fit this world.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        if "frames" in options:
            start, moment = None, self._own_moment(options)
        else:
            start = self._chosen_start(options)
            moment = tuple(
                array[start]
                for array in (self.starts.frames, self.starts.actions, self.starts.variables)
            )
        frames, actions, variables = (torch.from_numpy(a)[None].to(self.device) for a in moment)
        self._dream = self.model.start(frames, actions, variables)
        self._frame = self.model.decode(self._dream.codes)[0].cpu().numpy()
        self._num_steps, self._over = 0, False
        self._show()
        info = self._info()
        if start is not None:
            info["start"] = start
        return self._frame, info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is outside {self.action_space}")
        if self._dream is None or self._over:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        stored = np.asarray(action, self.model.config.actions.dtype)
        actions = torch.as_tensor(stored)[None].to(self.device)
        uniforms = self.np_random.random((1, self.model.num_uniforms), np.float32)
        step, self._dream = self.model.step(
            self._dream, actions, torch.from_numpy(uniforms).to(self.device), self.sampling
        )
        self._frame = step.frames[0].cpu().numpy()
        self._num_steps += 1
        terminated = bool(step.terminated[0])
        truncated = self.horizon is not None and self._num_steps >= self.horizon
        self._over = terminated or truncated
        self._show()
        info = {**self._info(), "surprise": float(step.nats[0])}
        return self._frame, float(step.reward[0]), terminated, truncated, info

    def get_state(self) -> DreamState:
        """This moment, to be given back to `set_state` as often as you like.

        Raises:
            gymnasium.error.ResetNeeded: no dream has begun, or it has ended.
        """
        if self._dream is None or self._over:
            raise gymnasium.error.ResetNeeded("call reset() before get_state()")
        return DreamState(
            self._dream.clone(),
            self._frame.copy(),
            self._num_steps,
            self.np_random.bit_generator.state,
        )

    def set_state(self, state: DreamState) -> tuple[np.ndarray, dict[str, Any]]:
        """Go back to a moment; what follows is as if the dream had never left it.

        Returns:
            Its observation and info. To branch into another future, give
            `env.np_random` another generator afterwards.
        """
        self._dream = state.dream.clone()
        self._frame = state.frame.copy()
        self._num_steps, self._over = state.num_steps, False
        self.np_random.bit_generator.state = state.rng_state
        self._show()
        return self._frame, self._info()

    def render(self) -> np.ndarray | None:
        if self.render_mode != "rgb_array" or self._dream is None:
            return None
        return self._frame.copy()

    def close(self) -> None:
        if self._window is not None:
            import pygame

            pygame.quit()
            self._window = None

    def _info(self) -> dict[str, Any]:
        assert self._dream is not None
        values = self._dream.variables[0].tolist()
        return dict(zip(self.variable_names, values, strict=True))

    def _chosen_start(self, options: dict[str, Any]) -> int:
        start = options.pop("start", None)
        if options:
            raise ValueError(
                f"unknown reset options {sorted(options)}; there are: start; or frames, actions "
                "and variables"
            )
        if start is None:
            return int(self.np_random.integers(self.num_starts))
        if not 0 <= int(start) < self.num_starts:
            raise ValueError(f"start must be from 0 to {self.num_starts - 1}, not {start}")
        return int(start)

    def _own_moment(self, options: dict[str, Any]) -> tuple[np.ndarray, ...]:
        unknown = set(options) - {"frames", "actions", "variables"}
        if unknown:
            raise ValueError(f"options {sorted(unknown)} don't go with frames")
        config = self.model.config
        frames = np.asarray(options["frames"])
        shape = config.tokenizer.frame_shape
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != shape:
            raise ValueError(
                f"frames must be uint8 (T, {shape[0]}, {shape[1]}, {shape[2]}) with T >= 1, not "
                f"{frames.dtype} {frames.shape}"
            )
        if len(frames) == 0:
            raise ValueError("frames must hold at least one frame")
        none = np.zeros((0, *config.actions.shape), config.actions.dtype)
        actions = np.asarray(options.get("actions", none)).astype(config.actions.dtype)
        if len(actions) != len(frames) - 1 or not config.actions.contains(actions):
            raise ValueError(
                f"{len(frames)} frames need the {len(frames) - 1} actions between them, each in "
                f"{self.action_space}"
            )
        mean = self.model.prior.variable_mean.cpu().numpy()
        variables = np.asarray(options.get("variables", np.tile(mean, (len(frames), 1))))
        if variables.shape != (len(frames), len(mean)) or not np.isfinite(variables).all():
            raise ValueError(f"variables must be ({len(frames)}, {len(mean)}) finite numbers")
        return frames, actions, variables.astype(np.float32)

    def _show(self) -> None:
        """Draw the frame in a window, where that is asked for."""
        if self.render_mode != "human":
            return
        import pygame

        if self._window is None:
            pygame.init()
            self._window = pygame.display.set_mode((self.WINDOW_SIZE, self.WINDOW_SIZE))
            pygame.display.set_caption("VideoGPT dream")
            self._clock = pygame.time.Clock()
        picture = pygame.surfarray.make_surface(self._frame.swapaxes(0, 1))
        self._window.blit(pygame.transform.scale(picture, self._window.get_size()), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.metadata["render_fps"])


def _usable(device: str) -> torch.device:
    """Raises ValueError when torch has no such device here."""
    try:
        return torch.zeros(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one that torch can use here, not {device!r}: {reason}"
        ) from None
