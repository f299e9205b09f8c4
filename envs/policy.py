"""Load stable-baselines3 policies, and act with them.

A policy file can contain code, which runs when it is loaded. So every function that loads one has
an argument `trusted`.
"""

import json
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import BasePolicy

from envs.policy_file import POLICY_FILE, is_policy_file, read_policy
from envs.threads import one_thread
from envs.trust import is_remembered, remember
from worldmodel import randomness
from worldmodel.checkpoint import read_world
from worldmodel.errors import UserError, one_line, os_error
from worldmodel.pretrained import PRETRAINED, shipped_names

# Of a policy file, unpacked. A network of 100 million weights and its optimiser take 1.2 GB.
MOST_BYTES = 2 * 2**30
MOST_BYTES_OF_SETTINGS = 64 * 2**20  # everything except networks
# Largest compression ratio of a part. stable-baselines3 doesn't compress.
MOST_RATIO = 20
# Settings that only learning needs. They may be functions of a module that is not here.
FOR_LEARNING = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
FREE_BYTES = 2**20  # smaller parts may have any ratio
NETWORKS = (".pth", ".pt")  # zip files themselves


class Stack:
    """The last few observations concatenated along the last axis, like stable-baselines3's
    VecFrameStack: zeros before an episode's first. The parts of a Dict are stacked separately."""

    def __init__(self, num_stacked: int) -> None:
        self._last: deque[Any] = deque(maxlen=num_stacked)

    def clear(self) -> None:
        self._last.clear()

    def with_newest(self, observation: Any) -> Any:
        """Add an observation, an array or a dict of arrays, and return the stack."""
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
    """Samples a model's actions from stacked observations, with its own random generator."""

    def __init__(self, model: PPO | SAC | BasePolicy, num_stacked: int, seed: int) -> None:
        self._model = model
        self._stack = Stack(num_stacked) if num_stacked > 1 else None
        self.reset(seed)

    def reset(self, seed: int | None) -> None:
        if self._stack is not None:
            self._stack.clear()
        if seed is not None:
            self._state = randomness.torch_generator(seed, "policy actions").get_state()

    @one_thread()
    def action(self, observation: Any, *, deterministic: bool) -> np.ndarray:
        if self._stack is not None:
            observation = self._stack.with_newest(observation)
        # stable-baselines3 samples with torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            action, _ = self._model.predict(observation, deterministic=deterministic)
            self._state = torch.get_rng_state()
        return action


