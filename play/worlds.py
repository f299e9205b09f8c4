"""Find what to play: real games and shipped dreams by name, folders, and Hub ids."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

import envs
from envs.making import made
from worldmodel.errors import UserError
from worldmodel.interface.sampling import SamplingOptions

if TYPE_CHECKING:
    from envs.recording import RecordEpisodes
    from play.pilot import Policy

# People need more time: the bin's own episodes of 30 steps last 2.4 seconds.
ARGUMENTS: dict[str, dict[str, Any]] = {"RobotPushing-v0": {"length": 10_000}}
DREAM_ID = "VideoGPTDream-v0"
HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w.-]{1,96}")


@dataclass(frozen=True)
class UnopenedWorld:
    """An environment to play in, not yet opened.

    Attributes:
        env_id: its Gymnasium id.
        checkpoint: a dream's shipped name, folder or Hub id; None for a real game.
        sampling: changes to a dream's own sampling.
    """

    env_id: str
    checkpoint: str | None = None
    sampling: SamplingOptions = SamplingOptions()

    @property
    def is_dream(self) -> bool:
        return self.checkpoint is not None

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """What it is made with, beside a dream's horizon."""
        if self.checkpoint is None:
            return ARGUMENTS.get(self.env_id, {})
        return {"checkpoint": self.checkpoint, **self.sampling.given}

    def open(self, tell: Callable[[str], None]) -> gymnasium.Env:
        """Load it; a dream takes seconds.

        Args:
            tell: called with a message for the player if it takes longer.

        Raises:
            UserError: the checkpoint can't be loaded, or the real game can't be made here.
        """
        if self.checkpoint is None:
            return made(self.env_id, **self.env_kwargs)
        from envs.dream_world import compile_once  # slow: imports torch

        compile_once(tell)
        return made(self.env_id, horizon=None, **self.env_kwargs)

    def recorded(self, env: gymnasium.Env, folder: Path) -> "RecordEpisodes":
        """The opened environment, whose episodes are recorded in a folder.

        Raises:
            UserError: the folder holds other episodes or is in use.
        """
        from envs.recording import RecordEpisodes  # slow: imports the data's format

        return RecordEpisodes(env, folder, env_id=self.env_id, env_kwargs=self.env_kwargs)


def is_local(name: str) -> bool:
    """Whether a dream can be opened without a download."""
    return name in envs.shipped_names() or os.path.isdir(name)


def choose_world(name: str, sampling: SamplingOptions = SamplingOptions()) -> UnopenedWorld:
    """Find the world called `name`, without loading it.

    Raises:
        UserError: there is no such world, or it is a real game and has no sampling options.
    """
    if name in envs.REAL_WORLDS:
        for option in sampling.given:
            raise UserError(f"{name} is a real game: --{option.replace('_', '-')} is for dreams")
        return UnopenedWorld(envs.REAL_WORLDS[name])
    if is_local(name) or HUB_ID.fullmatch(name):
        return UnopenedWorld(DREAM_ID, name, sampling)
    known = ", ".join([*envs.REAL_WORLDS, *envs.shipped_names()])
    raise UserError(
        f"unknown --env {name!r}; known are: {known}, the folder of a checkpoint that "
        "python -m worldmodel.train made, or a Hugging Face Hub id (owner/name)"
    )


def load_policy(path: Path, env: gymnasium.Env, *, trusted: bool, seed: int) -> "Policy":
    """Load a policy for an environment.

    Args:
        path: a .zip of stable-baselines3, or a .safetensors as ships with dreams.
        trusted: whether code in the file may run, see --trust.
        seed: of the sampled actions.

    Raises:
        UserError: the file is missing, isn't a PPO policy, isn't trusted, or was made for other
            observations or actions.
    """
    from envs import policy  # slow: imports stable-baselines3

    try:
        return policy.load_policy(path, env, trusted=trusted, seed=seed)
    except UserError as error:
        raise UserError(f"--policy: {error}") from error


def load_shipped_policy(env: gymnasium.Env, *, seed: int) -> "Policy | None":
    """Load the policy that ships with a dream, or with a real game's dream; None: there is none.

    Args:
        seed: of the sampled actions.

    Raises:
        UserError: it is damaged, or for another world.
    """
    from envs import policy  # slow: imports stable-baselines3

    path = policy.shipped_policy(env)
    return None if path is None else policy.load_policy(path, env, trusted=False, seed=seed)
