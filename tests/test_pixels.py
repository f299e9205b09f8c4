"""Pixels-v0: any environment's pictures and actions, and nothing else of it changed."""

from typing import Any

import gymnasium
import numpy as np
import pygame
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs  # noqa: F401  registers the environments
from collect.recorder import RANDOM, Job, action_spec, describe, play_episode
from envs.controls import translated
from envs.flat_actions import flat_actions
from envs.pixels import PixelsEnv
from worldmodel.actions import ActionSpec
from worldmodel.errors import UserError
from worldmodel.resize import area_resized


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
    episode = play_episode(env, job, None, action_spec(env))
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
        ("Nope-v0", {}, "Nope-v0 can't be made: Environment `Nope` doesn't exist"),
        ("no_such_module:Env-v0", {}, "No module named 'no_such_module'"),
        ("CartPole-v1", {"env_kwargs": {"colour": 1}}, "unexpected keyword argument 'colour'"),
        ("CartPole-v1", {"env_kwargs": {"render_mode": "human"}}, "may not say render_mode"),
        ("CartPole-v1", {"source": "observation"}, "no picture: .* try --source render"),
        ("toy_envs:Blind-v0", {}, "has no pixels: .* no render mode rgb_array, only ansi"),
        ("toy_envs:Unbounded-v0", {}, "have no bounds: .* --action-limit"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_line(env_id: str, options: dict, message: str):
    with pytest.raises(UserError, match=message) as refused:
        make(env_id, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"frame_skip": 0},
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
    actions = flat_actions(spaces.Box(np.array([-1, 0, 0], np.float32), 1))
    keys = {
        "w": np.array([0, 0.5, 0], np.float32),
        " ": np.array([0, 0, 1], np.float32),
        "w ": np.array([0, 0, 1], np.float32),
    }
    assert translated(keys, actions) == {
        "idle": [0, 0, 0],
        "keys": [
            {"keys": ["w"], "sets": {"1": 0.5}},
            {"keys": ["space"], "sets": {"2": 1}},
            {"keys": ["w", "space"], "sets": {"0": 0, "1": 0, "2": 1}},
        ],
    }
