"""The learned simulator as a Gymnasium environment.

import gymnasium, videogpt_dream
env = gymnasium.make("VideoGPTDream-v0", checkpoint="dream-doom")
frame, info = env.reset(seed=0, options={"start": 3})
frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
"""

import copy
from pathlib import Path
from typing import Any, Unpack

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from envs.dream_world import DreamOptions, RealMoment
from envs.threads import one_thread
from envs.vector_dream import STREAM, DreamState, DreamVectorEnv, info_of
from envs.window import FrameWindow, as_rgb
from worldmodel import randomness
from worldmodel.errors import UserError


class DreamEnv(gymnasium.Env[np.ndarray, Any]):
    """A world model with the interface of the environment that it learned.

    Observations, actions and the names in `info` are those of the recorded environment. The reward
    is the model's expectation; the end and the changes of the game variables are sampled.
    `info["surprise"]` is the model's negative log-likelihood of the new frame, in nats per token.
    In worlds with a pose, `info["pose"]` is the player's, and each of its numbers is in `info` by
    its name. The same seed, start and actions give the same frames on one machine, however many
    threads torch has (a dream uses one); other processors may round differently.

    Args:
        checkpoint: a shipped name, a folder, or a Hugging Face Hub id.
        horizon: steps until `truncated`; None: never.
        temperature: of the sampling of tokens; None: the checkpoint's own.
        top_k: sample each token from its k most likely values.
        top_p: sample each token from the fewest values that together have this probability.
        guidance: as in `Sampling`; None: the checkpoint's own.
        pose_temperature: of the sampling of poses; None: 0, the likeliest.
        device: of torch, for example "cpu" or "cuda".
        starts: moments that dreams start from: a folder of recorded episodes, for moments of its
            training split; or your own moments, all of the same length; None: the checkpoint's own
            few.
        starts_at: "anywhere" in those episodes, or at their "reset".
        render_mode: None, "rgb_array" (the frame, RGB) or "human" (in a window).

    Raises:
        UserError: there is no such checkpoint, or it is damaged; or another argument is out of
            range, or the episodes are of another world.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 8.75}  # noqa: RUF012

    def __init__(
        self,
        checkpoint: str = "dream-doom",
        *,
        render_mode: str | None = None,
        **dream: Unpack[DreamOptions],
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"render_mode must be None, rgb_array or human, not {render_mode!r}")
        self._dreams = DreamVectorEnv(1, checkpoint, autoreset_mode=AutoresetMode.DISABLED, **dream)
        self._world = self._dreams.world
        self.model, self.starts = self._world.model, self._world.starts
        self.horizon = self._world.horizon
        self.render_mode = render_mode
        self.metadata = {**DreamEnv.metadata, "render_fps": self._world.recorded.fps}
        self.action_meanings = self.model.config.actions.meanings
        self.action_choices = self.model.config.actions.choices
        self.variable_names = self.model.config.variable_names
        self.pose = self.model.config.pose
        self.controls = copy.deepcopy(self._world.recorded.controls)
        self.observation_space = self._world.observation_space
        self.action_space = self._world.action_space
        self._window = FrameWindow("VideoGPT dream", fps=self.metadata["render_fps"])

    @property
    def num_starts(self) -> int:
        """The number of moments that `options={"start": k}` chooses from."""
        return len(self._world.moments)

    @property
    def pose_range(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The lowest and the highest position in the training data; None in worlds without a
        pose, and where every episode has a level of its own."""
        place = self.model.prior.place
        if place is None or place.space.spec.new_levels:
            return None
        return place.space.low.cpu().numpy(), place.space.high.cpu().numpy()

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return self._world.folder

    def digest(self) -> str:
        """sha256 of the checkpoint's files: identifies the dream."""
        return self._world.digest()

    def recorded_env(self) -> tuple[str, dict[str, Any]]:
        """Id and arguments of the recorded environment. Raises UserError as `DreamWorld` does."""
        return self._world.recorded_env()

    def real_moment(self, start: int) -> RealMoment:
        """How to bring the real environment to the moment `start`. Raises UserError as `DreamWorld`
        does."""
        return self._world.real_moment(start)

    @property
    def codes(self) -> np.ndarray:
        """The tokens of the newest frame, int64 (h, w, q), as the model sampled them.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        return self._dreams.codes[0]

    @one_thread()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a dream.

        Args:
            seed: of everything sampled from now on.
            options: {"start": k} chooses a moment (default: a random one); or give your own:
                {"frames": uint8 (T, H, W, C), "actions": (T-1, ...), "variables": (T, V),
                "poses": (T, P)} with T >= 1. Without variables they start at their mean; without
                poses the last one is predicted from its frame.

        Raises:
            UserError: an option is unknown, or does not fit this world.
        """
        if options and options.get("start") is not None:
            self._world.checked_start(options["start"])  # a batch would also take an array
        super().reset(seed=seed)
        if seed is not None:
            # Gymnasium's own seeding would correlate with that of action spaces.
            self._np_random = randomness.generator(seed, STREAM)
        self._dreams.generators[0] = self.np_random
        frames, infos = self._dreams.reset(options=options)
        self._show(frames[0])
        return frames[0], info_of(infos, 0)

    @one_thread()
    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        stored = self.model.config.actions.checked(action)
        if self._dreams.is_over.any():  # also before the first reset
            raise gymnasium.error.ResetNeeded(
                "call reset() before step(): there is no running episode"
            )
        self._dreams.generators[0] = self.np_random  # which the user may replace
        frames, rewards, terminated, truncated, infos = self._dreams.step(stored[None])
        self._show(frames[0])
        info = info_of(infos, 0)
        return frames[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def get_state(self) -> DreamState:
        """The state of the dream, for `set_state`.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or after the end.
        """
        if self._dreams.is_over.any():
            raise gymnasium.error.ResetNeeded("call reset() before get_state()")
        self._dreams.generators[0] = self.np_random
        return self._dreams.get_state()

    def set_state(self, state: DreamState) -> tuple[np.ndarray, dict[str, Any]]:
        """Restore a state; the dream continues as if nothing had happened since.

        Returns:
            Its observation and info. To sample another future, replace `env.np_random` afterwards.

        Raises:
            UserError: it is of a model of another size.
        """
        self._dreams.generators[0] = self.np_random
        frames, infos = self._dreams.set_state(state)
        self._show(frames[0])
        return frames[0], info_of(infos, 0)

    def render(self) -> np.ndarray | None:
        if self.render_mode != "rgb_array" or not self._dreams.has_begun:
            return None
        return as_rgb(self._dreams.frames[0])

    def close(self) -> None:
        self._window.close()

    def _show(self, frame: np.ndarray) -> None:
        if self.render_mode == "human":
            self._window.show(frame)
