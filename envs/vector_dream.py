"""A batch of dreams of one model.

import gymnasium, videogpt_dream
dreams = gymnasium.make_vec("VideoGPTDream-v0", num_envs=16, checkpoint="dream-doom")
frames, infos = dreams.reset(seed=0)                       # dream i has the seed 0 + i
frames, rewards, terminated, truncated, infos = dreams.step(dreams.action_space.sample())
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.dream_world import DreamOptions, DreamWorld
from envs.window import as_rgb
from worldmodel import randomness
from worldmodel.dream import Dream, Step
from worldmodel.errors import UserError

Seeds = int | Sequence[int | None] | None  # dream i gets seed + i, or its own from a list
STREAM = "dream"  # the name of a dream's random stream


@dataclass(frozen=True)
class DreamState:
    """The complete state of N dreams, to restore or to branch from. An opaque token."""

    dream: Dream
    frames: np.ndarray
    num_steps: np.ndarray
    over: np.ndarray
    rng_states: tuple[Mapping[str, Any], ...]


class DreamVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """A batch of N dreams.

    Each equals a `DreamEnv` with its seed, up to floating-point rounding, and takes about 2 MB of
    memory for its keys and values.

    Args:
        num_envs: N.
        checkpoint: as for `DreamEnv`.
        autoreset_mode: what happens after an end, as Gymnasium defines it: `NEXT_STEP` starts
            the next dream in the following step, `SAME_STEP` in the same one, with the last frame
            and info in `infos["final_obs"]` and `infos["final_info"]`; `DISABLED` leaves it to
            `reset(options={"reset_mask": ...})`.
        render_mode: None, or "rgb_array": the frames, RGB.
        dream: other arguments of `DreamEnv`.

    Raises:
        UserError: as `DreamEnv`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8.75}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        checkpoint: str = "dream-doom",
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **dream: Unpack[DreamOptions],
    ) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs must be at least 1, not {num_envs}")
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode must be None or rgb_array, not {render_mode!r}")
        self.world = DreamWorld(checkpoint, **dream)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = render_mode
        self.metadata = {
            **DreamVectorEnv.metadata,
            "render_fps": self.world.recorded.fps,
            "autoreset_mode": self.autoreset_mode,
        }
        self.model, self.horizon = self.world.model, self.world.horizon
        self.variable_names = self.model.config.variable_names
        self.pose = self.model.config.pose
        self.single_observation_space = self.world.observation_space
        self.single_action_space = self.world.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators: list[np.random.Generator | None] = [None] * num_envs
        self._own_seeds = [0] * num_envs
        self._dream: Dream | None = None  # None until the first reset
        self.frames = np.zeros(self.observation_space.shape or (), np.uint8)
        self._num_steps = np.zeros(num_envs, np.int64)
        self.is_over = np.ones(num_envs, bool)

    @property
    def has_begun(self) -> bool:
        """Whether `reset` has been called."""
        return self._dream is not None

    @property
    def codes(self) -> np.ndarray:
        """The tokens of the newest frames, int64 (N, h, w, q).

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._dream is None:
            raise gymnasium.error.ResetNeeded("call reset() before codes")
        return self._dream.codes.cpu().numpy().copy()

    @property
    def num_starts(self) -> int:
        """The number of moments that `options={"start": k}` chooses from."""
        return len(self.world.moments)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Each dream's own generator."""
        return tuple(self._rng(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Each dream's own seed."""
        _ = self.np_random  # seeds the dreams that have no seed yet
        return tuple(self._own_seeds)

    @torch.inference_mode()
    def reset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all dreams, or those of a mask.

        Args:
            seed: dream i gets `seed + i`, or its own from a list.
            options: as for `DreamEnv.reset`; `start` may be an array with one per dream. Also
                "reset_mask", bool (N,): the dreams to start; the others continue.

        Raises:
            UserError: an option is unknown or does not fit, or there are too few seeds.
        """
        options = dict(options or {})
        rows = self._rows_of_mask(options.pop("reset_mask", None))
        self._seed(seed, rows)
        infos: dict[str, Any] = {}
        self._begin(rows, infos, options)
        return self.frames.copy(), self._with_variables(infos, rows)

    @torch.inference_mode()
    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self._dream is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        if self.autoreset_mode is AutoresetMode.DISABLED and self.is_over.any():
            raise gymnasium.error.ResetNeeded(
                f"dreams {np.flatnonzero(self.is_over).tolist()} are over: "
                'call reset(options={"reset_mask": ...})'
            )
        beginning = np.flatnonzero(self.is_over)  # in NEXT_STEP, those that ended before
        stepping = np.flatnonzero(~self.is_over)
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        stored = self.model.config.actions.checked(actions, (self.num_envs,))
        if len(stepping):
            outcome = self._step_all(stored, stepping)
            rewards[stepping] = outcome.reward.cpu().numpy()[stepping]
            terminated[stepping] = outcome.terminated.cpu().numpy()[stepping]
            if self.horizon is not None:
                truncated[stepping] = self._num_steps[stepping] >= self.horizon
            surprise = outcome.nats.cpu().numpy().astype(np.float64)
            self._put(infos, "surprise", surprise, stepping)
        self.is_over = terminated | truncated
        if len(beginning):
            self._begin(beginning, infos, {})
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self.is_over.any():
            self._begin_at_once(np.flatnonzero(self.is_over), infos)
        infos = self._with_variables(infos, np.arange(self.num_envs))
        return self.frames.copy(), rewards, terminated, truncated, infos

    def get_state(self) -> DreamState:
        """The state of all dreams, for `set_state`.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._dream is None:
            raise gymnasium.error.ResetNeeded("call reset() before get_state()")
        return DreamState(
            self._dream.clone(),
            self.frames.copy(),
            self._num_steps.copy(),
            self.is_over.copy(),
            tuple(rng.bit_generator.state for rng in self.np_random),
        )

    def set_state(self, state: DreamState) -> tuple[np.ndarray, dict[str, Any]]:
        """Restore a state; the dreams continue as if nothing had happened since.

        Returns:
            Its observations and infos.

        Raises:
            UserError: it is of another number of dreams, or of a model of another size.
        """
        if len(state.frames) != self.num_envs:
            raise UserError(f"a state of {self.num_envs} dreams is needed, not {len(state.frames)}")
        self.world.check_fit(state.dream)
        self._dream, self.frames = state.dream.clone(), state.frames.copy()
        self._num_steps, self.is_over = state.num_steps.copy(), state.over.copy()
        for rng, rng_state in zip(self.np_random, state.rng_states, strict=True):
            rng.bit_generator.state = rng_state
        return self.frames.copy(), self._with_variables({}, np.arange(self.num_envs))

    def branch(self, state: DreamState, *, seed: Seeds = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Continue a single dream N times, each with its own random numbers.

        Args:
            state: from `DreamEnv.get_state`, of the same checkpoint.
            seed: as for `reset`.

        Returns:
            The state's observation and info, N times.

        Raises:
            UserError: it is of several dreams, or of a model of another size.
        """
        if len(state.frames) != 1:
            raise UserError(f"a state of one dream is needed, not of {len(state.frames)}")
        self.world.check_fit(state.dream)
        self._seed(seed, np.arange(self.num_envs))
        self._dream = state.dream.repeated(self.num_envs)
        self.frames = np.repeat(state.frames, self.num_envs, 0)
        self._num_steps = np.repeat(state.num_steps, self.num_envs)
        self.is_over = np.zeros(self.num_envs, bool)
        return self.frames.copy(), self._with_variables({}, np.arange(self.num_envs))

    def render(self) -> tuple[np.ndarray, ...] | None:
        return None if self.render_mode is None else tuple(map(as_rgb, self.frames))

    def _rng(self, i: int) -> np.random.Generator:
        rng = self.generators[i]
        if rng is None:
            rng, self._own_seeds[i] = seeding.np_random()
            self.generators[i] = rng
        return rng

    def _seed(self, seed: Seeds, rows: np.ndarray) -> None:
        """Give the dreams at `rows` new generators, where there are seeds."""
        if seed is None:
            return
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise UserError(f"{self.num_envs} seeds are needed, one per dream, not {len(seed)}")
        for i in rows:
            if (seed_of_i := seed[i]) is not None:
                self.generators[i] = randomness.generator(int(seed_of_i), STREAM)
                self._own_seeds[i] = int(seed_of_i)

    def _rows_of_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise UserError(
                f"reset_mask must be bool ({self.num_envs},) with at least one True, not "
                f"{mask.dtype} {mask.shape}"
            )
        if self._dream is None and not mask.all():
            raise gymnasium.error.ResetNeeded("reset all dreams before some of them")
        return np.flatnonzero(mask)

    def _begin(self, rows: np.ndarray, infos: dict[str, Any], options: dict[str, Any]) -> None:
        """Start dreams at `rows`; adds their starts to `infos`."""
        starts: Any = options.get("start")
        is_one_each = isinstance(starts, list | tuple) or getattr(starts, "ndim", 0) > 0
        if is_one_each and len(starts) != self.num_envs:
            raise UserError(f"start must be one number, or {self.num_envs}, one per dream")
        moments = []
        for i in rows:
            own = {"start": starts[i]} if is_one_each else {}
            moments.append(self.world.moment({**options, **own}, self._rng(i)))
        dream, frames = self.world.begin(moments)
        if self._dream is None:
            self._dream = dream
        else:
            self._dream.write(torch.from_numpy(rows).to(self.world.device), dream)
        self.frames[rows] = frames
        self._num_steps[rows] = 0
        self.is_over[rows] = False
        if moments[0].start is not None:
            chosen = np.zeros(self.num_envs, np.int64)
            chosen[rows] = [moment.start for moment in moments]
            self._put(infos, "start", chosen, rows)

    def _begin_at_once(self, ended: np.ndarray, infos: dict[str, Any]) -> None:
        """Start dreams in the step that ended them; adds the last observations to `infos`."""
        final_info = self._with_variables({}, ended)
        surprise = infos.pop("surprise")
        del infos["_surprise"]
        self._put(final_info, "surprise", surprise, ended)
        if len(others := np.setdiff1d(np.arange(self.num_envs), ended)):
            self._put(infos, "surprise", surprise.copy(), others)
        final_frames = np.full(self.num_envs, None, object)
        for i in ended:
            final_frames[i] = self.frames[i].copy()
        self._put(infos, "final_obs", final_frames, ended)
        self._put(infos, "final_info", final_info, ended)
        self._begin(ended, infos, {})

    def _step_all(self, actions: np.ndarray, stepping: np.ndarray) -> Step:
        """Step the complete batch; only generators of the dreams `stepping` advance."""
        assert self._dream is not None
        uniforms = np.zeros((self.num_envs, self.model.num_uniforms), np.float32)
        for i in stepping:
            uniforms[i] = self._rng(i).random(self.model.num_uniforms, np.float32)
        device = self.world.device
        outcome, self._dream = self.model.step(
            self._dream,
            torch.from_numpy(actions).to(device),
            torch.from_numpy(uniforms).to(device),
            self.world.sampling,
        )
        self.frames = outcome.frames.cpu().numpy()
        self._num_steps += 1
        return outcome

    def _with_variables(self, infos: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
        assert self._dream is not None
        variables = self._dream.variables.cpu().numpy().astype(np.float64)
        named = list(zip(self.variable_names, variables.T, strict=True))
        if self.pose:
            poses = self._dream.shown_pose.cpu().numpy().astype(np.float64)
            named += [*zip(self.pose.names, poses.T, strict=True), ("pose", poses)]
        for name, values in named:
            self._put(infos, name, values.copy(), rows)
        return infos

    def _put(self, infos: dict[str, Any], name: str, values: Any, rows: np.ndarray) -> None:
        """Add an entry to Gymnasium's vector infos, with the mask of dreams that have it."""
        mask = np.zeros(self.num_envs, bool)
        mask[rows] = True
        infos[name], infos[f"_{name}"] = values, mask


def info_of(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """The info of one environment from Gymnasium's vector infos, in plain numbers."""
    return {
        name: values[i].item() if np.ndim(values[i]) == 0 else values[i].copy()
        for name, values in infos.items()
        if f"_{name}" in infos and infos[f"_{name}"][i]
    }
