"""A stable-baselines3 policy as something that looks and picks actions.

A policy file can carry code of whoever made it, which runs when the file is loaded. What loads one
here is told that the file is trusted; nothing takes that for granted.
"""

import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from stable_baselines3 import PPO

from envs.threads import one_thread
from envs.trust import is_remembered, remember
from worldmodel import randomness
from worldmodel.errors import UserError, one_line, os_error

# Of a policy file, unpacked. A network of 100 million numbers and its optimiser take 1.2 GB.
MOST_BYTES = 2 * 2**30
MOST_BYTES_OF_SETTINGS = 64 * 2**20  # all that isn't a network
# How much smaller than its content a part may be. Those of stable-baselines3 are as large.
MOST_RATIO = 20
FREE_BYTES = 2**20  # below, any ratio will do
NETWORKS = (".pth", ".pt")  # zip files themselves


class Stack:
    """The last few observations side by side along the last axis, as in stable-baselines3's
    VecFrameStack: those before an episode's first are zeros. Of a Dict, each part by itself."""

    def __init__(self, num_stacked: int) -> None:
        self._last: deque[Any] = deque(maxlen=num_stacked)

    def clear(self) -> None:
        self._last.clear()

    def with_newest(self, observation: Any) -> Any:
        """The stack once `observation`, an array or a dict of arrays, was added."""
        assert self._last.maxlen is not None
        while len(self._last) < self._last.maxlen - 1:
            self._last.append(_like(observation, np.zeros_like))
        self._last.append(_like(observation, np.copy))
        if isinstance(observation, dict):
            return {
                name: np.concatenate([seen[name] for seen in self._last], -1)
                for name in observation
            }
        return np.concatenate(self._last, axis=-1)


