"""Pixels-v0: any environment's pictures and actions, and nothing else of it changed."""

import base64
import contextlib
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pygame
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import ClipAction, RescaleAction
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

import envs  # noqa: F401  registers the environments
from collect.recorder import RANDOM, Job, describe, play_episode
from envs.interface import action_spec, actions_of, controls_of, pose_of
from envs.making import made
from envs.pixels import PixelsEnv
from envs.policy import StatePolicy, load_policy, load_sb3
from envs.renderers import FOUND, PROBE
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.media.resize import area_resized


def make(env_id: str, **options: Any) -> Any:
    return gymnasium.make("Pixels-v0", env_id=env_id, **options)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "MountainCarContinuous-v0", "CliffWalking-v1", "toy_envs:Buttons-v0"]
)
def test_it_is_an_environment_to_gymnasium_and_stable_baselines3(env_id: str):
    env = make(env_id, size=48, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped, warn=False)
    frame, _ = env.reset(seed=0)
    assert frame.shape == (48, 48, 3)
    assert env.render().ndim == 3
    env.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCarContinuous-v0"])
def test_frames_rewards_and_ends_are_the_foreign_ones(env_id: str):
    env = make(env_id)
    foreign: Any = gymnasium.make(env_id, render_mode="rgb_array")
    frame, _ = env.reset(seed=3)
    foreign.reset(seed=3)
    env.action_space.seed(3)
    is_over = False
    for _ in range(40):
        np.testing.assert_array_equal(frame, area_resized(foreign.render(), (64, 64)))
        if is_over:
            break
        action = env.action_space.sample()
        frame, *rest = env.step(action)
        _, reward, terminated, truncated, _ = foreign.step(action)
        is_over = terminated or truncated
        assert rest == [pytest.approx(reward), terminated, truncated, {}]
    assert env.unwrapped.most_steps == foreign.spec.max_episode_steps
    env.close()
    foreign.close()


def test_frame_t_and_action_t_give_frame_t_plus_1():
    info = describe(
        "Pixels-v0", {"env_id": "toy_envs:Steered-v0", "size": 4, "variables": ["count"]}, {}
    )
    assert (info.frame_shape, info.variable_names, info.fps) == ((4, 4, 3), ("count",), 20)
    assert info.actions.meanings == ("one", "two", "three")
    env = make("toy_envs:Count-v0", size=4, variables=["count"])
    job = Job(0, env_seed=5, player_seed=7, behaviour=RANDOM, max_length=60)
    episode = play_episode(env, job, None)
    counts = np.cumsum([episode.frames[0, 0, 0, 0], *(episode.action + 1)])
    assert (episode.frames == counts[:, None, None, None]).all()
    assert episode.variables[:, 0].tolist() == [0, *counts[1:]]  # reset tells none
    assert episode.reward.tolist() == counts[:-1].tolist()
    assert set(episode.action.tolist()) == {0, 1, 2}


def test_an_action_is_repeated_and_rewards_are_added_up():
    env = make("toy_envs:Count-v0", frame_skip=3)
    frame, _ = env.reset(seed=0)
    before = int(frame[0, 0, 0])
    frame, reward, *_ = env.step(1)
    assert (frame == before + 6).all()
    assert reward == 3 * before + 2 + 4
    assert env.metadata["render_fps"] == pytest.approx(20 / 3)
    assert make("toy_envs:Short-v0", frame_skip=3).unwrapped.most_steps == 3
    env.reset(seed=0)
    is_over = False
    while not is_over:
        frame, _, is_over, _, _ = env.step(2)
    assert 200 <= frame[0, 0, 0] < 203  # not repeated behind the end
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(2)


def test_an_environment_may_write_over_what_it_is_given_and_shows():
    """An action is the same in every frame that it lasts; frames and states stay as they were."""
    env = make("toy_envs:Scaling-v0", frame_skip=4, variables=["moved"], size=40)
    frame, _ = env.reset(seed=0)
    before, state = int(frame[0, 0, 0]), env.unwrapped.state()
    action = np.array([0.8, 0.1], np.float32)
    later, _, _, _, info = env.step(action)
    assert info["moved"] == pytest.approx(4 * 0.8)
    assert action.tolist() == np.array([0.8, 0.1], np.float32).tolist()
    assert (frame == before).all()
    assert (state == before).all()
    assert (later == before + 4).all()
    later[:] = 0
    env.unwrapped.state()[:] = 0
    assert (env.unwrapped.state() == before + 4).all()


def test_float64_is_taken_from_wrappers_as_well():
    rest = np.array([0.25, -0.5])
    moved = []
    for wrap in (
        lambda env: env,
        ClipAction,
        lambda env: RescaleAction(env, np.float32(-1), np.float32(1)),
    ):
        env = wrap(make("toy_envs:Scaling-v0", variables=["moved"]))
        env.reset(seed=0)
        moved.append(env.step(rest)[-1]["moved"])
    assert moved == [0.25] * 3
    env = make("toy_envs:Scaling-v0")
    env.reset(seed=0)
    for wrong in (np.array([1.1, 0]), np.array([np.nan, 0]), np.array([0])):
        with pytest.raises(UserError, match="outside the action space: 2 numbers"):
            env.step(wrong)
    steered = make("toy_envs:Count-v0")
    steered.reset(seed=0)
    with pytest.raises(UserError, match="outside the action space: 3 choices"):
        steered.step(np.float64(1))


