"""`collect.gym --policy train`: a policy learns in any environment, plays, and is recorded."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC

from collect import policies
from collect.gym import Collect, collect
from collect.policies import Improvement, is_trained, train_policy
from collect.rewards import Training
from envs.policy import FramePolicy, StatePolicy, load_policy
from worldmodel.data import EpisodeReader
from worldmodel.data.verify import verify
from worldmodel.errors import UserError


def recording(env_id: str, out: Path, *, length: int, train_steps: int) -> Collect:
    """Two episodes in small frames by a policy that learns first, unscored."""
    return Collect(
        env_id=env_id,
        size=36,
        out=out,
        length=length,
        episodes=2,
        policy="train",
        train_steps=train_steps,
        evaluate_episodes=0,
        workers=1,
    )


def test_a_policy_learns_from_numbers_and_is_recorded(tmp_path: Path) -> None:
    """A pole that random players drop within 25 steps stands three times as long."""
    out = tmp_path / "pole"
    options = recording("CartPole-v1", out, length=20, train_steps=4_800)
    collect(replace(options, episodes=6, evaluate_episodes=4))
    scores = json.loads((out / "policy-score.json").read_text())["scores"]
    assert scores["policy"]["mean_return"] > 3 * scores["random"]["mean_return"]
    assert verify(out).problems == []
    players = {EpisodeReader(out).episode(i).policy for i in range(6)}
    assert players <= {"policy", "policy+noise", "policy+detours", "random"}
    assert len(players) > 1
    env = gymnasium.make("Pixels-v0", env_id="CartPole-v1", size=36)
    assert isinstance(load_policy(out / "policy.zip", env, trusted=False), StatePolicy)


def test_sac_learns_where_actions_are_a_box(tmp_path: Path) -> None:
    out = tmp_path / "pendulum"
    collect(recording("Pendulum-v1", out, length=10, train_steps=1_100))
    env = gymnasium.make("Pixels-v0", env_id="Pendulum-v1", size=36)
    policy = load_policy(out / "policy.zip", env, trusted=False)
    assert isinstance(policy, StatePolicy)
    assert isinstance(policy.model, SAC)
    frame, _ = env.reset(seed=0)
    assert env.action_space.contains(policy.act(frame))


@pytest.mark.parametrize("env_id", ["toy_envs:Steered-v0", "toy_envs:Instructed-v0"])
def test_a_policy_learns_from_frames_where_it_observes_no_numbers(
    tmp_path: Path, env_id: str
) -> None:
    out = tmp_path / "frames"
    collect(recording(env_id, out, length=5, train_steps=10))
    env = gymnasium.make("Pixels-v0", env_id=env_id, size=36)
    policy = load_policy(out / "policy.zip", env, trusted=False)
    assert isinstance(policy, FramePolicy)
    assert isinstance(policy.model, PPO)


def test_training_stops_when_nothing_improves_and_resumes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pendulum's first 60 episodes under PPO are as bad as its last."""
    monkeypatch.setattr(policies, "FEWEST_EPISODES", 2)
    path = tmp_path / "policy.zip"
    kwargs = {"env_id": "Pendulum-v1", "size": 36, "is_blank": True}
    training = Training("state", 20_000, None, patience=0.2)
    steps: list[int] = []

    def interrupted(done: int) -> None:
        steps.append(done)
        if done > 2_500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_policy("Pixels-v0", kwargs, training, path, on_progress=interrupted)
    assert not is_trained(path, 20_000)
    monkeypatch.setattr(Improvement, "note", _never_better)
    learned = train_policy("Pixels-v0", kwargs, training, path, on_progress=steps.append)
    assert learned == steps[-1] < 10_000
    assert is_trained(path, 20_000, patience=0.2)
    assert not is_trained(path, 200_000, patience=0.2)  # asked for more, it learns more


def _never_better(self: Improvement, mean_return: float, steps: int) -> None:
    self.best, self.at = 0.0, self.at or steps


def test_the_best_return_is_what_later_ones_are_measured_by() -> None:
    improvement = Improvement()
    for steps, mean in ((100, -10.0), (200, -5.0), (300, -4.99), (400, -5.1)):
        improvement.note(mean, steps)
    assert (improvement.best, improvement.at) == (-5.0, 200)
    assert [improvement.is_over(400, most) for most in (200, 201, None)] == [True, False, False]
    improvement.note(-3.0, 500)
    assert not improvement.is_over(500, 200)
    assert not Improvement().is_over(500, 200)  # no episode has ended


