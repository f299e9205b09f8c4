"""Training in a dream and being scored in the real game, end to end in a toy world."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line_error
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_square import MovingSquare, registered_square

from collect import transfer as command
from collect.policies import FRAME_RECIPE, VecLearningReward, snapshots
from collect.rewards import pickup_reward
from collect.transfer import Transfer, transfer
from collect.transfer_report import Arm, Scored, write_report
from collect.transfer_worlds import DreamWorlds, Scores
from envs.sb3 import DreamVecEnv
from worldmodel.errors import UserError
from worldmodel.storage.files import locked


@pytest.fixture(autouse=True)
def square():
    with registered_square():
        yield


@pytest.fixture
def options(tiny_run: Path, tmp_path: Path) -> Transfer:
    return Transfer(
        dream=str(tiny_run),
        out=tmp_path / "transfer",
        steps=512,
        seeds="0",
        num_envs=2,
        horizon="12",
        episodes=4,
        curve_every=256,
        curve_episodes=2,
    )


@pytest.mark.slow
def test_a_policy_learns_in_the_dream_and_is_scored_outside(options: Transfer, capsys):
    transfer(options)
    report = json.loads((options.out / "report.json").read_text())
    kinds = ["random", "dream-horizon12-temperature-own-resets"]
    assert sorted(report["summary"]) == sorted([*kinds, "real"])
    games = {entry["policy"]: len(entry["in_dream"]) for entry in report["scored"]}
    assert games == {f"{kind}-seed0": 4 for kind in (*kinds, "real")}
    on_the_way = [entry["steps"] for entry in report["scored"] if entry["policy"] == "real-seed0"]
    assert on_the_way == [256, 512]
    assert list(snapshots(options.out / "real-seed0" / "policy.zip")) == [256]
    # In the real toy a point is an action to the right: twelve end the game.
    for entry in report["scored"]:
        assert all(0 <= value <= 12 and value == int(value) for value in entry["in_real"])
    for name in ("curves.png", "ranking.png", "report.md"):
        assert (options.out / name).stat().st_size > 0
    assert "rank correlation" in capsys.readouterr().out

    # The same command again learns nothing and plays nothing.
    files = [*options.out.rglob("*.zip"), options.out / "scores.json"]
    before = {path: path.stat().st_mtime_ns for path in files}
    transfer(options)
    assert before == {path: path.stat().st_mtime_ns for path in files}
    assert json.loads((options.out / "report.json").read_text())["scored"] == report["scored"]
    transfer(replace(options, curve_episodes=0))
    finished = json.loads((options.out / "report.json").read_text())["scored"]
    assert finished == [entry for entry in report["scored"] if entry["steps"] in (0, 512)]
    for changed in ({"steps": 1024}, {"num_envs": 4}):
        with pytest.raises(UserError, match=f"{next(iter(changed))} was"):
            transfer(replace(options, **changed))
    (options.out / "settings.json").unlink()
    with pytest.raises(UserError, match="learned with other settings"):
        transfer(options)


def test_a_damaged_policy_is_told_in_a_line(options: Transfer):
    path = options.out / "real-seed0" / "policy.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK but no policy")
    settings = {"dream": "", "real": ["MovingSquare", {}], "steps": 512, "num_envs": 2}
    (options.out / "settings.json").write_text(json.dumps({**settings, "rule": None}))
    with pytest.raises(UserError, match=r"policy.zip is not a stable-baselines3 policy"):
        transfer(options)
    assert path.read_bytes() == b"PK but no policy"


@pytest.mark.slow
def test_a_better_dream_stands_beside_the_real_policies_that_are_there(
    options: Transfer, tiny_run: Path, tmp_path: Path
):
    transfer(options)
    learned = {policy: policy.stat().st_mtime_ns for policy in options.out.glob("real-*/*.zip")}
    better = shutil.copytree(tiny_run, tmp_path / "better")
    config = json.loads((better / "config.json").read_text())
    config["world"]["temperature"] = 0.9
    (better / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"another dream: remove dream-\S+-seed0 there"):
        transfer(replace(options, dream=str(better)))
    for folder in options.out.glob("dream-*"):
        shutil.rmtree(folder)
    transfer(replace(options, dream=str(better)))
    assert learned == {policy: policy.stat().st_mtime_ns for policy in learned}


def test_dreams_are_scored_from_first_frames_of_real_games(tiny_run: Path):
    worlds = DreamWorlds(str(tiny_run), None)
    worlds.first_moments(5, seed=0)
    real = MovingSquare()
    for i, moment in enumerate(worlds.first):
        frame, _ = real.reset(seed=i)
        np.testing.assert_array_equal(moment.frames, frame[None])
        assert moment.variables.tolist() == [[0.0]]
    environments = worlds.scoring("dream", 4)
    environments.reset()
    dreams = environments.unwrapped
    assert isinstance(dreams, DreamVecEnv)
    assert [info["column"] for info in dreams.reset_infos] == [0.0] * 4
    assert dreams.dreams.horizon == MovingSquare.most_steps
    environments.close()


def test_many_environments_get_the_rewards_of_a_rule():
    class Pickups(MovingSquare):
        """Columns are medikits, lost ones poison."""

        def step(self, action):
            frame, reward, over, cut_off, _ = super().step(action)
            return frame, reward, over, cut_off, {"pickups": float(self.column // 8 - action)}

        def reset(self, *, seed=None, options=None):
            frame, _ = super().reset(seed=seed)
            return frame, {"pickups": 0.0}

    single = Pickups()
    many = VecLearningReward(DummyVecEnv([Pickups, Pickups]), pickup_reward)
    many.reset()
    _, before = single.reset()
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        action = int(rng.random() < 0.8)
        _, own, terminated, truncated, info = single.step(action)
        reward, before = pickup_reward(before, info, own, terminated), info
        _, rewards, over, _ = many.step(np.array([action, 0]))
        assert rewards[0] == pytest.approx(reward)
        assert over[0] == (terminated or truncated)
        seen.add(round(reward, 2))
        if over[0]:
            _, before = single.reset()
    assert {0.01, 1.01, -0.49, -0.99} & seen >= {0.01, -0.49}
    assert min(seen) < -0.9  # a death


def spread(mean: float, count: int = 40) -> np.ndarray:
    """Returns of that mean, spread evenly about it."""
    return mean + np.linspace(-5, 5, count)


def test_the_report_says_how_much_of_the_real_training_the_dream_replaces(tmp_path: Path):
    options = Transfer(steps=1000)
    dream = Arm("dream", 0, 300, 1.0, "resets", "resets")
    scored = [
        Scored(Arm("random", 0), 0, spread(100), spread(110)),
        Scored(dream, 500, spread(150), spread(170)),
        Scored(dream, 1000, spread(260), spread(300)),
        Scored(replace(dream, seed=1), 1000, spread(280), spread(320)),
        Scored(Arm("real", 0), 1000, spread(300), spread(330)),
    ]
    write_report(tmp_path, options, "Toy-v0", scored)
    report = json.loads((tmp_path / "report.json").read_text())
    value, low, high, _ = report["summary"][dream.kind]["transfer"]
    assert value == pytest.approx((270 - 100) / (300 - 100))
    assert low < value < high
    assert report["summary"][dream.kind]["in_real"][0] == pytest.approx(270)
    assert report["summary"]["real"]["dream_over_real"][0] == pytest.approx(1.1)
    assert report["ranking"]["num_policies"] == 5
    assert report["ranking"]["rank_correlation"][0] == pytest.approx(1.0)


def test_a_report_is_drawn_of_games_that_all_end_alike(tmp_path: Path):
    # The mean of so many equal numbers is off in the last bit, below its interval or above it.
    for value in (25.83, 25.3, 0.1, 3.3):
        alike = np.full(20, value)
        scored = [
            Scored(Arm("random", 0), 0, alike, alike),
            Scored(Arm("real", 0), 9, alike, alike),
        ]
        write_report(tmp_path, Transfer(out=tmp_path, steps=9), "Toy-v0", scored)


def test_the_learning_rate_does_not_fall_below_zero():
    # stable-baselines3 asks for it once more after the end where a rollout goes beyond.
    rate = FRAME_RECIPE["learning_rate"]
    assert [rate(1.0), rate(0.5), rate(-0.2)] == [5e-4, 2.5e-4, 0.0]


def test_two_processes_keep_each_others_scores(tiny_run: Path, tmp_path: Path):
    worlds = DreamWorlds(str(tiny_run), None)
    worlds.first_moments(2, 0)
    path = tmp_path / "scores.json"
    one, other = (Scores(path, worlds) for _ in range(2))
    real, dream = one.games(None, "real", 2), one.games(None, "dream", 2)
    one.play([real])
    other.play([dream])
    again = Scores(path, worlds)
    assert again.known.keys() == {real.key, dream.key}
    assert again.of(real).tolist() == one.of(real).tolist()


def test_an_interval_of_the_dream_over_the_game_is_of_the_same_trainings(tmp_path: Path):
    """Trainings differ, the ratio doesn't: its interval is narrow."""
    real = Arm("real", 0)
    scored = [Scored(Arm("random", 0), 0, spread(10), spread(10))]
    for seed, mean in enumerate((100, 300, 310)):
        scored.append(Scored(replace(real, seed=seed), 9, spread(mean), spread(1.1 * mean)))
    write_report(tmp_path, Transfer(steps=9), "Toy-v0", scored)
    report = json.loads((tmp_path / "report.json").read_text())
    value, low, high, _ = report["summary"]["real"]["dream_over_real"]
    assert value == pytest.approx(1.1)
    assert 1.08 < low < high < 1.12