def train_tiny(env: gymnasium.Env, path: Path, *, num_stacked: int = 1) -> Any:
    """A PPO as stable-baselines3 makes it by itself, saved."""
    many: Any = DummyVecEnv([lambda: env])
    if num_stacked > 1:
        many = VecFrameStack(many, num_stacked)
    small = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = PPO("MultiInputPolicy", many, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=small)
    model.learn(8)
    model.save(path)
    return model


@pytest.mark.parametrize("num_stacked", [1, 3])
def test_a_policy_on_pictures_and_numbers_plays_what_it_was_trained_on(tmp_path, num_stacked):
    own = gymnasium.make("toy_envs:PictureAndPlace-v0")
    model = train_tiny(own, tmp_path / "p.zip", num_stacked=num_stacked)
    env = make("toy_envs:PictureAndPlace-v0")
    policy = load_policy(tmp_path / "p.zip", env, trusted=True)
    assert isinstance(policy, StatePolicy)
    frame, _ = env.reset(seed=0)
    many: Any = DummyVecEnv([lambda: own])
    many = VecFrameStack(many, num_stacked) if num_stacked > 1 else many
    seen = many.reset()
    for _ in range(6):
        expected, _ = model.predict(seen, deterministic=True)
        action = policy.act(frame, deterministic=True)
        assert action == expected[0]
        frame, *_ = env.step(action)
        seen, *_ = many.step(expected)