def test_sac_collects_before_it_learns_on(tmp_path: Path) -> None:
    """After a stop its replay buffer is empty."""
    path = tmp_path / "policy.zip"
    kwargs = {"env_id": "Pendulum-v1", "size": 36, "is_blank": True}
    learned = []
    for num_steps in (1_050, 1_100):
        training = Training("state", num_steps, None, algorithm="sac")
        train_policy("Pixels-v0", kwargs, training, path)
        learned.append(SAC.load(path)._n_updates)
    assert learned == [50, 50]


def test_a_policy_learns_in_one_world_only(tmp_path: Path) -> None:
    options = replace(
        recording("CartPole-v1", tmp_path / "pole", length=5, train_steps=1_200), score_only=True
    )
    collect(options)
    for other, name in (({"frame_skip": 2}, "env_kwargs"), ({"seed": 1}, "seed")):
        with pytest.raises(UserError, match=rf"has learned with other settings \({name}\)"):
            collect(replace(options, **other))
    collect(replace(options, train_steps=1_300))  # learns on


def test_frames_too_small_for_a_policy_are_refused(tmp_path: Path) -> None:
    options = recording("toy_envs:Steered-v0", tmp_path / "small", length=5, train_steps=10)
    with pytest.raises(UserError, match="need 36 pixels a side or more, not 32: record with"):
        collect(replace(options, size=32))


def test_blank_frames_play_the_same_game() -> None:
    drawn, blank = (
        gymnasium.make("Pixels-v0", env_id="CartPole-v1", size=36, is_blank=is_blank)
        for is_blank in (False, True)
    )
    for env in (drawn, blank):
        env.reset(seed=3)
    for action in (0, 1, 1):
        (seen, *outcome), (black, *same) = drawn.step(action), blank.step(action)
        assert seen.any()
        assert not black.any()
        assert outcome == same
        np.testing.assert_array_equal(drawn.unwrapped.state(), blank.unwrapped.state())  # pyright: ignore[reportAttributeAccessIssue]


def test_rewards_are_scaled_as_before_when_training_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards of any size give steps of one size; what is known of it is in the policy's file."""
    path = tmp_path / "policy.zip"
    kwargs = {"env_id": "toy_envs:Steered-v0", "size": 36}
    monkeypatch.setattr(policies, "FRAME_RECIPE", {"n_steps": 4, "n_epochs": 1})
    for num_steps in (64, 128):
        train_policy("Pixels-v0", kwargs, Training("frames", num_steps, None), path, num_workers=2)
    _, spread, count = PPO.load(path).running_returns  # pyright: ignore[reportAttributeAccessIssue]
    assert count == pytest.approx(128 + 1e-4)
    assert spread > 0


def test_a_function_plays(tmp_path: Path) -> None:
    """Its actions are the environment's own, from 1 to 3 here; recorded ones count from 0."""
    out = tmp_path / "frames"
    options = recording("toy_envs:Steered-v0", out, length=6, train_steps=10)
    collect(replace(options, policy="toy_envs:Alternating", episodes=8))
    collect(replace(options, policy="toy_envs:Alternating", episodes=12))  # resumes
    reader = EpisodeReader(out)
    played = [reader.episode(i) for i in range(12)]
    by_function = [episode.action for episode in played if episode.policy == "policy"]
    assert by_function
    for action in by_function:
        assert action.tolist() in ([1, 2, 1, 2, 1, 2], [2, 1, 2, 1, 2, 1])


def test_two_functions_of_a_module_are_two_policies(tmp_path: Path) -> None:
    options = recording("toy_envs:Steered-v0", tmp_path / "set", length=6, train_steps=10)
    collect(replace(options, policy="toy_envs:Alternating"))
    with pytest.raises(UserError, match="was recorded with other options: policy_sha256"):
        collect(replace(options, policy="toy_envs:confused", episodes=4))


def test_an_environment_that_fails_in_training_is_reported(tmp_path: Path) -> None:
    kwargs = {"env_id": "toy_envs:Broken-v0", "size": 36}
    training = Training("frames", 100, None)
    with pytest.raises(UserError, match="an environment failed in its process"):
        train_policy("Pixels-v0", kwargs, training, tmp_path / "policy.zip", num_workers=2)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("toy_envs:nobody", "--policy toy_envs:nobody can't be imported: module 'toy_envs' has no"),
        ("no_such_module:act", "can't be imported: No module named 'no_such_module'"),
        ("toy_envs:__doc__", "not a function"),
        ("toy_envs:confused", "chose left, which is not in the environment's Discrete"),
    ],
)
def test_what_is_no_policy_is_refused(tmp_path: Path, policy: str, message: str) -> None:
    options = recording("toy_envs:Steered-v0", tmp_path / "set", length=6, train_steps=10)
    with pytest.raises(UserError, match=message):
        collect(replace(options, policy=policy, episodes=20))