class FramePolicy:
    """A policy on the last few frames of an environment, real or dreamed.

    Its observations have `3 * num_stacked` channels; frames before an episode's first are black.

    Args:
        path: a .zip written by stable-baselines3's `PPO.save` or `SAC.save`, or a .safetensors
            written by `envs.policy_file.save_policy`.
        trusted: as for `load_sb3`; a .safetensors needs no trust.
        seed: of the sampled actions. torch's global generator is left unchanged.

    Raises:
        UserError: the file is missing, is not such a .zip, or isn't trusted.
    """

    def __init__(self, path: str | Path, *, trusted: bool, seed: int = 0) -> None:
        self.path = Path(path)
        self.model = _load_model(self.path, trusted=trusted)
        channels_first = self.model.observation_space.shape  # (3 * num_stacked, H, W)
        if channels_first is None or len(channels_first) != 3 or min(channels_first) % 3:
            raise UserError(
                f"{path}: the policy observes {self.model.observation_space}, but here it can only "
                "observe RGB frames"
            )
        self.num_stacked = min(channels_first) // 3
        self._sampler = Sampler(self.model, self.num_stacked, seed)

    def reset(self, *, seed: int | None = None) -> None:
        """Start an episode.

        Args:
            seed: of the actions sampled from now on; None continues with the same generator.
        """
        self._sampler.reset(seed)

    def act(self, frame: np.ndarray, *, deterministic: bool = False) -> np.ndarray:
        """The action for the newest frame, uint8 (H, W, 3)."""
        return self._sampler.action(frame, deterministic=deterministic)

    def check_fits(
        self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> None:
        """Raises UserError unless the policy can act in an environment of these spaces."""
        height, width, channels = observation_space.shape or (0, 0, 0)
        expected = (channels * self.num_stacked, height, width)
        if self.model.observation_space.shape != expected:
            raise UserError(
                f"{self.path}: the policy observes frames of shape "
                f"{self.model.observation_space.shape} (channels first), but the environment "
                f"gives {observation_space.shape}: train one for this environment"
            )
        if self.model.action_space != action_space:
            raise UserError(
                f"{self.path}: the policy acts in {self.model.action_space}, but the environment "
                f"takes {action_space}: train one for this environment"
            )


class StateObservation(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """An environment that observes its `state()` instead of a frame."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = env.unwrapped.state_space  # pyright: ignore[reportAttributeAccessIssue]

    def observation(self, observation: Any) -> Any:
        return self.env.unwrapped.state()  # pyright: ignore[reportAttributeAccessIssue]


class StatePolicy:
    """A policy on the last few states (`state()`) of an environment; it ignores frames.

    If the environment has `own_actions` (an `envs.interface.FlatActions`), the policy may act in
    these.

    Args:
        path: a .zip written by stable-baselines3's `PPO.save` or `SAC.save`.
        env: the environment that it plays in.
        trusted: as for `load_sb3`.
        seed: of the sampled actions.

    Raises:
        UserError: the file is missing, is not such a .zip, isn't trusted, or is for another
            environment.
    """

    num_stacked = 1  # it sees states: there are no frames to replay to it

    def __init__(
        self, path: str | Path, env: gymnasium.Env[Any, Any], *, trusted: bool, seed: int = 0
    ) -> None:
        self.model = load_sb3(Path(path), trusted=trusted)
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
        self._sampler = Sampler(self.model, num_stacked, seed)

    def reset(self, *, seed: int | None = None) -> None:
        """As `FramePolicy.reset`."""
        self._sampler.reset(seed)

    def act(self, frame: np.ndarray, *, deterministic: bool = False) -> np.ndarray:
        """The action for the environment's current state."""
        action = self._sampler.action(self._env.state(), deterministic=deterministic)
        return action if self._own_actions is None else self._own_actions.from_own(action)


def times_stacked(seen: gymnasium.Space[Any], learned_from: gymnasium.Space[Any]) -> int | None:
    """How many observations of `seen` are stacked in one of `learned_from`, as by
    stable-baselines3's VecFrameStack; None: it is another kind of observation.

    Images may have their channels first, as in stable-baselines3. All parts of a Dict have the same
    number.
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
    if len(seen.shape) == 3:  # stable-baselines3 moves the channels of images first
        layouts.append((np.moveaxis(low, -1, 0), np.moveaxis(high, -1, 0)))
    fits = any(Box(*ends, dtype=seen.dtype.type) == learned_from for ends in layouts)
    return num_stacked if fits else None


def load_policy(
    path: Path, env: gymnasium.Env[Any, Any], *, trusted: bool, seed: int = 0
) -> FramePolicy | StatePolicy:
    """Load a policy for an environment: on its state if it learned from that, else on its frames.

    Args:
        path: as for `FramePolicy`.
        trusted: as for `load_sb3`.
        seed: of the sampled actions.

    Raises:
        UserError: the file is missing, isn't a policy, isn't trusted, or doesn't fit the
            environment.
    """
    state_space = getattr(env.unwrapped, "state_space", None)
    if state_space is not None:
        learned_from = _load_model(path, trusted=trusted).observation_space
        learned_from_frames = times_stacked(env.observation_space, learned_from) is not None
        if not learned_from_frames or times_stacked(state_space, learned_from) is not None:
            return StatePolicy(path, env, trusted=trusted, seed=seed)
    policy = FramePolicy(path, trusted=trusted, seed=seed)
    policy.check_fits(env.observation_space, env.action_space)
    return policy


def shipped_policy(env: gymnasium.Env[Any, Any]) -> Path | None:
    """The policy that ships with a dream, or with a dream of this real game; None: there is none.

    A real game has that of the shipped dream that was recorded in it.
    """
    folder: Path | None = getattr(env.unwrapped, "folder", None)
    if folder is None and env.spec is not None:
        of_it = (name for name in shipped_names() if read_world(name).env_id == env.spec.id)
        folder = next((PRETRAINED / name for name in of_it), None)
    path = None if folder is None else folder / POLICY_FILE
    return path if path is not None and path.is_file() else None


def _load_model(path: Path, *, trusted: bool) -> PPO | SAC | BasePolicy:
    return read_policy(path) if is_policy_file(path) else load_sb3(path, trusted=trusted)


def load_sb3(path: Path, *, trusted: bool) -> PPO | SAC:
    """Load a model of PPO or SAC. What was trusted once may be loaded again, see `envs.trust`.

    Args:
        trusted: whether code in the file may run. stable-baselines3 stores parts of a policy as
            pickles, which can run any code.

    Raises:
        UserError: there is no such file, it isn't a policy or is too large, or it isn't trusted.
    """
    if not path.exists():
        raise UserError(f"there is no policy file {path}")
    _check_parts(path)
    if trusted:
        remember(path)
    elif not is_remembered(path):
        raise UserError(
            f"{path} may contain code that runs when it is loaded (stable-baselines3's files "
            "contain pickles). If you trust it, use --trust (in Python trusted=True)"
        )
    try:
        return _algorithm(path).load(path, device="cpu", custom_objects=dict(FOR_LEARNING))
    except Exception as error:  # the unpickler may raise anything
        raise UserError(f"{path} cannot be read as a policy: {one_line(error)}") from error


def _algorithm(path: Path) -> type[PPO] | type[SAC]:
    """The class that a file was saved by; files don't say."""
    with zipfile.ZipFile(path) as archive:
        settings = json.loads(archive.read("data"))
    return SAC if "target_entropy" in settings else PPO


def _check_parts(path: Path) -> None:
    """Check the sizes of a policy file before it is unpacked. Raises UserError."""
    no_policy = UserError(
        f"{path} is not a stable-baselines3 policy: a .zip written by PPO.save or SAC.save is "
        "needed"
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
        raise UserError(f"{path} cannot be read as a policy: {part.filename}: {error}") from None


def _check_sizes(path: Path, parts: list[zipfile.ZipInfo]) -> None:
    """Raises UserError for a zip file that is far larger unpacked than on disk."""
    total = 0
    for part in parts:
        total += part.file_size
        if part.file_size > max(FREE_BYTES, MOST_RATIO * part.compress_size):
            raise _too_large(path, part.filename, part.file_size)
    if total > MOST_BYTES:
        raise _too_large(path, "all", total)


def _too_large(path: Path, name: str, num_bytes: int) -> UserError:
    return UserError(
        f"{path} would take {num_bytes / 2**20:,.0f} MiB unpacked ({name}), too much for a policy "
        "of stable-baselines3"
    )