def test_a_policy_file_is_loaded_once_it_is_trusted(tmp_path):
    """Nothing in it runs before."""
    train_tiny(gymnasium.make("toy_envs:PictureAndPlace-v0"), tmp_path / "p.zip")
    marker = tmp_path / "it-ran"
    pickled = base64.b64encode(pickle.dumps(Touch(str(marker)))).decode()
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(tmp_path / "p.zip") as good, zipfile.ZipFile(hostile, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name == "data":
                data = json.loads(content)
                data["policy_class"] = {":type:": "x", ":serialized:": pickled}
                content = json.dumps(data).encode()
            bad.writestr(name, content)
    env = make("toy_envs:PictureAndPlace-v0")
    with pytest.raises(UserError, match=r"may contain code .*--trust"):
        load_policy(hostile, env, trusted=False)
    assert not marker.exists()
    load_policy(tmp_path / "p.zip", env, trusted=True)
    with contextlib.suppress(UserError):
        load_policy(hostile, env, trusted=True)
    assert marker.exists()  # it would have run


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path(self.path).touch, ()


@pytest.mark.parametrize("bomb", ["data", "policy.pth", "inside policy.pth", "another"])
def test_a_policy_file_that_unpacks_to_far_more_is_refused(tmp_path, bomb):
    """Before anything is unpacked: it would take a GiB."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as network:
        network.writestr("archive/data.pkl", b"x")
        if bomb == "inside policy.pth":
            with network.open("archive/data/0", "w") as part:
                fill(part)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data", "policy.pth", "another"):
            if name == bomb:
                with archive.open(name, "w") as part:
                    fill(part)
            else:
                archive.writestr(name, inner.getvalue() if name == "policy.pth" else "{}")
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="256 MiB unpacked"):
        load_sb3(path, trusted=True)


def fill(part: Any) -> None:
    for _ in range(256):
        part.write(bytes(2**20))


def test_a_pipe_is_no_policy(tmp_path):
    os.mkfifo(tmp_path / "p.zip")
    with pytest.raises(UserError, match="is not a stable-baselines3 policy"):
        load_sb3(tmp_path / "p.zip", trusted=True)


def test_buttons_become_choices_of_two_and_are_pressed_again():
    env = make("toy_envs:Buttons-v0", size=2)
    assert action_spec(env) == ActionSpec("multi_discrete", (2, 2, 2, 2))
    env.reset(seed=0)
    for action in ([1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]):
        frame, *_ = env.step(np.array(action))
        assert (frame == np.array(action) @ [1, 2, 4, 8]).all()


def test_an_environment_closed_beside_a_window_leaves_it_open():
    pygame.display.init()
    pygame.display.set_mode((8, 8))
    env = make("CartPole-v1")
    env.reset(seed=0)
    env.close()
    assert pygame.display.get_surface() is not None
    pygame.quit()
    assert not pygame.display.get_init()


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("Nope-v0", {}, "Environment `Nope` doesn't exist. .*name that too: module:Nope-v0"),
        ("no_such_module:Env-v0", {}, "No module named 'no_such_module'"),
        ("CartPole-v1", {"env_kwargs": {"colour": 1}}, "unexpected keyword argument 'colour'"),
        ("CartPole-v1", {"env_kwargs": {"render_mode": "human"}}, "can't contain render_mode"),
        ("CartPole-v1", {"source": "observation"}, "not an image: .* try --source render"),
        ("toy_envs:Blind-v0", {}, "has no images: .* no render mode rgb_array, only ansi"),
        ("toy_envs:Unbounded-v0", {}, "have no bounds: .* --action-limit"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_line(env_id: str, options: dict, message: str):
    with pytest.raises(UserError, match=message) as refused:
        make(env_id, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"lost": 2}, "info lacks 'x', which is part of the pose"),
        ({"grown": 2}, "an image is 41x60, but the first of its episode was 40x60"),
    ],
)
def test_what_an_environment_stops_telling_is_missed_in_its_step(fault: dict, message: str):
    env = make("toy_envs:Walking-v0", pose=("x", "y"), env_kwargs=fault)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(UserError, match=message):
        env.step(0)


def test_an_attribute_pose_says_what_it_should_be():
    wrapped = gymnasium.make("toy_envs:Walking-v0")
    wrapped.unwrapped.pose = np.zeros(2)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match=r'names? numbers in info, such as \{"position": \['):
        pose_of(wrapped)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"frame_skip": 0},
        {"frame_skip": 10**9},
        {"source": "screen"},
        {"action_limit": -1.0},
        {"render_mode": "human"},
    ],
)
def test_arguments_out_of_range_are_refused(options: dict):
    with pytest.raises(ValueError, match=next(iter(options))):
        PixelsEnv("toy_envs:Count-v0", **options)


def test_keys_that_gymnasium_names_become_controls():
    # The arrow goes by pygame 1's code; a key without a name is left out.
    assert make("toy_envs:Steered-v0").unwrapped.controls == {
        "idle": 0,
        "keys": [
            {"keys": ["d"], "sets": {"0": 1}},
            {"keys": ["d", "right"], "sets": {"0": 2}},
        ],
    }
    assert not hasattr(make("CartPole-v1").unwrapped, "controls")
    assert make("MountainCar-v0").unwrapped.controls["idle"] == 1


def test_keys_of_a_box_set_what_they_change_and_together_all():
    env: Any = gymnasium.Env()
    env.action_space = spaces.Box(np.array([-1, 0, 0], np.float32), 1)
    env.get_keys_to_action = lambda: {
        "w": np.array([0, 0.5, 0], np.float32),
        " ": np.array([0, 0, 1], np.float32),
        "w ": np.array([0, 0, 1], np.float32),
    }
    controls = controls_of(env, actions_of(env))
    assert controls is not None
    assert controls.to_json() == {
        "idle": [0, 0, 0],
        "keys": [
            {"keys": ["w"], "sets": {"1": 0.5}},
            {"keys": ["space"], "sets": {"2": 1}},
            {"keys": ["space", "w"], "sets": {"0": 0, "1": 0, "2": 1}},
        ],
    }


def test_an_environment_whose_own_argument_is_called_env_id_is_made():
    env = made("Pixels-v0", env_id="CartPole-v1", size=32)
    assert env.observation_space.shape == (32, 32, 3)
    env.close()


def test_a_policy_needs_no_code_that_it_learned_with(tmp_path: Path, monkeypatch) -> None:
    """Its learning rate may be a function of a module that is not here: in an installed package,
    or with another version of the project."""
    (tmp_path / "schedules.py").write_text("def falling(left):\n    return 1e-3 * left\n")
    with monkeypatch.context() as there:
        there.syspath_prepend(tmp_path)
        falling = importlib.import_module("schedules").falling
        model = PPO("MlpPolicy", "CartPole-v1", learning_rate=falling, n_steps=2, batch_size=2)
        model.save(tmp_path / "p.zip")
    del sys.modules["schedules"]
    loaded = load_sb3(tmp_path / "p.zip", trusted=True)
    seen = np.zeros(4, np.float32)
    assert loaded.predict(seen, deterministic=True)[0] == model.predict(seen, deterministic=True)[0]


@pytest.mark.parametrize("given", ["", "osmesa"])
def test_mujoco_is_drawn_without_a_display_or_says_what_to_install(given: str):
    """In a process of its own: MuJoCo reads MUJOCO_GL once. Each machine tests what it has."""
    code = (
        "import gymnasium, envs\n"
        "from worldmodel.errors import UserError\n"
        "try:\n"
        "    env = gymnasium.make('Pixels-v0', env_id='Reacher-v5', disable_env_checker=True)\n"
        "    print(env.reset(seed=0)[0].std() > 1)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", FOUND}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"MUJOCO_GL": given} if given else {}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    (said,) = process.stdout.splitlines()
    works = subprocess.run(
        [sys.executable, "-c", PROBE], env={**environment, "MUJOCO_GL": given or "egl"}, check=False
    )
    if works.returncode == 0:
        assert said == "True"
    elif given or said != "True":  # without EGL there may be OSMesa
        assert said.startswith("Reacher-v5 can't be drawn: there is no display")
        assert ("MUJOCO_GL=osmesa doesn't work" in said) == bool(given)
        assert "apt-get install" in said
