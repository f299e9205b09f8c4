"""Worlds whose actions are several numbers: steered, recorded, and played again bit for bit."""

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from played import session_of, write_session
from test_play_keymap import FIGHT, FIGHT_CONTROLS, FIGHT_MEANINGS

from collect.recorder import describe
from envs.interface import actions_of, controls_of
from envs.policy import StateObservation
from play.headless import walk
from play.pilot import Moment, Pilot
from play.replay_pilot import ReplayPilot
from play.session import read_session
from play.worlds import choose_world, load_policy
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.data.episodes import read_info
from worldmodel.data.merge import merge
from worldmodel.errors import UserError
from worldmodel.train import Train, train


class FightEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Its frame shows the sum of all actions, component by component."""

    metadata = {"render_modes": [], "render_fps": 20}  # noqa: RUF012
    action_space = FIGHT
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_meanings = FIGHT_MEANINGS
    controls = FIGHT_CONTROLS

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        self.sums = np.zeros(5, int)
        self.num_steps = 0
        return self._frame(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        assert self.action_space.contains(action)
        self.sums += action
        self.num_steps += 1
        return self._frame(), 0.0, self.num_steps == 40, False, {}

    def _frame(self) -> np.ndarray:
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[0, :5, 0] = self.sums % 256
        return frame


class DreamOfFight(FightEnv):
    """Begins where the real fight is after two actions."""

    num_starts = 1
    claimed: tuple[str, dict[str, Any]] = ("Fight-v0", {})
    past = ((1, 0, 1, 0, 10), (2, 2, 0, 0, 0))

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, float]]:
        super().reset(**kwargs)
        self.sums += np.sum(self.past, 0)
        return self._frame(), {}

    def real_moment(self, start: int) -> SimpleNamespace:
        env_id, env_kwargs = self.claimed
        return SimpleNamespace(
            env_id=env_id, env_kwargs=env_kwargs, seed=0, actions=np.asarray(self.past)
        )


@pytest.fixture(autouse=True)
def _registered() -> Any:
    gymnasium.register("Fight-v0", entry_point=lambda **_: FightEnv())
    yield
    del gymnasium.registry["Fight-v0"]


def robot() -> gymnasium.Env:
    return gymnasium.make("RobotPushing-v0", renderer="rays")


def play_through(env: gymnasium.Env, session: Any) -> bool | None:
    replayed = ReplayPilot(env, session)
    try:
        while not replayed.is_over:
            replayed.step(replayed.controls.idle)
    finally:
        replayed.close()
    return replayed.frames_agree


def test_a_robot_steered_by_keys_and_mouse_plays_again_bit_for_bit(tmp_path: Path) -> None:
    seen: list[Moment] = []
    pilot = Pilot(robot(), seed=3, watch=seen.append)
    before = pilot.moment.info
    held = [
        (("d",), (0, 0)),
        (("d", "w", "page down"), (0, 0)),
        (("space",), (-7, 3)),
        (("mouse 1",), (11, -40)),
        ((), (0, 0)),
    ]
    for keys, motion in held:
        pilot.step(pilot.controls.resolve(keys, motion))
    assert pilot.actions_taken[0] == (1, 0, 0, -1)
    assert pilot.actions_taken[1] == (1, 1, -1, -1)
    assert pilot.actions_taken[2] == (float(np.float32(-0.21)), float(np.float32(-0.09)), 0, 1)
    assert pilot.actions_taken[4] == (0, 0, 0, -1)
    after = pilot.moment.info
    assert after["x"] > before["x"]
    assert after["y"] > before["y"]
    pilot.close()
    session = session_of(seen, tmp_path / "s.json")
    assert session.episodes[0].actions == tuple(pilot.actions_taken)
    assert play_through(robot(), session) is True
    # A change in the last place of one number is another session.
    changed: list[Any] = list(session.episodes[0].actions)
    changed[2] = (float(np.nextafter(np.float32(-0.21), np.float32(0))), *changed[2][1:])
    episode = replace(session.episodes[0], actions=tuple(changed))
    write_session(tmp_path / "s.json", replace(session, episodes=(episode,)))
    assert read_session(tmp_path / "s.json").episodes[0].actions[2] == changed[2]


@pytest.mark.parametrize("make", [robot, FightEnv, DreamOfFight])
def test_a_random_walk_goes_through_every_space(make: Any, tmp_path: Path) -> None:
    seen: list[Moment] = []
    pilot = Pilot(make(), seed=1, watch=seen.append)
    walk(pilot, num_steps=60, seed=2, stop=SimpleNamespace(is_set=lambda: False))  # type: ignore
    pilot.close()
    session = session_of(seen, tmp_path / "s.json")
    actions: list[Any] = [action for episode in session.episodes for action in episode.actions]
    assert len(session.episodes) > 1
    assert 10 <= sum(a != b for a, b in itertools.pairwise(actions)) < 30  # it holds
    assert all(len({numbers[i] for numbers in actions}) > 1 for i in range(len(actions[0])))
    assert play_through(make(), session) is True


@pytest.mark.parametrize(
    "action",
    [0, (0, 0, 0, 0), (0, 0, 0, 0, 11), (0, 0, 0, 0, -1), (0, 0, 0, 0, 5.0), (0.5, 0, 0, 0, 5)],
)
def test_a_session_with_other_actions_is_refused(action: Any, tmp_path: Path) -> None:
    session = session_of([Pilot(FightEnv(), seed=0).moment], tmp_path / "s.json")
    episode = replace(session.episodes[0], actions=(action,))
    with pytest.raises(UserError, match=r"an action outside MultiDiscrete\(\[ 3"):
        ReplayPilot(FightEnv(), replace(session, episodes=(episode,)))


def test_the_real_fight_follows_the_dream() -> None:
    pilot = Pilot(DreamOfFight(), seed=0)
    pilot.step(pilot.controls.resolve(("w", "space")))
    assert pilot.toggle_real() is None
    pilot.step(pilot.controls.resolve(("d",), (30, 0)))
    assert pilot.moment.real is not None
    np.testing.assert_array_equal(pilot.moment.real.frame, pilot.moment.frame)


@pytest.mark.parametrize(
    "claimed",
    [
        ("antigravity:Fight-v0", {}),
        ("Fight-v0", {"env_id": "antigravity:Fight-v0"}),
        ("Fight-v0", {"env_id": "Fight-v0", "env_kwargs": {"env_id": "antigravity:Fight-v0"}}),
        ("Fight-v0", {"worlds": [{"env_id": ["antigravity:Fight-v0"]}]}),
    ],
)
def test_no_name_in_a_checkpoint_has_code_imported(
    claimed: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DreamOfFight, "claimed", claimed)
    note = Pilot(DreamOfFight(), seed=0).toggle_real() or ""
    assert "imports a module" in note
    assert "antigravity:Fight-v0" in note
    assert "antigravity" not in sys.modules


def test_keys_given_go_before_a_worlds_own_and_these_before_the_usual_ones() -> None:
    given = {"idle": [0, 0, 0, 0, 2], "keys": []}
    assert Pilot(FightEnv(), seed=0, keys=given).controls.idle == (0, 0, 0, 0, 2)
    env = FightEnv()
    assert Pilot(env, seed=0).controls.idle == (0, 0, 0, 0, 5)
    env.controls = {}
    assert Pilot(env, seed=0).controls.idle == (0, 0, 0, 0, 0)
    env.controls = {**FIGHT_CONTROLS, "idle": 7}
    with pytest.raises(UserError, match=r"of this world: idle must.*; use others with --keys FILE"):
        Pilot(env, seed=0)


def test_a_policy_on_the_state_steers_the_real_bin_and_no_dream(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    smallest = gymnasium.make("RobotPushing-v0", renderer="rays", obs_size=1)
    PPO("MlpPolicy", StateObservation(smallest), n_steps=2, batch_size=2).save(tmp_path / "p.zip")
    env = robot()
    seen: list[Moment] = []
    policy = load_policy(tmp_path / "p.zip", env, trusted=True, seed=0)
    pilot = Pilot(env, seed=0, find_policy=lambda: policy, watch=seen.append)
    pilot.step(pilot.controls.idle)
    pilot.toggle_policy()
    moment = pilot.step(pilot.controls.idle)
    assert moment.steered_by == "policy"
    assert pilot.actions.contains(pilot.actions_taken[1])
    pilot.close()
    session = session_of(seen, tmp_path / "s.json")
    assert play_through(robot(), session) is True
    with pytest.raises(UserError, match=r"observes Box.*, but .* only observe RGB") as refused:
        load_policy(tmp_path / "p.zip", DreamOfFight(), trusted=True, seed=0)
    assert "\n" not in str(refused.value)


def test_a_person_in_the_bin_is_not_hurried() -> None:
    env = choose_world("robot-pushing").open(print)
    assert env.unwrapped.length > 1000  # type: ignore[attr-defined]
    env.close()


def test_controls_go_through_the_data_to_the_dream(toy_data: Path, tmp_path: Path) -> None:
    controls = {"idle": 0, "keys": [{"keys": ["d"], "sets": {"0": 1}}]}
    data, old = tmp_path / "data", EpisodeReader(toy_data)
    with EpisodeWriter(data, replace(old.info, controls=controls)) as writer:
        for i in range(len(old)):
            writer.append(old.episode(i))
    assert read_info(data).controls == controls
    out = tmp_path / "run"
    train(Train("tiny", data, out, tokenizer_steps=1, prior_steps=1, device="cpu"))
    pilot = Pilot(gymnasium.make("VideoGPTDream-v0", checkpoint=str(out)), seed=0)
    assert pilot.env.unwrapped.controls == controls  # type: ignore[attr-defined]
    assert pilot.step(pilot.controls.resolve(("d",))).action == 1
    assert pilot.controls.resolve(("right",)) == 0  # not the usual keys
    pilot.close()
    # Another folder's meaning: keys of actions that there are not.
    config = json.loads((out / "config.json").read_text())
    config["world"]["controls"]["idle"] = 2
    (out / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "play", "--env", str(out), "--headless", "--steps", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "idle must be an integer from 0 to 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_an_environment_announces_is_written_down_as_json(tmp_path: Path) -> None:
    info = describe("RobotPushing-v0", {"renderer": "rays", "length": 9}, {})
    robot: Any = gymnasium.make("RobotPushing-v0").unwrapped
    assert info.controls == json.loads(json.dumps(robot.controls))
    robot.close()
    env = FightEnv()
    env.controls = {"idle": (0, 0, 0, 0, 5), "keys": ()}
    announced = controls_of(env, actions_of(env))
    assert announced is not None
    assert announced.to_json() == {"idle": [0, 0, 0, 0, 5], "keys": []}
    for wrong in ({"idle": np.zeros(5), "keys": []}, [1, 2], {"keys": ["x" * 2**16]}):
        env.controls = wrong  # type: ignore[assignment]
        with pytest.raises(UserError, match="the controls of this world: "):
            controls_of(env, actions_of(env))


def test_older_sets_have_no_controls_and_mix_with_newer_ones(
    toy_data: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(toy_data, old)
    meta = json.loads((old / "meta.json").read_text())
    del meta["controls"]
    (old / "meta.json").write_text(json.dumps(meta))
    assert read_info(old).controls == {}
    shutil.copytree(toy_data, new)
    controls = {"idle": 0, "keys": []}
    (new / "meta.json").write_text(json.dumps({**meta, "controls": controls}))
    merge([old, new], tmp_path / "both")
    assert read_info(tmp_path / "both").controls == controls
    for wrong in ([], None, {"keys": "x" * 2**16}):
        (new / "meta.json").write_text(json.dumps({**meta, "controls": wrong}))
        with pytest.raises(UserError, match=r"controls (must|should) be"):
            read_info(new)
