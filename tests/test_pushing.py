"""The robot bin: its physics, its pictures by either way of drawing, and what it promises."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_gymnasium
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs  # noqa: F401  registers the environments
from envs.pushing import make
from envs.pushing.scene import ARM_BASE, ARM_LENGTHS, BIN, HAND_HIGH, HAND_LOW, elbow
from envs.renderers import FOUND, OPENGL, _works, choose_renderer
from worldmodel.errors import UserError

HERE = choose_renderer("auto")  # before MuJoCo is imported

from envs.pushing.env import AT_WALL, PushingEnv

STAY = np.zeros(4, np.float32)


@pytest.fixture
def env():
    env = make(renderer="rays")
    yield env
    env.close()


def rollout(env: gymnasium.Env, seed: int, actions: np.ndarray) -> list[tuple]:
    frame, info = env.reset(seed=seed)
    return [(frame, 0.0, False, False, info), *(env.step(action) for action in actions)]


def random_actions(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


def assert_same(left: list[tuple], right: list[tuple]) -> None:
    for (frame, *rest), (other_frame, *other_rest) in zip(left, right, strict=True):
        np.testing.assert_array_equal(frame, other_frame)
        assert rest == other_rest


def test_both_checks_pass():
    env = gymnasium.make("RobotPushing-v0", renderer="rays", render_mode="rgb_array")
    check_env_gymnasium(env.unwrapped)
    check_env_sb3(env)
    env.close()


@pytest.mark.parametrize("renderer", sorted({"rays", HERE}))
def test_same_seed_and_actions_give_the_same_frames(renderer):
    env = make(renderer=renderer)
    actions = random_actions(0, 20)
    first = rollout(env, 7, actions)
    rollout(env, 8, actions[:5])  # an episode between must not matter
    assert_same(rollout(env, 7, actions), first)
    other = make(renderer=renderer)
    other.reset(seed=9)
    frame, _ = env.reset(seed=7)  # one beside it, stepped in turn, neither
    np.testing.assert_array_equal(frame, first[0][0])
    for action, step in zip(actions, first[1:], strict=True):
        other.step(action)
        np.testing.assert_array_equal(env.step(action)[0], step[0])
    assert (rollout(env, 8, actions[:1])[0][0] != first[0][0]).any()
    env.close()
    other.close()


@pytest.mark.skipif(HERE == "rays", reason="there is no OpenGL here")
def test_rays_and_opengl_show_the_same():
    frames = []
    for renderer in (HERE, "rays"):
        env = make(renderer=renderer)
        frames.append(np.stack([step[0] for step in rollout(env, 3, random_actions(1, 10))]))
        env.close()
    difference = np.abs(frames[0].astype(int) - frames[1]).mean(-1)
    assert difference.mean() < 12
    assert np.median(difference) < 8
    # What moves in one moves in the other.
    moves = [np.abs(np.diff(film.astype(int), axis=0)).sum(-1).ravel() for film in frames]
    assert np.corrcoef(moves)[0, 1] > 0.8


def test_an_action_moves_the_hand_as_it_says(env: PushingEnv):
    for axis, stride in ((0, 0.05), (1, 0.05), (2, 0.035)):
        for sign in (-1, 1):
            _, info = env.reset(seed=5)
            before = np.array([info["x"], info["y"], info["z"]])
            action = STAY.copy()
            action[axis] = sign * min(1, 0.9 * _room(before, axis, sign) / stride)
            env.step(action)
            *_, info = env.step(STAY)
            moved = np.array([info["x"], info["y"], info["z"]]) - before
            expected = np.zeros(3)
            expected[axis] = stride * action[axis]
            np.testing.assert_allclose(moved, expected, atol=0.006)


def _room(place: np.ndarray, axis: int, sign: int) -> float:
    return float(HAND_HIGH[axis] - place[axis] if sign > 0 else place[axis] - HAND_LOW[axis])


def test_fingers_close_and_open(env: PushingEnv):
    env.reset(seed=0)
    up = np.array([0, 0, 1, 1], np.float32)
    infos = [env.step(up)[-1] for _ in range(4)] + [env.step(-up)[-1] for _ in range(1)]
    assert infos[3]["closed"] > 0.8
    assert infos[4]["closed"] < 0.5


def push(env: PushingEnv) -> np.ndarray:
    """Go behind the target, seen from the bin's middle, and through it towards the middle."""
    hand, target = env.state()[:3], env.state()[4:7]
    inwards = -target[:2] / (np.linalg.norm(target[:2]) + 1e-6)
    behind = target[:2] - 0.06 * inwards
    is_behind = np.linalg.norm(hand[:2] - behind) < 0.025 or (hand[:2] - target[:2]) @ inwards < 0
    is_low = hand[2] < 0.03
    goal = np.array([*behind, 0.1 if np.linalg.norm(hand[:2] - behind) > 0.03 else 0.012])
    if is_low and is_behind:
        goal = np.array([*(target[:2] + 0.05 * inwards), 0.012])
    return np.array([*((goal - hand) / (0.05, 0.05, 0.035)).clip(-1, 1), 1], np.float32)


