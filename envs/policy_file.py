"""Policies to ship with dreams: safetensors and JSON, with nothing in them that is unpickled.

A file holds the weights of stable-baselines3's CnnPolicy, its matrices and kernels as int8 with a
scale for each row; the header describes the world, see `PolicyHeader`.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box
from safetensors import SafetensorError
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import ActorCriticCnnPolicy

from envs.interface import flat_actions, space_of
from worldmodel.checkpoint import POLICY_FILE as POLICY_FILE
from worldmodel.errors import UserError, one_line, os_error
from worldmodel.interface.actions import ActionSpec
from worldmodel.storage.files import parse_json
from worldmodel.storage.parsed import parsed
from worldmodel.storage.tensors import (
    SCALE_SUFFIX,
    int8_rows,
    opened_tensors,
    read_weight,
    save_tensors,
)

CHANNELS = 3
MOST_STACKED = 16  # frames
SIDES = (36, 256)  # pixels; smaller ones are too small for the network
LARGEST = "features_extractor.linear.0.weight"
MOST_NUMBERS = 1024  # outputs of the network


@dataclass(frozen=True)
class PolicyHeader:
    """What a policy file says beside its weights, as JSON.

    Attributes:
        frames: height and width of the RGB frames that it sees.
        num_stacked: how many of the last frames it sees.
        actions: of the environment, as in a checkpoint's config.json.

    Raises:
        UserError: they are not those of a policy.
    """

    format: Literal["videogpt-dream policy 1"]
    frames: tuple[int, int]
    num_stacked: int
    actions: dict[str, Any]

    def __post_init__(self) -> None:
        low, high = SIDES
        if not low <= min(self.frames) <= max(self.frames) <= high:
            raise UserError(f"frames must be of {low} to {high} pixels, not {self.frames}")
        if not 1 <= self.num_stacked <= MOST_STACKED:
            raise UserError(f"num_stacked must be 1 to {MOST_STACKED}, not {self.num_stacked}")
        if ActionSpec.from_json(self.actions).vector_size > MOST_NUMBERS:
            raise UserError(f"actions have more than {MOST_NUMBERS} choices or numbers")


def save_policy(model: PPO | SAC, path: Path) -> None:
    """Write a model's policy whole or not at all.

    Raises:
        UserError: it isn't stable-baselines3's CnnPolicy of the default size, on RGB frames.
        OSError: the file can't be written; the old one stays.
    """
    seen = model.observation_space.shape or ()
    is_default = type(model.policy) is ActorCriticCnnPolicy and not model.policy_kwargs
    if not is_default or len(seen) != 3 or seen[0] % CHANNELS:
        raise UserError(
            "only stable-baselines3's CnnPolicy without policy_kwargs, on RGB frames, can be "
            f"shipped, not {type(model.policy).__name__} on {model.observation_space}"
        )
    header = PolicyHeader(
        "videogpt-dream policy 1",
        frames=(seen[1], seen[2]),
        num_stacked=seen[0] // CHANNELS,
        actions=flat_actions(model.action_space).spec.to_json(),
    )
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in model.policy.named_parameters():  # shared ones once
        weight = weight.detach().contiguous()
        tensors |= int8_rows(name, weight) if weight.ndim > 1 else {name: weight}
    save_tensors(path, tensors, {"policy": json.dumps(asdict(header))})


def is_policy_file(path: Path) -> bool:
    """Whether a file is meant to be one of these, by its name or, where it was copied, its first
    bytes."""
    if path.suffix == ".safetensors" or not path.is_file():  # a pipe may never end
        return path.suffix == ".safetensors"
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(9)[8:] == b"{"
    return False


def read_policy(path: Path) -> ActorCriticCnnPolicy:
    """Read a policy; its sizes are checked before a network of them is made.

    Raises:
        UserError: the file is missing, can't be read, is damaged, or of something else.
    """
    if not path.is_file():
        raise UserError(f"there is no policy file {path}")
    try:
        with opened_tensors(path) as file:
            header = _header(path, file)
            names = {name for name in file.keys() if not name.endswith(SCALE_SUFFIX)}  # noqa: SIM118
            policy = _new_policy(header)
            if odd := names ^ {name for name, _ in policy.named_parameters()}:
                raise UserError(f"{path} is not a policy file: see {one_line(min(odd), most=80)}")
            with torch.no_grad():
                for name, parameter in policy.named_parameters():
                    parameter.copy_(read_weight(path, file, name, parameter))
    except SafetensorError as error:
        raise UserError(f"{path} is not a policy file: {one_line(error)}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {os_error(error)}") from None
    policy.set_training_mode(False)
    return policy


def _header(path: Path, file: Any) -> PolicyHeader:
    """The header, once the file holds as many weights as it asks for."""
    try:
        header = parsed(PolicyHeader, parse_json((file.metadata() or {}).get("policy", "null")))
    except (UserError, ValueError) as error:
        raise UserError(f"{path} is not a policy file: {one_line(error)}") from None
    sides = [((((side - 8) // 4 + 1) - 4) // 2 + 1) - 2 for side in header.frames]
    largest = [512, 64 * sides[0] * sides[1]]  # of the CNN of Mnih et al. 2015
    found = file.get_slice(LARGEST).get_shape()
    if found != largest:
        raise UserError(f"{path}: {LARGEST} has shape {found}, its frames need {largest}")
    return header


def _new_policy(header: PolicyHeader) -> ActorCriticCnnPolicy:
    seen = (CHANNELS * header.num_stacked, *header.frames)  # as stable-baselines3 orders them
    with torch.random.fork_rng(devices=[]):  # its first weights are replaced
        return ActorCriticCnnPolicy(
            Box(0, 255, seen, np.uint8),
            space_of(ActionSpec.from_json(header.actions)),
            lr_schedule=lambda _: 0.0,
            ortho_init=False,
        )
