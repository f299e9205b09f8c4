"""The dream keeps Gymnasium's promises, and its own: seeds, states, ends, own moments."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conftest import toy_episode
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.wrappers import ClipAction, RescaleAction
from stable_baselines3.common.env_checker import check_env as sb3_check

import envs  # noqa: F401  registers the environments
from envs.dream import DreamEnv
from worldmodel.data import DatasetInfo, EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.train import Train, train


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


def test_what_is_handed_out_is_the_callers(dream):
    """Whoever writes over a frame, a state or a moment changes nothing in the dream."""
    own = {"frames": dream.starts.frames[0].copy(), "actions": dream.starts.actions[0].copy()}
    undisturbed = [dream.reset(seed=3, options=own)[0].copy(), *play(dream)]
    first, _ = dream.reset(seed=3, options=own)
    for array in (own["frames"], own["actions"]):
        array[:] = 0
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(dream.get_state().frames[0], kept)
    dream.get_state().frames[0][:] = 0
    dream.codes[:] = 0
    history = []
    for t in range(len(undisturbed) - 1):
        frame, *rest = dream.step(t % 2)
        history.append((frame.copy(), *rest[:-1], dict(rest[-1])))
        frame[:] = 0
        rest[-1].clear()
    assert_same(undisturbed[1:], history)
    dream.render_mode = "rgb_array"
    dream.render()[:] = 0
    assert dream.render().any()
    before = dream.real_moment(0).actions.copy()
    dream.real_moment(0).actions[:] += 1
    np.testing.assert_array_equal(dream.real_moment(0).actions, before)
    dream.recorded_env()[1]["changed"] = True
    assert "changed" not in dream.recorded_env()[1]


def test_an_action_space_of_the_same_seed_is_no_twin_of_the_dream(dream):
    """Gymnasium seeds both with default_rng(seed)."""
    for seed in range(20):
        dream.reset(seed=seed)
        dream.action_space.seed(seed)
        assert dream.np_random_seed == seed
        state = dream.np_random.bit_generator.state["state"]
        assert state["inc"] != dream.action_space.np_random.bit_generator.state["state"]["inc"]
    dream.reset(seed=3)
    drawn = dream.np_random.random(1000)
    assert abs(np.corrcoef(drawn, np.random.default_rng(3).random(1000))[0, 1]) < 0.15


def test_a_dream_takes_one_thread_and_leaves_the_others(dream):
    """Whatever number torch has, the dream is the same to the bit, and the number stays."""
    before = torch.get_num_threads()
    histories = []
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            first, _ = dream.reset(seed=5, options={"start": 0})
            histories.append([(first, dream.codes.tolist()), *play(dream)])
            assert torch.get_num_threads() == num_threads
            with pytest.raises(UserError):
                dream.reset(options={"start": -1})
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    for other in histories[1:]:
        assert_same(histories[0], other)


def test_a_step_is_worked_out_in_one_thread(dream, monkeypatch):
    seen = []
    step = dream.model.step
    monkeypatch.setattr(
        dream.model, "step", lambda *given: (seen.append(torch.get_num_threads()), step(*given))[1]
    )
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        dream.reset(seed=0)
        dream.step(0)
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


FORKED = """
import sys, warnings
import gymnasium, torch
import envs
from stable_baselines3.common.vec_env import SubprocVecEnv