def test_who_pushes_moves_targets_and_who_stays_does_not():
    env = make(renderer="rays", obs_size=8)
    moved: dict[str, list[float]] = {"stay": [], "push": []}
    returns: dict[str, list[float]] = {"stay": [], "push": []}
    for name, act in (("stay", lambda _: STAY), ("push", push)):
        for seed in range(6):
            env.reset(seed=seed)
            steps = [env.step(act(env)) for _ in range(30)]
            moved[name].append(steps[-1][-1]["moved"])
            returns[name].append(sum(step[1] for step in steps))
    assert np.median(moved["stay"]) < 0.001  # a hand that came down on something moves it
    assert np.mean(moved["push"]) > 8 * np.mean(moved["stay"])
    assert np.mean(moved["push"]) > 0.15
    assert np.mean(returns["push"]) > np.mean(returns["stay"]) + 3
    env.close()


def test_the_reward_is_what_it_says(env: PushingEnv):
    env.reset(seed=2)
    moved, largest = 0.0, 0.0
    for _ in range(30):
        target = env._target
        before = env._place(target)
        _, reward, *_, info = env.step(push(env))
        after = env._place(target)
        hand = env.state()[:3]
        pushed = np.hypot(*(after - before)[:2])
        expected = 1 - np.tanh(8 * np.linalg.norm(hand - after)) + 40 * min(pushed, 0.04)
        assert reward == pytest.approx(expected, abs=1e-5)
        moved, largest = moved + pushed, max(largest, pushed)
        assert info["moved"] == pytest.approx(moved, abs=1e-6)
    assert largest > 0.02


def test_targets_change_every_10_to_15_steps_or_at_a_wall():
    env = make(renderer="rays", length=100, obs_size=8)
    env.reset(seed=1)
    kept, at_wall = [0], [env._is_at_wall(env._target)]
    target = env._target
    for action in random_actions(4, 100):
        env.step(action)
        kept[-1] += 1
        if env._target != target:
            at_wall[-1] = env._is_at_wall(target)
            kept.append(0)
            at_wall.append(False)
            target = env._target
    env.close()
    assert len(kept) >= 6
    assert max(kept) <= 15
    assert all(steps >= 10 or wall for steps, wall in zip(kept[:-1], at_wall[:-1], strict=True))
    assert (np.array(AT_WALL) < BIN).all()


@pytest.mark.parametrize("seed", range(4))
def test_objects_stay_in_the_bin(seed):
    env = make(renderer="rays", length=100, obs_size=8)
    env.reset(seed=seed)
    low = np.array([0.6, 0.6, 0.2], np.float32)  # restless, and mostly down among the objects
    for action in random_actions(seed, 100):
        action[:3] = np.sign(action[:3]) * low - (0, 0, 0.1)
        env.step(action)
        for body in env._objects:
            place = env._place(body)
            assert (np.abs(place[:2]) < np.array(BIN)).all()
            assert -0.01 < place[2] < 0.2
    env.close()


