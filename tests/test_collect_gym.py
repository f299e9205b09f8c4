"""Collecting any Gymnasium environment, end to end."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import toy_envs
from conftest import one_line_error, unprivileged
from data_samples import assert_same_episode
from gymnasium import spaces
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from collect.gym import AT_RANDOM, Collect, collect, main
from collect.recorder import Player
from collect.score import Measure, print_scores
from envs import trust
from envs.policy import FramePolicy, StatePolicy, load_policy
from worldmodel.data import EpisodeReader
from worldmodel.data.left_out import read_left_out
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.storage.files import locked

ROOT = Path(__file__).parent.parent


def _command(out: Path, env_id: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-m", "collect.gym", "--env-id", env_id, "--out", str(out)]
    return [*command, *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def _run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments), cwd=ROOT, env=_environment(), capture_output=True, text=True
    )


def _ppo(env: Any, path: Path, policy: str = "MlpPolicy") -> Path:
    """A policy that has learned nothing, but looks and acts like a trained one."""
    PPO(policy, env, n_steps=2, batch_size=2, seed=0, device="cpu").save(path)
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Collect:
    folder = tmp_path_factory.mktemp("gym")
    policy = _ppo(gymnasium.make("CartPole-v1"), folder / "ppo.zip")
    options = Collect(
        env_id="CartPole-v1",
        out=folder / "set",
        episodes=12,
        length=8,
        frame_skip=2,
        size=32,
        policy=str(policy),
        trust=True,
        evaluate_episodes=3,
        workers=1,
    )
    collect(options)
    return options


def test_a_set_is_whole_and_every_episode_comes_out_again(recorded: Collect):
    assert verify(recorded.out).problems == []
    reader = EpisodeReader(recorded.out)
    assert len(reader) == 12
    assert reader.info.env_id == "Pixels-v0"
    assert reader.info.frame_skip == 2
    assert reader.info.frame_shape == (32, 32, 3)
    assert {row["policy"] for row in reader.index} == {b"policy", b"policy+noise", b"random"}
    scores = reader.info.policies["scores"]
    assert all(scores[who]["mean_return"] > 1 for who in ("policy", "random"))
    env = gymnasium.make(reader.info.env_id, **reader.info.env_kwargs)
    for i in range(0, 12, 3):
        episode = reader.episode(i)
        frame, _ = env.reset(seed=episode.seed)
        frames = [frame] + [env.step(action)[0] for action in episode.action]
        np.testing.assert_array_equal(np.stack(frames), episode.frames)
    env.close()


def test_more_episodes_are_added_and_other_ones_refused(recorded: Collect):
    collect(replace(recorded, episodes=13))
    assert len(EpisodeReader(recorded.out)) == 13
    with pytest.raises(UserError, match="recorded with other options"):
        collect(replace(recorded, length=9))
    with pytest.raises(
        UserError, match=r"recorded with other options: env_kwargs .*frame_skip 2 against 3"
    ):
        collect(replace(recorded, frame_skip=3))
    assert len(EpisodeReader(recorded.out)) == 13


def test_killed_and_resumed_gives_the_same_set(tmp_path: Path):
    arguments = ("toy_envs:Count-v0", "--episodes", 150, "--evaluate-episodes", 0, "--workers", 1)
    out = tmp_path / "killed"
    process = subprocess.Popen(
        _command(out, *arguments), cwd=ROOT, env=_environment(), stderr=subprocess.DEVNULL
    )
    while not list(out.glob("episode-*.h5")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = _run(out, *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert verify(out).problems == []
    whole = tmp_path / "whole"
    assert _run(whole, *arguments).returncode == 0
    left, right = EpisodeReader(out), EpisodeReader(whole)
    assert len(left) == len(right) == 150
    for i in range(0, 150, 7):
        assert_same_episode(left.episode(i), right.episode(i))


def test_an_environment_that_does_not_repeat_itself_is_recorded_on(tmp_path: Path, capfd):
    options = Collect(
        env_id="toy_envs:Random-v0", out=tmp_path, episodes=3, workers=1, evaluate_episodes=0
    )
    collect(options)
    assert "gives different frames when the same seed is played again" in capfd.readouterr().err
    collect(replace(options, episodes=4))
    assert len(EpisodeReader(tmp_path)) == 4


def test_games_are_cut_off_where_the_environment_sets_no_limit(tmp_path: Path):
    options = Collect(
        env_id="toy_envs:Buttons-v0", out=tmp_path, episodes=1, length=5, evaluate_episodes=2
    )
    collect(options)
    scores = EpisodeReader(tmp_path).info.policies["scores"]
    assert scores["random"]["mean_length"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env-id", "Nope-v0"), "Nope-v0 can't be made"),
        (("--env-kwargs", "[1]"), "--env-kwargs must be a JSON object"),
        (("--env-kwargs", "{"), "--env-kwargs is not JSON"),
        (("--policy", "train", "--train-steps", 0), "--train-steps must be at least 1"),
        (("--policy", "no/such.zip"), "there is no policy file no/such.zip"),
        (
            ("--variables", "height"),
            "info of CartPole-v1 has no number 'height' in its first 50 steps; it has: none",
        ),
        (("--size", 0), "size must be from 1"),
        (("--episodes", 0), "--episodes must be from 1 to"),
        (("--env-id", "toy_envs:Unbounded-v0"), "toy_envs:Unbounded-v0: actions in"),
        (("--env-id", "toy_envs:Blind-v0"), "toy_envs:Blind-v0 has no images"),
        (
            ("--env-id", "toy_envs:Walking-v0", "--env-kwargs", '{"falls": 3}'),
            "toy_envs:Walking-v0 can't be recorded: ArithmeticError: no ground "
            f"({toy_envs.__file__}, line ",
        ),
        (("--new-levels",), "--new-levels needs --pose x,y; an environment's own attribute pose"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", _command(tmp_path / "out", "CartPole-v1", *arguments)[2:])
    assert one_line_error(main).startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_policy_for_something_else_is_refused_in_a_line(tmp_path, monkeypatch):
    path = _ppo(gymnasium.make("Pendulum-v1"), tmp_path / "pendulum.zip")
    command = _command(tmp_path / "out", "CartPole-v1", "--policy", path, "--trust")
    monkeypatch.setattr(sys, "argv", command[2:])
    assert "the policy's observation_space is" in one_line_error(main)
    assert not (tmp_path / "out").exists()


def test_a_policy_acts_on_what_it_was_trained_on(tmp_path: Path):
    def foreign() -> gymnasium.Env:
        return gymnasium.make("CartPole-v1")

    plain = _ppo(foreign(), tmp_path / "plain.zip")
    stacked_env = VecFrameStack(DummyVecEnv([foreign]), 3)
    stacked = _ppo(stacked_env, tmp_path / "stacked.zip")
    env = gymnasium.make("Pixels-v0", env_id="CartPole-v1", size=40)
    on_frames = _ppo(env, tmp_path / "frames.zip", "CnnPolicy")
    frame, _ = env.reset(seed=4)

    policy = load_policy(plain, env, trusted=True)
    assert isinstance(policy, StatePolicy)
    expected, _ = policy.model.predict(env.unwrapped.state(), deterministic=True)  # type: ignore
    assert policy.act(frame, deterministic=True) == expected

    policy = load_policy(stacked, env, trusted=True)
    assert isinstance(policy, StatePolicy)
    stacked_env.seed(4)
    seen = stacked_env.reset()
    for _ in range(6):
        assert isinstance(seen, np.ndarray)
        expected, _ = policy.model.predict(seen, deterministic=True)
        action = policy.act(frame, deterministic=True)
        assert action == expected[0]
        seen, (frame, *_) = stacked_env.step(expected)[0], env.step(action)

    assert isinstance(load_policy(on_frames, env, trusted=True), FramePolicy)
    smaller = gymnasium.make("Pixels-v0", env_id="CartPole-v1", size=48)
    with pytest.raises(UserError, match="observation_space"):
        load_policy(on_frames, smaller, trusted=True)


def test_a_policy_that_presses_buttons_still_does(tmp_path: Path):
    path = _ppo(gymnasium.make("toy_envs:Flat-buttons-v0"), tmp_path / "buttons.zip")
    env = gymnasium.make("Pixels-v0", env_id="toy_envs:Flat-buttons-v0")
    frame, _ = env.reset(seed=0)
    policy = load_policy(path, env, trusted=True)
    for _ in range(10):
        action = policy.act(frame)
        assert env.action_space.contains(action)
        frame, *_ = env.step(action)


def test_random_numbers_of_a_box_rest_half_of_the_time():
    space = spaces.Box(np.array([-1, 0, 0.25], np.float32), 1)
    player = Player(replace(AT_RANDOM, max_hold=1), None, space, seed=0)
    actions = np.stack([player.act(np.zeros(0)) for _ in range(4000)])
    assert all(map(space.contains, actions))
    resting = (actions == [0, 0, 0.25]).mean(0)
    # A quarter of those that move are at their low end, which may be where they rest.
    assert resting == pytest.approx([0.5, 0.625, 0.625], abs=0.04)
    assert (actions == 1).mean(0) == pytest.approx([0.125] * 3, abs=0.03)


@pytest.mark.skipif(importlib.util.find_spec("Box2D") is None, reason="box2d is an extra")
def test_the_car_of_the_tutorial_is_recorded(tmp_path: Path):
    # In a process of its own: Box2D crashes where its warnings are errors.
    arguments = ("--episodes", 2, "--length", 5, "--frame-skip", 2, "--evaluate-episodes", 0)
    done = _run(tmp_path, "CarRacing-v3", *arguments)
    assert done.returncode == 0, done.stderr
    reader = EpisodeReader(tmp_path)
    assert reader.info.rendering.startswith("observations")
    assert reader.info.actions.low == (-1, 0, 0)


def test_episodes_that_are_no_numbers_are_left_out_counted_and_said(tmp_path: Path, capfd):
    options = Collect(
        env_id="toy_envs:Blowing-v0",
        out=tmp_path,
        episodes=40,
        length=4,
        variables="count",
        workers=1,
        evaluate_episodes=20,
    )
    collect(options)
    reader = EpisodeReader(tmp_path)
    left_out = 40 - len(reader)
    assert 8 <= left_out <= 32
    assert all((reader.steps(i)["reward"] == 1).all() for i in range(len(reader)))
    said = capfd.readouterr()
    assert f"reward holds a value that is not finite: {left_out}, the first episode" in said.err
    assert "nan" not in said.out
    json.loads((tmp_path / "policy-score.json").read_text(), parse_constant=pytest.fail)
    assert any(f": {left_out}, " in line for line in verify(tmp_path).lines)
    collect(replace(options, episodes=41))  # those left out are not counted twice
    (again,) = read_left_out(tmp_path).lines()
    assert again in verify(tmp_path).lines
    assert f": {41 - len(EpisodeReader(tmp_path))}, " in again


def test_what_was_not_measured_is_no_score(tmp_path: Path, capsys):
    measures = {"return": Measure(lambda episode, info: float("nan"))}
    scores = {"random": {"num_episodes": 0}}
    print_scores(scores, measures, Console())
    assert "not measured" in capsys.readouterr().out


def test_where_nothing_can_be_remembered_a_recording_resumes_with_trust(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/x")
    monkeypatch.setattr("envs.trust._remembered", set())
    policy = _ppo(gymnasium.make("CartPole-v1"), tmp_path / "ppo.zip")
    options = Collect(
        env_id="CartPole-v1",
        out=tmp_path / "set",
        episodes=1,
        length=3,
        policy=str(policy),
        evaluate_episodes=0,
        workers=1,
        trust=True,
    )
    collect(options)
    monkeypatch.setattr("envs.trust._remembered", set())  # as in another process
    with pytest.raises(UserError, match="--trust"):
        collect(replace(options, episodes=2, trust=False))
    collect(replace(options, episodes=2))
    assert len(EpisodeReader(options.out)) == 2


def test_two_recordings_in_one_folder_do_not_mix(tmp_path: Path):
    options = Collect(env_id="toy_envs:Count-v0", out=tmp_path / "set", evaluate_episodes=0)
    with (
        locked(options.out),
        pytest.raises(UserError, match="is being written to by another process"),
    ):
        collect(options)
    assert not options.out.exists()


def test_a_folder_that_can_t_be_written_to_is_told_before_anything_is_played(tmp_path: Path):
    tmp_path.chmod(0o555)
    options = Collect(env_id="toy_envs:Count-v0", out=tmp_path / "set")
    with unprivileged(tmp_path), pytest.raises(UserError, match="set can't be written to"):
        collect(options)
    tmp_path.chmod(0o755)


def test_a_policy_from_elsewhere_needs_trust_once(tmp_path: Path, monkeypatch):
    policy = _ppo(gymnasium.make("CartPole-v1"), tmp_path / "ppo.zip")
    # Equal policies of other tests, saved within the same two seconds, have the same digest.
    monkeypatch.setattr(trust, "_remembered", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = Collect(
        env_id="CartPole-v1",
        out=tmp_path / "set",
        episodes=1,
        length=3,
        policy=str(policy),
        evaluate_episodes=0,
        workers=1,
    )
    with pytest.raises(UserError, match=r"may contain code.*--trust"):
        collect(options)
    assert not options.out.exists()
    collect(replace(options, trust=True))
    collect(replace(options, episodes=2))
    assert len(EpisodeReader(options.out)) == 2
