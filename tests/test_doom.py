import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_gymnasium
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs  # noqa: F401  registers the environments
from envs.doom import DoomEnv
from envs.engine_guard import engines_using

ENV_ID = "DoomHealthGatheringSupreme-v0"
NOOP, LEFT, RIGHT, FORWARD = range(4)


@pytest.fixture
def env():
    env = gymnasium.make(ENV_ID, render_mode="rgb_array")
    yield env
    env.close()


def _rollout(env, seed, actions):
    frame, info = env.reset(seed=seed)
    steps = [(frame, 0.0, False, False, info)]
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def _assert_same(left, right):
    assert len(left) == len(right)
    for (frame, *rest), (other_frame, *other_rest) in zip(left, right, strict=True):
        np.testing.assert_array_equal(frame, other_frame)
        assert rest == other_rest


def test_gymnasium_check(env):
    check_env_gymnasium(env.unwrapped)


def test_sb3_check(env):
    check_env_sb3(env)


def test_same_seed_and_actions_give_the_same_frames(env):
    actions = np.random.default_rng(0).integers(4, size=60)
    first = _rollout(env, 7, actions)
    _rollout(env, 8, actions[:13])  # an episode between must not matter
    _assert_same(_rollout(env, 7, actions), first)
    other = gymnasium.make(ENV_ID)
    try:
        _rollout(other, 3, actions[::-1])
        _assert_same(_rollout(other, 7, actions), first)
        different = _rollout(other, 9, actions)
    finally:
        other.close()
    assert any((a[0] != b[0]).any() for a, b in zip(first, different, strict=False))


def test_unseeded_episodes_differ_and_follow_from_the_first_seed(env):
    def two_starts():
        env.reset(seed=5)
        return env.reset()[0], env.reset()[0]

    (first, second), (first_again, second_again) = two_starts(), two_starts()
    assert (first != second).any()
    np.testing.assert_array_equal(first, first_again)
    np.testing.assert_array_equal(second, second_again)


def test_doing_nothing_ends_in_death_not_in_a_timeout(env):
    steps = _rollout(env, 0, [NOOP] * 200)
    assert len(steps) - 1 == 96  # -8 health every 32 tics, four tics a step
    assert all(not terminated and not truncated for *_, terminated, truncated, _ in steps[:-1])
    frame, reward, terminated, truncated, info = steps[-1]
    assert terminated
    assert not truncated
    assert reward < -90
    assert (info["health"], info["pickups"]) == (0.0, 0.0)
    np.testing.assert_array_equal(frame, steps[-2][0])  # the engine shows none after the end
    assert frame.max() > 0
    health = [info["health"] for *_, info in steps]
    assert health[0] == 92  # the first loss comes with the first tic
    assert sorted(health, reverse=True) == health
    assert set(np.diff(health)) <= {0, -8, -4}


def test_the_timeout_truncates():
    env = DoomEnv("health_gathering_supreme")
    try:
        env._game.set_episode_timeout(40)
        steps = _rollout(env, 0, [LEFT] * 50)
    finally:
        env.close()
    *_, terminated, truncated, info = steps[-1]
    assert truncated
    assert not terminated
    assert info["health"] > 0
    assert len(steps) - 1 < 12


def test_each_action_does_what_it_says(env):
    def frame_after(action):
        return _rollout(env, 1, [NOOP, action])[-1][0].astype(int)

    still = frame_after(NOOP)
    shown = {action: frame_after(action) for action in (LEFT, RIGHT, FORWARD)}
    for frame in shown.values():
        assert abs(frame - still).mean() > 0.5

    # Turning left moves the picture to the right.
    def error_when_moved(frame, columns):
        moved = np.roll(still, columns, axis=1)[:, 24:40]
        return abs(moved - frame[:, 24:40]).mean()

    for action, sign in ((LEFT, 1), (RIGHT, -1)):
        along = min(error_when_moved(shown[action], sign * n) for n in range(1, 24))
        against = min(error_when_moved(shown[action], -sign * n) for n in range(1, 24))
        assert along < against


def test_render_shows_the_whole_screen(env):
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (120, 160, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(("size", "frame_skip"), [(32, 4), (84, 2)])
def test_sizes_and_frame_skips(size, frame_skip):
    env = gymnasium.make(ENV_ID, obs_size=size, frame_skip=frame_skip)
    try:
        frame, _ = env.reset(seed=0)
        assert frame.shape == (size, size, 3)
        assert env.step(NOOP)[1] == frame_skip  # one point a tic
        assert env.metadata["render_fps"] == 35 / frame_skip
    finally:
        env.close()


def test_bad_use_is_refused(env):
    with pytest.raises(ValueError, match="the known ones are: battle2, health_gathering_supreme"):
        DoomEnv("e1m1")
    with pytest.raises(ValueError, match="render_mode"):
        DoomEnv("health_gathering_supreme", render_mode="ansi")
    with pytest.raises(ValueError, match="obs_size must be at least 1"):
        DoomEnv("health_gathering_supreme", obs_size=0)
    with pytest.raises(ValueError, match="frame_skip must be at least 1"):
        DoomEnv("health_gathering_supreme", frame_skip=0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.unwrapped.step(NOOP)
    env.reset(seed=0)
    for action in (4, -1, 1.5):
        with pytest.raises(ValueError, match="outside"):
            env.unwrapped.step(action)
    _rollout(env, 0, [NOOP] * 96)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.unwrapped.step(NOOP)


def _wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def _shared_memory(instance):
    return list(Path("/dev/shm").glob(f"ViZDoom*{instance}"))


def test_close_leaves_nothing(tmp_path, monkeypatch):
    working_folder = tmp_path / "work"
    temporary = tmp_path / "temporary"
    working_folder.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(working_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    env = DoomEnv("health_gathering_supreme")
    env.reset(seed=0)
    (folder,) = temporary.iterdir()
    ((process, instance),) = engines_using(str(folder))
    assert _shared_memory(instance)
    env.close()
    env.close()  # a second time does no harm
    assert not Path(f"/proc/{process}").exists()
    assert not _shared_memory(instance)
    assert not list(temporary.iterdir())
    assert not list(working_folder.iterdir())


PLAY_UNTIL_KILLED = """
import time
from envs.doom import DoomEnv
environments = [DoomEnv("health_gathering_supreme") for _ in range(2)]
for env in environments:
    env.reset(seed=0)
print("playing", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("with_its_engines", [False, True])
def test_kill_9_leaves_nothing(tmp_path, with_its_engines):
    working_folder, temporary = tmp_path / "work", tmp_path / "temporary"
    working_folder.mkdir()
    temporary.mkdir()
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", PLAY_UNTIL_KILLED],
        stdout=subprocess.PIPE,
        text=True,
        cwd=working_folder,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": root},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "playing\n"
        engines = engines_using(str(temporary))
        assert len(engines) == 2
        if with_its_engines:  # as a terminal or a job's end does it
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGKILL)
    _wait_until(lambda: not engines_using(str(temporary)))
    _wait_until(lambda: not any(_shared_memory(instance) for _, instance in engines))
    _wait_until(lambda: not list(temporary.iterdir()))
    assert not list(working_folder.iterdir())