def test_an_episode_is_as_long_as_it_says():
    env = make(renderer="rays", length=3, obs_size=8)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(STAY)
    env.reset(seed=0)
    assert [env.step(STAY)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(STAY)
    env.reset()
    env.step(STAY)
    env.close()


def test_the_number_of_objects_is_what_was_asked_for():
    env = make(renderer="rays", num_objects=(2, 3), obs_size=8)
    counts = set()
    for seed in range(12):
        env.reset(seed=seed)
        counts.add(len(env._objects))
    assert counts == {2, 3}
    env.close()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_objects": (0, 3)}, "num_objects must be two numbers from 1 to 8"),
        ({"num_objects": (5, 4)}, "num_objects"),
        ({"length": 0}, "length must be at least 1, not 0"),
        ({"obs_size": 0}, "obs_size must be at least 1"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array'"),
        ({"renderer": "crayons"}, "unknown renderer 'crayons'"),
    ],
)
def test_useless_options_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(**{"renderer": "rays", **options})


def test_actions_outside_the_space_are_refused(env: PushingEnv):
    env.reset(seed=0)
    env.step(np.zeros(4))  # of another type, and inside
    for action in (np.array([2.0, 0, 0, 0]), np.full(4, np.nan), np.zeros(3)):
        with pytest.raises(ValueError, match="outside"):
            env.step(action)


@given(st.floats(-0.21, 0.21), st.floats(-0.15, 0.15), st.floats(0.16, 0.31))
@settings(max_examples=100, deadline=None)
def test_the_arm_reaches_the_wrist_in_two_links(x, y, z):
    wrist = np.array([x, y, z])
    bend = elbow(wrist)
    assert np.linalg.norm(bend - ARM_BASE) == pytest.approx(ARM_LENGTHS[0], abs=1e-6)
    assert np.linalg.norm(wrist - bend) == pytest.approx(ARM_LENGTHS[1], abs=1e-6)


def printed_by(program: str, **environment: str) -> str:
    """What a Python process of its own prints, in which nothing about drawing is decided yet."""
    undecided = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", FOUND)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**undecided, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_what_does_not_work_is_passed_over():
    # A renderer that isn't there (nobody knows it), in a process of its own.
    program = (
        "import os; from envs import renderers; renderers.OPENGL = ('nonsense',);"
        "env = __import__('envs.pushing').pushing.make(); env.reset(seed=0); print(env.renderer)"
    )
    assert printed_by(program) == "rays"


@pytest.mark.skipif(HERE == "rays", reason="there is no OpenGL here")
def test_rays_first_leave_opengl_to_the_next():
    program = (
        "from envs.pushing import make; rays = make(renderer='rays'); other = make();"
        "rays.reset(seed=0); other.reset(seed=0); print(rays.renderer, other.renderer)"
    )
    assert printed_by(program) == f"rays {HERE}"


@pytest.mark.skipif(HERE == "rays", reason="there is no OpenGL here")
def test_opengl_behind_a_fork_is_refused_and_not_waited_for():
    program = """
import os
from envs.pushing import make
from envs.renderers import UserError
make().reset(seed=0)
child = os.fork()
if child == 0:
    try:
        make().reset(seed=0)
    except UserError as error:
        os._exit(7 if "renderer='rays'" in str(error) else 1)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert printed_by(program) == "7"


def test_a_renderer_that_was_asked_for_and_is_not_there_leaves_rays():
    missing = next((name for name in OPENGL if not _works(name)), None)
    if missing is None:
        pytest.skip("all of them work here")
    program = "from envs.pushing import make; e = make(); e.reset(seed=0); print(e.renderer)"
    assert printed_by(program, MUJOCO_GL=missing) == "rays"


def test_a_renderer_that_cannot_be_had_is_refused():
    missing = "osmesa" if HERE != "osmesa" else "egl"  # this process keeps to the other
    with pytest.raises(UserError, match=f"{missing} (can't be used|doesn't work here)"):
        choose_renderer(missing)
