"""A stable-baselines3 policy as something that looks and picks actions."""

import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO


class PolicyFileError(ValueError):
    """A policy file is missing, is no policy, or does not fit the environment."""


class FramePolicy:
    """A PPO policy on the last few frames of an environment, real or dreamed.

    The number of stacked frames is read off the policy: its observations have
    `3 * num_stacked` channels. A policy file is stable-baselines3's own format, which can
    carry code: load only files you trust.

    Args:
        path: a .zip written by stable-baselines3's `PPO.save`.
        seed: of the actions drawn. The generator is this policy's own: torch's global one is
            left as it is.

    Raises:
        PolicyFileError: the file is missing or is no such .zip.
    """

    def __init__(self, path: str | Path, *, seed: int = 0) -> None:
        self.path = Path(path)
        self.model = _load(self.path)
        channels_first = self.model.observation_space.shape  # (3 * num_stacked, H, W)
        if channels_first is None or len(channels_first) != 3 or min(channels_first) % 3:
            raise PolicyFileError(
                f"{path}: the policy looks at {self.model.observation_space}, not at RGB frames, "
                "which are all that there is to see here"
            )
        self.num_stacked = min(channels_first) // 3
        self._frames: deque[np.ndarray] = deque(maxlen=self.num_stacked)
        self.reset(seed=seed)

    def reset(self, *, seed: int | None = None) -> None:
        """Forget the frames seen: call it when an episode starts.

        Args:
            seed: of the actions drawn from now on; None goes on with the same generator.
        """
        self._frames.clear()
        if seed is not None:
            self._generator_state = torch.Generator().manual_seed(seed).get_state()

    def act(self, frame: np.ndarray, *, deterministic: bool = False) -> np.ndarray:
        """The action for the newest frame, uint8 (H, W, 3).

        Frames before an episode's first are black, as in stable-baselines3's VecFrameStack.
        """
        while len(self._frames) < self.num_stacked - 1:
            self._frames.append(np.zeros_like(frame))
        self._frames.append(frame)
        stacked = np.concatenate(self._frames, axis=-1)
        # stable-baselines3 samples with torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._generator_state)
            action, _ = self.model.predict(stacked, deterministic=deterministic)
            self._generator_state = torch.get_rng_state()
        return action

    def check_fits(
        self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> None:
        """Raises PolicyFileError unless the policy can act in an environment of these spaces."""
        height, width, channels = observation_space.shape or (0, 0, 0)
        expected = (channels * self.num_stacked, height, width)
        if self.model.observation_space.shape != expected:
            raise PolicyFileError(
                f"{self.path}: the policy looks at frames of shape "
                f"{self.model.observation_space.shape} (channels first), but the environment "
                f"gives {observation_space.shape}: train one for this environment"
            )
        if self.model.action_space != action_space:
            raise PolicyFileError(
                f"{self.path}: the policy acts in {self.model.action_space}, but the environment "
                f"takes {action_space}: train one for this environment"
            )


class StateObservation(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """An environment's `state()` in place of its picture."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        size = env.unwrapped.state_size  # pyright: ignore[reportAttributeAccessIssue]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        return self.env.unwrapped.state()  # pyright: ignore[reportAttributeAccessIssue]


class StatePolicy:
    """A PPO policy on the `state()` of one environment; frames are passed over.

    Args:
        path: a .zip written by stable-baselines3's `PPO.save`; load only files you trust.
        env: the environment whose state is looked at, while it is played.
        seed: of the actions drawn.

    Raises:
        PolicyFileError: the file is missing, is no such .zip, or is for another environment.
    """

    num_stacked = 1  # frames passed over at a time: the newest

    def __init__(self, path: str | Path, env: gymnasium.Env[Any, Any], *, seed: int = 0) -> None:
        self.model = _load(Path(path))
        self._looked_at = StateObservation(env)
        for what in ("observation_space", "action_space"):
            expected, found = getattr(self.model, what), getattr(self._looked_at, what)
            if expected != found:
                raise PolicyFileError(
                    f"{path}: the policy's {what} is {expected}, but the environment's is "
                    f"{found}: train one for this environment"
                )
        self.reset(seed=seed)

    def reset(self, *, seed: int | None = None) -> None:
        """As `FramePolicy.reset`."""
        if seed is not None:
            self._generator_state = torch.Generator().manual_seed(seed).get_state()

    def act(self, frame: np.ndarray, *, deterministic: bool = False) -> np.ndarray:
        """The action for the environment as it is now."""
        state = self._looked_at.observation(frame)
        with torch.random.fork_rng(devices=[]):  # see FramePolicy.act
            torch.set_rng_state(self._generator_state)
            action, _ = self.model.predict(state, deterministic=deterministic)
            self._generator_state = torch.get_rng_state()
        return action


def load_policy(
    path: Path, env: gymnasium.Env[Any, Any], *, seed: int = 0
) -> "FramePolicy | StatePolicy":
    """The policy for an environment: on its state if it has one, else on its frames.

    Raises:
        PolicyFileError: the file is missing, is no policy, or doesn't fit the environment.
    """
    if hasattr(env.unwrapped, "state_size"):
        return StatePolicy(path, env, seed=seed)
    policy = FramePolicy(path, seed=seed)
    policy.check_fits(env.observation_space, env.action_space)
    return policy


def _load(path: Path) -> PPO:
    if not path.exists():
        raise PolicyFileError(f"there is no policy file {path}")
    # Looked at before anything is unpickled.
    members = set(zipfile.ZipFile(path).namelist()) if zipfile.is_zipfile(path) else set()
    if not {"data", "policy.pth"} <= members:
        raise PolicyFileError(
            f"{path} is not a stable-baselines3 policy: a .zip written by PPO.save is needed"
        )
    try:
        return PPO.load(path, device="cpu")
    except Exception as error:  # whatever an unknown file makes the unpickler do
        raise PolicyFileError(f"{path} cannot be read as a PPO policy: {error}") from error