def test_a_folder_that_another_writes_to_is_left_alone(options: Transfer):
    with locked(options.out):
        with pytest.raises(UserError, match="being written to by another process"):
            transfer(options)
        assert [path.name for path in options.out.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--dream", "nowhere"], "unknown checkpoint"),
        (["--steps", "0"], "--steps must be from 1"),
        (["--seeds", "a"], "--seeds must be comma-separated numbers"),
        (["--horizon", "0"], "--horizon must be at least 1"),
        (["--seeds", "0,0"], "may not repeat a value"),
        (["--temperature", "nan"], "--temperature"),
        (["--temperature", "own,own"], "may not repeat a value"),
        (["--temperature", "inf"], "temperature must be at least 0"),
        (["--real", "no_such_module:X-v0"], "no_such_module"),
        (["--starts", "there"], "there: there are no episodes here"),
        (["--real", "CartPole-v1"], "is no dream of CartPole-v1"),
        (["--real", "Nothing-v0"], "Nothing"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_mistakes_are_told_in_a_line(tiny_run: Path, tmp_path: Path, monkeypatch, wrong, message):
    arguments = ["transfer", "--dream", str(tiny_run), "--out", str(tmp_path / "out"), *wrong]
    monkeypatch.setattr("sys.argv", arguments)
    assert message in one_line_error(command.main)
    assert not (tmp_path / "out").exists()