def _like(observation: Any, made_from: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(observation, dict):
        return {name: made_from(part) for name, part in observation.items()}
    return made_from(observation)


class Sampler:
    """Draws a model's actions with a generator of its own: torch's global one stays as it is."""

    def __init__(self, model: PPO) -> None:
        self._model = model
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._state = randomness.torch_generator(seed, "policy actions").get_state()

    @one_thread()
    def action(self, observation: Any, *, deterministic: bool) -> np.ndarray:
        # stable-baselines3 samples with torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            action, _ = self._model.predict(observation, deterministic=deterministic)
            self._state = torch.get_rng_state()
        return action


class FramePolicy:
    """A PPO policy on the last few frames of an environment, real or dreamed.

    The number of stacked frames is read off the policy: its observations have
    `3 * num_stacked` channels.

    Args:
        path: a .zip written by stable-baselines3's `PPO.save`.
        trusted: as of `load_ppo`.
        seed: of the actions drawn. The generator is this policy's own: torch's global one is
            left as it is.

    Raises:
        UserError: the file is missing, is no such .zip, or isn't trusted.
    """

    def __init__(self, path: str | Path, *, trusted: bool, seed: int = 0) -> None:
        self.path = Path(path)
        self.model = load_ppo(self.path, trusted=trusted)
        channels_first = self.model.observation_space.shape  # (3 * num_stacked, H, W)
        if channels_first is None or len(channels_first) != 3 or min(channels_first) % 3:
            raise UserError(
                f"{path}: the policy looks at {self.model.observation_space}, not at RGB frames, "
                "which are all that there is to see here"
            )
        self.num_stacked = min(channels_first) // 3
        self._stack, self._sampler = Stack(self.num_stacked), Sampler(self.model)
        self.reset(seed=seed)

    def reset(self, *, seed: int | None = None) -> None:
        """Forget the frames seen: call it when an episode starts.

        Args:
            seed: of the actions drawn from now on; None goes on with the same generator.
        """
        self._stack.clear()
        if seed is not None:
            self._sampler.reset(seed)

    def act(self, frame: np.ndarray, *, deterministic: bool = False) -> np.ndarray:
        """The action for the newest frame, uint8 (H, W, 3).

        Frames before an episode's first are black, as in stable-baselines3's VecFrameStack.
        """
        stacked = self._stack.with_newest(frame)
        return self._sampler.action(stacked, deterministic=deterministic)

    def check_fits(
        self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> None:
        """Raises UserError unless the policy can act in an environment of these spaces."""
        height, width, channels = observation_space.shape or (0, 0, 0)
        expected = (channels * self.num_stacked, height, width)
        if self.model.observation_space.shape != expected:
            raise UserError(
                f"{self.path}: the policy looks at frames of shape "
                f"{self.model.observation_space.shape} (channels first), but the environment "
                f"gives {observation_space.shape}: train one for this environment"
            )
        if self.model.action_space != action_space:
            raise UserError(
                f"{self.path}: the policy acts in {self.model.action_space}, but the environment "
                f"takes {action_space}: train one for this environment"
            )


class StateObservation(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """An environment's `state()` in place of its picture."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = env.unwrapped.state_space  # pyright: ignore[reportAttributeAccessIssue]

    def observation(self, observation: Any) -> Any:
        return self.env.unwrapped.state()  # pyright: ignore[reportAttributeAccessIssue]


class StatePolicy:
    """A PPO policy on the `state()` of one environment, one or several; frames are passed over.

    Where the environment has `own_actions` (an `envs.interface.FlatActions`), the policy may act in
    them.

    Args:
        path: a .zip written by stable-baselines3's `PPO.save`.
        env: the environment whose state is looked at, while it is played.
        trusted: as of `load_ppo`.
        seed: of the actions drawn.

    Raises:
        UserError: the file is missing, is no such .zip, isn't trusted, or is for another
            environment.
    """

    num_stacked = 1  # frames passed over at a time: the newest

    def __init__(
        self, path: str | Path, env: gymnasium.Env[Any, Any], *, trusted: bool, seed: int = 0
    ) -> None:
        self.model = load_ppo(Path(path), trusted=trusted)
        self._env: Any = env.unwrapped
        seen = self._env.state_space
        num_stacked = times_stacked(seen, self.model.observation_space)
        if num_stacked is None:
            raise UserError(
                f"{path}: the policy's observation_space is {self.model.observation_space}, but "
                f"the environment's is {seen}: train one for this environment"
            )
        own = getattr(self._env, "own_actions", None)
        self._own_actions = own if own and self.model.action_space == own.own else None
        if self._own_actions is None and self.model.action_space != env.action_space:
            raise UserError(
                f"{path}: the policy's action_space is {self.model.action_space}, but the "
                f"environment's is {own.own if own else env.action_space}: train one for this "
                "environment"
            )
        self._stack = Stack(num_stacked) if num_stacked > 1 else None
        self._sampler = Sampler(self.model)
        self.reset(seed=seed)

    def reset(self, *, seed: int | None = None) -> None:
        """As `FramePolicy.reset`."""
        if self._stack is not None:
            self._stack.clear()
        if seed is not None:
            self._sampler.reset(seed)

    def act(self, frame: np.ndarray, *, deterministic: bool = False) -> np.ndarray:
        """The action for the environment as it is now."""
        seen = self._env.state()
        if self._stack is not None:
            seen = self._stack.with_newest(seen)
        action = self._sampler.action(seen, deterministic=deterministic)
        return action if self._own_actions is None else self._own_actions.from_own(action)


def times_stacked(seen: gymnasium.Space[Any], learned_from: gymnasium.Space[Any]) -> int | None:
    """How many observations in `seen` one in `learned_from` holds, side by side as in
    stable-baselines3's VecFrameStack; None: it is another kind of observation.

    Pictures may have their channels first, as stable-baselines3 puts them. The parts of a Dict are
    all stacked alike.
    """
    if seen == learned_from:
        return 1
    if isinstance(seen, Dict) and isinstance(learned_from, Dict):
        if seen.keys() != learned_from.keys():
            return None
        counts = {times_stacked(part, learned_from[name]) for name, part in seen.items()}
        return counts.pop() if len(counts) == 1 else None
    if not isinstance(seen, Box) or not isinstance(learned_from, Box):
        return None
    num_stacked = int(np.prod(learned_from.shape)) // max(1, int(np.prod(seen.shape)))
    if not seen.shape or num_stacked < 1:
        return None
    low, high = (np.repeat(end, num_stacked, axis=-1) for end in (seen.low, seen.high))
    layouts = [(low, high)]
    if len(seen.shape) == 3:  # pictures reach a policy with their channels first
        layouts.append((np.moveaxis(low, -1, 0), np.moveaxis(high, -1, 0)))
    fits = any(Box(*ends, dtype=seen.dtype.type) == learned_from for ends in layouts)
    return num_stacked if fits else None


def load_policy(
    path: Path, env: gymnasium.Env[Any, Any], *, trusted: bool, seed: int = 0
) -> "FramePolicy | StatePolicy":
    """The policy for an environment: on its state if it learned from that, else on its frames.

    Args:
        trusted: as of `load_ppo`.
        seed: of the actions drawn.

    Raises:
        UserError: the file is missing, is no policy, isn't trusted, or doesn't fit the environment.
    """
    state_space = getattr(env.unwrapped, "state_space", None)
    if state_space is not None:
        learned_from = load_ppo(path, trusted=trusted).observation_space
        learned_from_frames = times_stacked(env.observation_space, learned_from) is not None
        if not learned_from_frames or times_stacked(state_space, learned_from) is not None:
            return StatePolicy(path, env, trusted=trusted, seed=seed)
    policy = FramePolicy(path, trusted=trusted, seed=seed)
    policy.check_fits(env.observation_space, env.action_space)
    return policy


def load_ppo(path: Path, *, trusted: bool) -> PPO:
    """A model from a file. One that was loaded once may be loaded again, see `envs.trust`.

    Args:
        trusted: whether code in the file may run. stable-baselines3 keeps parts of a policy as
            pickles, which run what whoever made them likes.

    Raises:
        UserError: there is no such file, it is no policy or too large, or it isn't trusted.
    """
    if not path.exists():
        raise UserError(f"there is no policy file {path}")
    _check_parts(path)
    if trusted:
        remember(path)
    elif not is_remembered(path):
        raise UserError(
            f"{path} may run code of whoever made it: stable-baselines3's files carry pickles. If "
            "you trust it, say so with --trust (in Python trusted=True)"
        )
    try:
        return PPO.load(path, device="cpu")
    except Exception as error:  # whatever an unknown file makes the unpickler do
        raise UserError(f"{path} cannot be read as a PPO policy: {one_line(error)}") from error


def _check_parts(path: Path) -> None:
    """Looks at a policy file before anything of it is unpacked. Raises UserError."""
    no_policy = UserError(
        f"{path} is not a stable-baselines3 policy: a .zip written by PPO.save is needed"
    )
    if not path.is_file():  # a pipe may never end
        raise no_policy
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if not {"data", "policy.pth"} <= {part.filename for part in parts}:
                raise no_policy
            _check_sizes(path, parts)
            for part in parts:
                if part.filename.endswith(NETWORKS):
                    _check_network(path, archive, part)
                elif part.file_size > MOST_BYTES_OF_SETTINGS:
                    raise _too_large(path, part.filename, part.file_size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        raise no_policy from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {os_error(error)}") from None


def _check_network(path: Path, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    try:
        with archive.open(part) as file, zipfile.ZipFile(file) as network:
            _check_sizes(path, network.infolist())
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} cannot be read as a PPO policy: {part.filename}: {error}"
        ) from None


def _check_sizes(path: Path, parts: list[zipfile.ZipInfo]) -> None:
    """Raises UserError for a zip file that holds far more than it takes on the disk."""
    total = 0
    for part in parts:
        total += part.file_size
        if part.file_size > max(FREE_BYTES, MOST_RATIO * part.compress_size):
            raise _too_large(path, part.filename, part.file_size)
    if total > MOST_BYTES:
        raise _too_large(path, "all", total)


def _too_large(path: Path, name: str, num_bytes: int) -> UserError:
    return UserError(
        f"{path} would take {num_bytes / 2**20:,.0f} MiB unpacked ({name}), more than a policy of "
        "its size does: stable-baselines3 wrote no such file"
    )
