"""Policies that ship with dreams: what they do, what is refused, who finds them."""

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO

from collect import cloning
from collect.ship_policy import ShipPolicy, ship_policy
from envs.policy import FramePolicy, StateObservation, load_policy, shipped_policy
from envs.policy_file import POLICY_FILE, read_policy, save_policy
from play.command import PlayOptions, run
from worldmodel.errors import UserError
from worldmodel.pretrained import PRETRAINED, shipped_names
from worldmodel.ship import Ship, ship

SPACES = (
    Discrete(4),
    MultiDiscrete([3, 3, 2]),
    Box(np.asarray([-1, 0], np.float32), np.asarray([1, 2], np.float32)),
)


class Frames(gymnasium.Env):
    """Frames of nothing, with given actions."""

    def __init__(self, actions: gymnasium.Space, size: tuple[int, int]) -> None:
        self.observation_space = Box(0, 255, (6, *size), np.uint8)
        self.action_space = actions

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def model_of(
    actions: gymnasium.Space = SPACES[0],
    policy: str = "CnnPolicy",
    size: tuple[int, int] = (40, 48),
    **settings: Any,
) -> PPO:
    """A model as training makes them: biases are not zero, and actions differ by frame."""
    env = Frames(actions, size)
    model = PPO(policy, env, seed=0, device="cpu", n_steps=2, batch_size=2, **settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def test_reading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    save_policy(model_of(), tmp_path / POLICY_FILE)
    before = torch.get_rng_state()
    read_policy(tmp_path / POLICY_FILE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("actions", SPACES)
def test_a_policy_does_the_same_when_it_is_read(actions: gymnasium.Space, tmp_path: Path) -> None:
    model = model_of(actions)
    save_policy(model, tmp_path / POLICY_FILE)
    read = read_policy(tmp_path / POLICY_FILE)
    assert read.observation_space == model.observation_space
    assert read.action_space == actions
    frames = torch.randint(0, 256, (64, 6, 40, 48), dtype=torch.uint8)
    with torch.no_grad():
        wanted, found = model.policy.get_distribution(frames), read.get_distribution(frames)
        chosen = wanted.get_actions(deterministic=True)
        np.testing.assert_allclose(wanted.log_prob(chosen), found.log_prob(chosen), atol=0.03)
    # For each weight one byte, and some for scales and biases.
    num_weights = sum(parameter.numel() for parameter in model.policy.parameters())
    assert (tmp_path / POLICY_FILE).stat().st_size < 1.1 * num_weights


def test_only_policies_of_frames_are_written(tmp_path: Path) -> None:
    path = tmp_path / POLICY_FILE
    with pytest.raises(UserError, match=r"only stable-baselines3's CnnPolicy .*ActorCriticPolicy"):
        save_policy(model_of(policy="MlpPolicy"), path)
    with pytest.raises(UserError, match="without policy_kwargs"):
        save_policy(model_of(policy_kwargs={"net_arch": [8]}), path)
    assert not path.exists()


def header_of(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["policy"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": [100_000, 100_000]}, "frames must be of 36 to 256 pixels"),
        ({"frames": [40]}, "frames"),
        ({"num_stacked": 1_000_000}, "num_stacked must be 1 to 16"),
        ({"num_stacked": 3}, r"cnn.0.weight has shape"),
        ({"frames": [256, 256]}, r"linear.0.weight has shape .*, its frames need"),
        ({"actions": {"kind": "discrete", "sizes": [50_000]}}, "more than 1024"),
        ({"actions": {"kind": "discrete", "sizes": [5]}}, r"action_net.weight has shape"),
        ({"actions": {"kind": "swim"}}, "kind"),
        ({"format": "videogpt-dream policy 2"}, "format"),
    ],
)
def test_a_changed_header_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / POLICY_FILE
    save_policy(model_of(), path)
    header = {"policy": json.dumps(header_of(path) | changes)}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(UserError, match=message):
        read_policy(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / POLICY_FILE
    with pytest.raises(UserError, match="there is no policy file"):
        read_policy(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a policy file"):
        read_policy(path)
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(UserError, match="is not a policy file"):
        read_policy(path)
    shutil.copy(PRETRAINED / "dream-doom" / "starts.safetensors", path)
    with pytest.raises(UserError, match="is not a policy file"):
        read_policy(path)
    save_policy(model_of(), path)
    tensors, header = load_file(path), {"policy": json.dumps(header_of(path))}
    for name, tensor, message in (
        ("action_net.bias", torch.full((4,), torch.nan), "not finite"),
        ("action_net.weight.row_scale", torch.ones(2, 1), "one scale a row"),
    ):
        save_file(tensors | {name: tensor}, path, metadata=header)
        with pytest.raises(UserError, match=message):
            read_policy(path)
    save_file(tensors | {"more": torch.zeros(1)}, path, metadata=header)
    with pytest.raises(UserError, match="is not a policy file: see more"):
        read_policy(path)
    del tensors["value_net.bias"]
    save_file(tensors, path, metadata=header)
    with pytest.raises(UserError, match="is not a policy file"):
        read_policy(path)


def test_a_policy_is_shipped_with_a_dream_and_plays_in_both_worlds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy_file = tmp_path / "policy.zip"
    model_of(size=(64, 64)).save(policy_file)
    dream = tmp_path / "dream"
    shutil.copytree(PRETRAINED / "dream-doom", dream)
    (dream / POLICY_FILE).unlink(missing_ok=True)
    ship_policy(ShipPolicy(policy_file, str(dream), trust=True))
    assert str(dream / POLICY_FILE) in capsys.readouterr().out
    with pytest.raises(UserError, match="exists already"):
        ship_policy(ShipPolicy(policy_file, str(dream), trust=True))
    content = (dream / POLICY_FILE).read_bytes()
    copied = ShipPolicy(dream / POLICY_FILE, str(dream), overwrite=True)
    ship_policy(copied)  # of a file that ships already
    assert (dream / POLICY_FILE).read_bytes() == content
    broken = tmp_path / "broken.safetensors"
    tensors, header = load_file(dream / POLICY_FILE), header_of(dream / POLICY_FILE)
    tensors["action_net.bias"] += torch.nan
    save_file(tensors, broken, metadata={"policy": json.dumps(header)})
    with pytest.raises(UserError, match="not finite"):
        ship_policy(replace(copied, policy=broken))
    assert (dream / POLICY_FILE).read_bytes() == content
    again = tmp_path / "again"
    ship(Ship(str(dream), again))
    assert (again / POLICY_FILE).read_bytes() == content
    (dream / POLICY_FILE).rename(tmp_path / "away")
    ship(Ship(str(dream), again, overwrite=True))
    assert (again / POLICY_FILE).read_bytes() == content  # of the same world: it stays
    capsys.readouterr()
    options = PlayOptions(env=str(again), headless=True, steps=3, seed=0)
    assert run(options, started_s=0.0) == 0
    assert "3 steps by a policy" in capsys.readouterr().out
    own = PlayOptions(
        env="doom-hgs", headless=True, steps=3, seed=0, policy=str(again / POLICY_FILE)
    )
    assert run(own, started_s=0.0) == 0
    assert "3 steps by a policy" in capsys.readouterr().out
    battle = PlayOptions(env="dream-battle2", headless=True, policy=str(again / POLICY_FILE))
    with pytest.raises(UserError, match="the policy acts in"):
        run(battle, started_s=0.0)


def test_a_policy_of_states_is_imitated_from_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloning, "NUM_ROUNDS", 2)
    monkeypatch.setattr(cloning, "STEPS_A_ROUND", 40)
    monkeypatch.setattr(cloning, "BATCHES_A_ROUND", 2)
    monkeypatch.setattr(cloning, "BATCH_SIZE", 8)
    smallest = gymnasium.make("RobotPushing-v0", renderer="rays", obs_size=1)
    states = PPO("MlpPolicy", StateObservation(smallest), n_steps=2, batch_size=2)
    states.save(tmp_path / "states.zip")
    dream = tmp_path / "dream"
    shutil.copytree(PRETRAINED / "dream-pushing", dream)
    (dream / POLICY_FILE).unlink(missing_ok=True)
    work = tmp_path / "work"
    ship_policy(ShipPolicy(tmp_path / "states.zip", str(dream), work=work, trust=True))
    env = gymnasium.make("RobotPushing-v0", renderer="rays")
    policy = load_policy(dream / POLICY_FILE, env, trusted=False)
    assert isinstance(policy, FramePolicy)
    frame, _ = env.reset(seed=0)
    assert env.action_space.contains(policy.act(frame))
    assert len(list(work.glob("*/policy.zip"))) == 1


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_dream_has_a_policy_for_both_worlds(name: str) -> None:
    dream = gymnasium.make("VideoGPTDream-v0", checkpoint=name)
    path = PRETRAINED / name / POLICY_FILE
    assert shipped_policy(dream) == path
    policy = load_policy(path, dream, trusted=False)
    frame, _ = dream.reset(seed=0)
    assert dream.action_space.contains(policy.act(frame))
    env_id, _ = dream.unwrapped.recorded_env()  # pyright: ignore[reportAttributeAccessIssue]
    real = gymnasium.make(env_id)
    assert shipped_policy(real) == path
    policy.check_fits(real.observation_space, real.action_space)  # pyright: ignore[reportAttributeAccessIssue]
    real.close()
    assert path.stat().st_size < 700_000