warnings.simplefilter("ignore")
checkpoint = sys.argv[1]
torch.set_num_threads(2)
torch.rand(2000, 2000) @ torch.rand(2000, 2000)  # threads that a forked child won't have
single = gymnasium.make("VideoGPTDream-v0", checkpoint=checkpoint)
expected = single.reset(seed=1)[0], single.step(1)[0]
many = gymnasium.make_vec(
    "VideoGPTDream-v0",
    num_envs=2,
    checkpoint=checkpoint,
    vectorization_mode="async",
    vector_kwargs={"context": "fork"},
)
assert (many.reset(seed=0)[0][1] == expected[0]).all()
assert (many.step([1, 1])[0][1] == expected[1]).all()
many.close()
forked = SubprocVecEnv(
    [lambda: gymnasium.make("VideoGPTDream-v0", checkpoint=checkpoint)] * 2, start_method="fork"
)
forked.seed(0)
assert (forked.reset()[1] == expected[0]).all()
assert (forked.step([1, 1])[0][1] == expected[1]).all()
forked.close()
print("done")
"""


def test_forked_dreams_dream_on(tiny_run: Path):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tiny_run)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert done.stdout == "done\n", done.stderr


def test_actions_of_numpys_own_types_are_taken(dream):
    dream.reset(seed=0)
    for action in (1, np.int32(1), np.uint8(1), np.array(1), np.array(1, np.int16)):
        dream.reset(seed=0)
        brought = dream.step(action)[-1]
        assert brought == dream_after(dream)
    for action in (1.0, np.float64(1), 2, -1, [1], "1", None, np.array([[1], [0]]), 2**70):
        with pytest.raises(UserError, match="outside the action space: 2 choices"):
            dream.step(action)


def dream_after(dream: DreamEnv) -> dict:
    """What action 1 brings after a reset with seed 0."""
    dream.reset(seed=0)
    return dream.step(1)[-1]


def test_wrappers_of_gymnasium_reach_a_box_of_a_dream():
    env = gymnasium.make("VideoGPTDream-v0", checkpoint="dream-pushing")
    inner: Any = env.unwrapped
    rescaled = RescaleAction(env, np.float32(-3.0), np.float32(0.1))
    clipped = ClipAction(env)
    middle = np.full(inner.action_space.shape, -1.45)
    frames = []
    for outer, action in (
        (inner, np.zeros(inner.action_space.shape)),
        (rescaled, middle),
        (clipped, np.zeros(inner.action_space.shape)),
    ):
        outer.reset(seed=0)
        frames.append(outer.step(action)[0])
    np.testing.assert_array_equal(frames[0], frames[2])
    assert np.abs(frames[0].astype(int) - frames[1]).max() <= 1
    rescaled.reset(seed=0)
    for end in (-3.0, 0.1):  # the ends, which rounding may carry outside
        rescaled.step(np.full(inner.action_space.shape, end))
    env.close()


def test_a_moment_of_any_length_counts_by_its_last_frames(dream):
    """As many as the model sees at once; nothing is worked out for those before."""
    window = dream.model.config.prior.window
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2000, 64, 64, 3), np.uint8)
    actions = rng.integers(0, 2, 1999)
    variables = rng.random((2000, 1))
    first, _ = dream.reset(
        seed=0, options={"frames": frames, "actions": actions, "variables": variables}
    )
    history = play(dream)
    last = {
        "frames": frames[-window:],
        "actions": actions[1 - window :],
        "variables": variables[-window:],
    }
    np.testing.assert_array_equal(dream.reset(seed=0, options=last)[0], first)
    assert_same(history, play(dream))


@pytest.mark.parametrize("start", [[1, 2], float("inf"), 0.5, 2.7, "0", 10**30, np.array([0])])
def test_a_start_is_a_whole_number(dream, start):
    with pytest.raises(UserError, match="start must be a whole number from 0 to 1"):
        dream.reset(options={"start": start})


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained dream of grey frames that are wider than high."""
    info = DatasetInfo(
        env_id="Grey",
        env_kwargs={},
        frame_shape=(48, 64, 1),
        actions=ActionSpec("discrete", (2,)),
        variable_names=(),
        fps=100.0,
        frame_skip=1,
    )
    data = tmp_path_factory.mktemp("grey") / "data"
    with EpisodeWriter(data, info) as writer:
        for n in range(20):
            episode = toy_episode(n)
            grey = np.ascontiguousarray(episode.frames[:, :48, :, :1])
            writer.append(
                replace(episode, frames=grey, variables=np.zeros((len(grey), 0), np.float32))
            )
    out = tmp_path_factory.mktemp("runs") / "grey"
    train(Train(preset="tiny", data=data, out=out, device="cpu", precision="fp32"))
    return out


def test_a_grey_dream_is_seen_in_true_proportions(grey_run: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(
            "VideoGPTDream-v0", checkpoint=str(grey_run), render_mode="rgb_array"
        ).unwrapped
        gymnasium_check(env)
        sb3_check(env)
    frame, _ = env.reset(seed=0)
    assert frame.shape == (48, 64, 1)
    np.testing.assert_array_equal(env.render(), np.repeat(frame, 3, -1))
    many: Any = gymnasium.make_vec(
        "VideoGPTDream-v0", num_envs=2, checkpoint=str(grey_run), render_mode="rgb_array"
    )
    frames, _ = many.reset(seed=0)
    np.testing.assert_array_equal(np.stack(many.render()), np.repeat(frames, 3, -1))
    shown = DreamEnv(str(grey_run), render_mode="human")
    frame, _ = shown.reset(seed=0)
    picture = shown._window.picture()
    assert picture.shape == (384, 512, 3)
    np.testing.assert_array_equal(picture[::8, ::8], np.repeat(frame, 3, -1))
    shown.close()


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
        (
            {"frames": np.zeros((1, 64, 64, 3), np.uint8), "seed": 1},
            "can't be combined",
        ),
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
    """Two dreams have two windows, and what closes one leaves the other."""
    one, other = (DreamEnv(str(tiny_run), render_mode="human") for _ in range(2))
    frame, _ = one.reset(seed=0, options={"start": 0})
    other.reset(seed=1, options={"start": 1})
    np.testing.assert_array_equal(one._window.picture()[::8, ::8], frame)
    one.close()
    one.close()
    beside = gymnasium.make("Pixels-v0", env_id="CartPole-v1")  # whose close ends all of pygame
    beside.reset(seed=0)
    beside.close()
    frame = other.step(1)[0]
    np.testing.assert_array_equal(other._window.picture()[::8, ::8], frame)
    again, _ = one.reset(seed=0)  # opens a window anew
    np.testing.assert_array_equal(one._window.picture()[::8, ::8], again)
    other.close()
    one.close()


def test_the_real_moment_is_where_the_start_was_recorded(dream):
    moment = dream.real_moment(0)
    assert moment.env_id == "MovingSquare"
    assert len(moment.actions) == dream.starts.prefix_lengths[0]
    given = dream.starts.actions[0]
    np.testing.assert_array_equal(moment.actions[len(moment.actions) - len(given) :], given)


@pytest.mark.parametrize("start", [-1, 10_000])
def test_there_is_no_real_moment_beyond_the_starts(dream, start: int):
    with pytest.raises(ValueError, match="start must be a whole number from 0 to"):
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
