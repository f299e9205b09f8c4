"""Ship a policy with a dream: python -m collect.ship_policy POLICY.zip CHECKPOINT

Writes CHECKPOINT/policy.safetensors, to which `python -m play` hands over at m. A policy that sees
the state of its environment has no place in a dream: a policy of frames first learns to imitate it
in the real environment. If interrupted, rerun the same command to resume.
"""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import tyro
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from collect.cloning import clone_bot
from collect.policies import stacked_frames
from envs.dream import DreamEnv
from envs.making import made
from envs.policy import FramePolicy, StatePolicy, load_policy, load_sb3
from envs.policy_file import POLICY_FILE, save_policy
from worldmodel.command import parse_options, progress_bar, run_command, say
from worldmodel.errors import UserError, printable
from worldmodel.storage.files import file_digest, locked, refuse_existing, written_whole


@dataclass(frozen=True)
class ShipPolicy:
    """Ship a policy with a dream."""

    policy: tyro.conf.Positional[Path]
    """A stable-baselines3 PPO policy of the real environment (.zip): a CnnPolicy on frames, or a
    policy on the state."""
    checkpoint: tyro.conf.Positional[str]
    """A dream: a shipped name, or a folder."""
    work: Path = Path("runs/imitation")
    """Folder for unfinished work while a policy of frames imitates one of states."""
    seed: int = 0
    """Seed of imitation."""
    trust: bool = False
    """Load a policy file that was not made on this machine: such a file can contain code."""
    overwrite: bool = False
    """Replace a policy that the dream already has."""


def main() -> None:
    options = parse_options(ShipPolicy, "collect.ship_policy", __doc__)
    run_command(lambda: ship_policy(options))


def ship_policy(options: ShipPolicy) -> None:
    """Run the command.

    Raises:
        UserError: the policy or the dream is missing or damaged, they are of different worlds, or
            the dream has a policy already.
    """
    dream = DreamEnv(options.checkpoint)
    path = dream.folder / POLICY_FILE
    refuse_existing(path, overwrite=options.overwrite)
    if not os.access(dream.folder, os.W_OK):  # before an hour of imitation
        raise UserError(f"{dream.folder} can't be written to: copy the dream to a folder of yours")
    env_id, env_kwargs = dream.recorded_env()
    with contextlib.closing(made(env_id, **env_kwargs)) as real:
        policy = load_policy(options.policy, real, trusted=options.trust)
    model = policy.model
    if isinstance(policy, StatePolicy):
        model = _imitate(options, env_id, env_kwargs)
    with written_whole(path) as unfinished:
        if isinstance(model, BasePolicy):  # of a file of this kind already
            shutil.copyfile(options.policy, unfinished)
        else:
            save_policy(model, unfinished)
        written = FramePolicy(unfinished, trusted=False)
        written.check_fits(dream.observation_space, dream.action_space)
    print(printable(f"{path}: {path.stat().st_size / 1000:.0f} kB"))


def _imitate(options: ShipPolicy, env_id: str, env_kwargs: dict[str, Any]) -> PPO | SAC:
    """A policy of frames that does what a policy of states does in the real environment."""
    teacher = file_digest(options.policy)
    task = json.dumps([teacher, env_id, env_kwargs, options.seed], sort_keys=True)
    folder = options.work / hashlib.sha256(task.encode()).hexdigest()[:16]
    with locked(folder):
        if (folder / "policy.zip").exists():  # an earlier call was stopped after this
            return load_sb3(folder / "policy.zip", trusted=False)
        return _imitated(options, folder / "policy.zip", env_id, env_kwargs)


def _imitated(options: ShipPolicy, path: Path, env_id: str, env_kwargs: dict[str, Any]) -> PPO:
    def make_env() -> gymnasium.Env[Any, Any]:
        return made(env_id, **env_kwargs)

    def teacher(env: gymnasium.Env[Any, Any]) -> StatePolicy:
        return StatePolicy(options.policy, env, trusted=False)

    environments = stacked_frames(DummyVecEnv([make_env]))
    model = PPO("CnnPolicy", environments, seed=options.seed, device="cpu")
    environments.close()
    say(f"a policy of frames imitates {options.policy} in {env_id}, about an hour on one core")
    with progress_bar() as bar:
        task = bar.add_task("imitation", total=1.0)
        clone_bot(
            model,
            make_env,
            teacher,
            path,
            seed=options.seed,
            on_progress=lambda fraction: bar.update(task, completed=fraction),
        )
    return model


if __name__ == "__main__":
    main()
