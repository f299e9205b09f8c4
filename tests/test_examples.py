"""The examples run as their first lines say."""

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import one_line_error
from toy_square import registered_square

from collect.policies import FRAME_RECIPE
from envs.interface import pose_of
from envs.policy import load_sb3
from examples import look_ahead, train_agent
from examples.car_driver import drive
from examples.freeway_player import UP, Crosses
from examples.look_ahead import LookAhead, Planner, play
from worldmodel.media.resize import area_resized


@pytest.fixture(autouse=True)
def square():
    with registered_square():
        yield


def options_for(dream: Path, **others) -> LookAhead:
    settings = {"worth": "column", "games": 1, "steps": 6, "futures": 4, "depth": 3, "commit": 2}
    return LookAhead(dream=str(dream), **{**settings, **others})


def test_a_game_is_played_by_looking_ahead(tiny_run: Path, capsys):
    (total,) = play(options_for(tiny_run))
    assert total in range(7)  # a point is an action to the right
    assert f"game 0: return {total:g} in 6 steps" in capsys.readouterr().out


def test_the_plan_is_that_of_the_best_future(tiny_run: Path):
    planner = Planner(options_for(tiny_run, futures=8, depth=4, worth="reward"))
    starts = planner.now.starts
    assert starts is not None
    moment = {name: getattr(starts, name)[0] for name in ("frames", "actions", "variables")}
    plan = planner.plan(moment)
    # The same plans again, each in a dream of its own with the draws that it had.
    again = Planner(planner.options)
    seed = int(again.rng.integers(2**31))
    plans = again._random_plans()
    gains = []
    for i, candidate in enumerate(plans):
        again.now.reset(seed=0, options=moment)
        again.now.np_random = np.random.Generator(np.random.PCG64(seed + i))
        gain = 0.0
        for t, action in enumerate(candidate):
            _, reward, terminated, _, _ = again.now.step(action)
            gain += look_ahead.PER_STEP**t * (reward - terminated)
            if terminated:
                break
        gains.append(gain)
    np.testing.assert_array_equal(plan, plans[int(np.argmax(gains))])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--dream", "nowhere"], "unknown checkpoint"),
        (["--worth", "gold"], "--worth must be one of reward, column"),
        (["--commit", "40"], "--commit must be at most --depth"),
        (["--games", "0"], "--games must be from 1"),
    ],
)
def test_mistakes_are_told_in_a_line(tiny_run: Path, monkeypatch, wrong, message):
    monkeypatch.setattr("sys.argv", ["look_ahead", "--dream", str(tiny_run), *wrong])
    assert message in one_line_error(look_ahead.main)


def test_an_agent_learns_in_dreams_and_plays_outside(
    tiny_run: Path, tmp_path: Path, capsys, monkeypatch
):
    out = tmp_path / "agent"
    monkeypatch.setitem(FRAME_RECIPE, "n_steps", 16)  # a rollout
    tiny = f"--steps 64 --envs 2 --horizon 12 --games 5 --dream {tiny_run} --out {out}"
    monkeypatch.setattr("sys.argv", ["train_agent", *tiny.split()])
    train_agent.main()
    said = capsys.readouterr()
    assert "learning for 64 steps in dreams: about a minute" in said.err
    assert "ep_rew_mean" in said.out
    scores = re.search(
        r"5 real games: a random player ([\d.]+), trained in dreams ([\d.]+)", said.out
    )
    assert scores is not None
    assert all(0 < float(score) <= 12 for score in scores.groups())  # twelve points end the game
    assert f"python -m play --env {tiny_run} --policy {out / 'policy.zip'}" in said.out
    assert load_sb3(out / "policy.zip", trusted=False).num_timesteps == 64
    assert "exists already" in one_line_error(train_agent.main)


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # of Box2D; crashes else
def test_the_driver_stays_on_the_road_by_large_and_by_small_pictures():
    for size in (96, 64):
        env = gymnasium.make("CarRacing-v3")
        frame, _ = env.reset(seed=1)
        total = 0.0
        for _ in range(60):
            action = drive(area_resized(frame, (size, size)))
            assert env.action_space.contains(action)
            for _ in range(4):
                frame, reward, *_ = env.step(action)
                total += float(reward)
        env.close()
        assert total > 100  # random drivers lose 10 in that time


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # of Box2D; crashes else
def test_the_car_moves_the_way_its_pose_says():
    plain = gymnasium.make("CarRacing-v3")
    posed = gymnasium.make("examples.car_racing:CarRacingPose-v3")
    frame, _ = plain.reset(seed=0)
    _, info = posed.reset(seed=0)
    spec = pose_of(posed)
    poses = [spec.read(info)]
    for _ in range(110):  # onto a bend
        action = drive(frame)
        frame, *_ = plain.step(action)
        seen, *_, info = posed.step(action)
        np.testing.assert_array_equal(seen, frame)
        poses.append(spec.read(info))
    plain.close()
    posed.close()
    path = np.array(poses)
    headings, moved = spec.radians(path[:-1]), np.diff(path[:, :2], axis=0)
    assert np.ptp(headings) > 0.5
    forward = np.stack([np.cos(headings), np.sin(headings)], 1)
    fast = np.linalg.norm(moved, axis=1) > 0.1
    assert fast.sum() > 50
    straight = (moved * forward).sum(1)[fast] / np.linalg.norm(moved[fast], axis=1)
    assert straight.min() > 0.95


def test_who_crosses_goes_up_mostly_and_by_the_seed_alone():
    frame = np.zeros((210, 160, 3), np.uint8)
    player, again = Crosses(), Crosses()
    actions = []
    for seed in range(8):
        player.reset(seed)
        actions.append([player(frame) for _ in range(100)])
        again.reset(seed)
        assert [again(frame) for _ in range(100)] == actions[-1]
    assert 0.4 < np.mean(np.asarray(actions) == UP) < 0.9
    assert set(np.unique(actions)) == {0, 1, 2}
