"""The dream keeps Gymnasium's promises, and its own: seeds, states, ends, own moments."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

import envs  # noqa: F401  registers the environments
from envs.dream import DreamEnv
from worldmodel.errors import UserError


@pytest.fixture
def dream(tiny_run: Path):
    env = gymnasium.make("VideoGPTDream-v0", checkpoint=str(tiny_run)).unwrapped
    yield env
    env.close()


def play(env, num_steps: int = 6) -> list:
    history = []
    for t in range(num_steps):
        frame, reward, terminated, truncated, info = env.step(t % 2)
        history.append((frame.copy(), reward, terminated, truncated, info))
        if terminated or truncated:
            break
    return history


def assert_same(first: list, second: list) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def test_both_checkers_pass_without_a_warning(tiny_run: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(
            "VideoGPTDream-v0", checkpoint=str(tiny_run), render_mode="rgb_array"
        ).unwrapped
        gymnasium_check(env)
        sb3_check(env)


def test_spaces_are_those_of_the_recorded_world(dream):
    assert dream.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert dream.action_space == gymnasium.spaces.Discrete(2)
    assert dream.action_meanings == ("stay", "right")


def test_info_carries_the_game_variables_and_the_surprise(dream):
    _, info = dream.reset(seed=0)
    assert set(info) == {"column", "start"}
    info = dream.step(0)[-1]
    assert set(info) == {"column", "surprise"}
    assert info["surprise"] > 0


def test_the_same_seed_start_and_actions_give_the_same_dream(dream, tiny_run):
    first, _ = dream.reset(seed=5, options={"start": 0})
    history = play(dream)
    other = gymnasium.make("VideoGPTDream-v0", checkpoint=str(tiny_run)).unwrapped
    again, _ = other.reset(seed=5, options={"start": 0})
    np.testing.assert_array_equal(first, again)
    assert_same(history, play(other))
    # And after whatever was dreamed before.
    dream.reset(seed=5, options={"start": 0})
    assert_same(history, play(dream))


def test_a_state_given_back_goes_on_as_if_never_left(dream):
    dream.reset(seed=1)
    dream.step(1)
    state = dream.get_state()
    history = play(dream)
    dream.reset(seed=99)
    dream.set_state(state)
    assert_same(history, play(dream))
    dream.set_state(state)  # as often as one likes
    assert_same(history, play(dream))


def test_futures_of_one_moment_differ_under_other_draws(dream):
    dream.reset(seed=1)
    state = dream.get_state()
    futures = []
    for seed in range(4):
        dream.set_state(state)
        dream.np_random = np.random.default_rng(seed)
        futures.append(play(dream)[-1][0])
    assert any((futures[0] != future).any() for future in futures[1:])


def test_the_horizon_truncates(tiny_run: Path):
    env = gymnasium.make("VideoGPTDream-v0", checkpoint=str(tiny_run), horizon=3).unwrapped
    for seed in range(20):
        env.reset(seed=seed)
        history = play(env, 10)
        if not history[-1][2]:
            break
    assert len(history) == 3
    assert [step[3] for step in history] == [False, False, True]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_a_start_begins_with_its_recorded_frame(dream):
    frame, info = dream.reset(options={"start": 0})
    assert info["start"] == 0
    recorded = dream.starts.frames[0, -1].astype(int)
    assert frame.shape == recorded.shape
    assert info["column"] == dream.starts.variables[0, -1, 0]


def test_a_moment_of_ones_own_is_dreamed_on(dream):
    frames = dream.starts.frames[0]
    options = {"frames": frames, "actions": dream.starts.actions[0]}
    frame, info = dream.reset(seed=0, options=options)
    shipped, _ = dream.reset(seed=0, options={"start": 0})
    np.testing.assert_array_equal(frame, shipped)
    assert "start" not in info
    dream.reset(options={"frames": frames[-1:], "actions": []})
    assert dream.observation_space.contains(dream.step(0)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 99}, "start must be"),
        ({"begin": 0}, "unknown reset options"),
        ({"frames": np.zeros((2, 64, 64, 3), np.float32)}, "uint8"),
        ({"frames": np.zeros((2, 32, 64, 3), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((0, 64, 64, 3), np.uint8)}, "at least one"),
        ({"frames": np.zeros((2, 64, 64, 3), np.uint8)}, "need the 1 actions"),
        ({"frames": np.zeros((2, 64, 64, 3), np.uint8), "actions": [7]}, "actions"),
        ({"frames": np.zeros((2, 64, 64, 3), np.uint8), "actions": [0.6]}, "each in Discrete"),
        ({"frames": np.zeros((2, 64, 64, 3), np.uint8), "actions": [[0]]}, "need the 1 actions"),
        ({"frames": np.zeros((1, 64, 64, 3), np.uint8), "variables": [[np.nan]]}, "finite"),
        ({"frames": np.zeros((1, 64, 64, 3), np.uint8), "variables": [["full"]]}, "finite"),
        ({"frames": np.zeros((1, 64, 64, 3), np.uint8), "seed": 1}, "don't go with"),
    ],
)
def test_a_moment_that_does_not_fit_is_refused(dream, options, message):
    with pytest.raises(ValueError, match=message):
        dream.reset(options=options)


def test_what_gymnasium_refuses_is_refused(dream):
    with pytest.raises(gymnasium.error.ResetNeeded):
        dream.step(0)
    dream.reset()
    with pytest.raises(ValueError, match="outside"):
        dream.step(2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"horizon": 0},
        {"temperature": -1.0},
        {"guidance": -1.0},
        {"render_mode": "ansi"},
        {"device": "abacus"},
        {"device": "cuda:99"},
    ],
)
def test_arguments_out_of_range_are_refused(tiny_run, wrong):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns of the render mode first
        with pytest.raises(ValueError, match="must be"):
            gymnasium.make("VideoGPTDream-v0", checkpoint=str(tiny_run), **wrong)


def test_an_unknown_checkpoint_is_refused_by_name():
    with pytest.raises(UserError, match="unknown checkpoint"):
        gymnasium.make("VideoGPTDream-v0", checkpoint="no-such-dream")


def test_a_person_sees_it_in_a_window(tiny_run: Path):
    env = gymnasium.make("VideoGPTDream-v0", checkpoint=str(tiny_run), render_mode="human")
    env.reset(seed=0)
    env.step(0)
    import pygame

    window = pygame.display.get_surface()
    assert window is not None
    drawn = pygame.surfarray.array3d(window)
    assert drawn.max() > 0
    env.close()


def test_the_real_moment_is_where_the_start_was_recorded(dream):
    moment = dream.real_moment(0)
    assert moment.env_id == "MovingSquare"
    assert len(moment.actions) == dream.starts.prefix_lengths[0]
    given = dream.starts.actions[0]
    np.testing.assert_array_equal(moment.actions[len(moment.actions) - len(given) :], given)


@pytest.mark.parametrize("start", [-1, 10_000])
def test_there_is_no_real_moment_beyond_the_starts(dream, start: int):
    with pytest.raises(ValueError, match="start must be from 0 to"):
        dream.real_moment(start)


def test_a_checkpoint_imports_no_module_that_was_not_imported_before(tiny_run: Path, tmp_path):
    """Its config is data, and an environment's id may name a module to import."""
    copy = shutil.copytree(
        tiny_run, tmp_path / "foreign", ignore=shutil.ignore_patterns("training")
    )
    config = json.loads((copy / "config.json").read_text())
    wrapped = {"env_id": "Pixels-v0", "env_kwargs": {"env_id": "this:Zen-v0"}}
    config["world"] |= {"env_id": "Pixels-v0", "env_kwargs": wrapped}  # one in another
    (copy / "config.json").write_text(json.dumps(config))
    dream = DreamEnv(str(copy))
    for ask in (dream.recorded_env, lambda: dream.real_moment(0)):
        with pytest.raises(ValueError, match="import 'this' yourself"):
            ask()
    assert "this" not in sys.modules
    wrapped["env_kwargs"]["env_id"] = "json:Zen-v0"
    (copy / "config.json").write_text(json.dumps(config))
    again = DreamEnv(str(copy))
    assert again.recorded_env()[1] == wrapped
