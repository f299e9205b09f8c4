"""The command itself, on the real engine, tiny."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import one_line_error
from data_samples import assert_same_episode
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

import envs  # noqa: F401  registers the environments
from collect.recording import choose_behaviour
from collect.vizdoom import WITH_POLICY, Collect, collect, main
from envs.engine_guard import engines_using
from envs.policy import FramePolicy
from worldmodel.data import DatasetInfo, EpisodeReader
from worldmodel.data.episodes import read_info, write_info
from worldmodel.data.merge import merge
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.media.resize import AreaResize

ROOT = Path(__file__).parent.parent
ENV_ID = "DoomHealthGatheringSupreme-v0"


def _command(out: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "collect.vizdoom", "--out", str(out), *map(str, arguments)]


def _run(out: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(out, *arguments), cwd=ROOT, capture_output=True, text=True)


def _stacked_env():
    return VecTransposeImage(VecFrameStack(DummyVecEnv([lambda: gymnasium.make(ENV_ID)]), 2))


@pytest.fixture(scope="session")
def policy_file(tmp_path_factory) -> Path:
    """A policy that has learned nothing, but looks and acts like a trained one."""
    env = _stacked_env()
    path = tmp_path_factory.mktemp("policy") / "policy.zip"
    PPO("CnnPolicy", env, seed=0, device="cpu", n_steps=2, batch_size=2).save(path)
    env.close()
    return path


def test_frames_are_stacked_as_stable_baselines3_does(policy_file):
    policy = FramePolicy(policy_file, trusted=True)
    stack = policy._sampler._stack
    assert policy.num_stacked == 2
    assert stack is not None
    env, vec_env = gymnasium.make(ENV_ID), _stacked_env()
    try:
        vec_env.seed(4)
        stacked, (frame, _) = vec_env.reset(), env.reset(seed=4)
        for _ in range(12):
            action = policy.act(frame, deterministic=True)
            assert isinstance(stacked, np.ndarray)
            expected, _ = policy.model.predict(stacked, deterministic=True)
            np.testing.assert_array_equal(
                np.concatenate(stack._last, -1).transpose(2, 0, 1), stacked[0]
            )
            assert action == expected[0]
            (stacked, *_), (frame, *_) = vec_env.step(np.array([action])), env.step(action)
    finally:
        env.close()
        vec_env.close()


def test_a_policy_draws_from_its_own_seed(policy_file):
    frame = np.zeros((64, 64, 3), np.uint8)
    one, other = (
        FramePolicy(policy_file, trusted=True, seed=1),
        FramePolicy(policy_file, trusted=True, seed=2),
    )
    drawn = [int(one.act(frame)) for _ in range(30)]
    assert [int(other.act(frame)) for _ in range(30)] != drawn
    other.reset(seed=1)
    assert [int(other.act(frame)) for _ in range(30)] == drawn


def test_files_that_are_no_policy_are_refused(tmp_path, policy_file):
    with pytest.raises(UserError, match="there is no policy file"):
        FramePolicy(tmp_path / "none.zip", trusted=True)
    text = tmp_path / "text.zip"
    text.write_text("hello")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data", "{}")
    for path in (text, tmp_path / "other.zip"):
        with pytest.raises(UserError, match="not a stable-baselines3 policy"):
            FramePolicy(path, trusted=True)
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", "")
    with pytest.raises(UserError, match="cannot be read as a policy"):
        FramePolicy(tmp_path / "broken.zip", trusted=True)

    policy = FramePolicy(policy_file, trusted=True)
    frames, actions = (
        gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8),
        gymnasium.spaces.Discrete(4),
    )
    policy.check_fits(frames, actions)
    with pytest.raises(UserError, match="observes frames"):
        policy.check_fits(gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8), actions)
    with pytest.raises(UserError, match="acts in"):
        policy.check_fits(frames, gymnasium.spaces.Discrete(5))


def test_behaviours_come_in_their_shares():
    chosen = [choose_behaviour(0, i, WITH_POLICY) for i in range(4000)]
    for behaviour, share in WITH_POLICY.items():
        assert chosen.count(behaviour) / 4000 == pytest.approx(share, abs=0.03)


def test_a_policy_is_scored_recorded_and_kept(tmp_path, policy_file):
    arguments = (
        "--policy",
        policy_file,
        "--episodes",
        10,
        "--seed",
        1,  # under which all three play
        "--length",
        12,
        "--evaluate-episodes",
        2,
        "--workers",
        1,
    )
    done = _run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "times as many tics as random" in done.stdout
    assert verify(tmp_path).problems == []
    reader = EpisodeReader(tmp_path)
    assert len(reader) == 10
    assert {row["policy"] for row in reader.index} == {
        b"policy",
        b"policy+noise",
        b"random",
        b"exploring",
    }
    assert reader.info.env_id == ENV_ID
    assert reader.info.variable_names == ("health", "pickups")
    assert reader.info.policies["scores"]["random"]["num_episodes"] == 2
    assert reader.info.policies["scores"]["random"]["mean_tics"] > 300
    assert (tmp_path / "policy.zip").read_bytes() == policy_file.read_bytes()

    # The seed and the actions stored render an episode again.
    env = gymnasium.make(ENV_ID)
    try:
        for i in range(3):
            episode = reader.episode(i)
            frame, _ = env.reset(seed=episode.seed)
            frames = [frame] + [env.step(action)[0] for action in episode.action]
            np.testing.assert_array_equal(np.stack(frames), episode.frames)
    finally:
        env.close()

    # Other settings do not mix into the set; more episodes do, and nothing is measured again.
    before = (tmp_path / "policy-score.json").stat().st_mtime_ns
    same = Collect(
        out=tmp_path,
        policy=str(policy_file),
        episodes=12,
        length=12,
        evaluate_episodes=2,
        workers=1,
        seed=1,
    )
    for changes, message in (
        ({"seed": 2}, "seed 1 against 2"),
        ({"policy": "train"}, "train_steps None against 500000"),
        ({"policy": "random"}, "policy_sha256"),
    ):
        with pytest.raises(UserError, match=f"recorded with other options: {message}"):
            collect(replace(same, **changes))
    collect(same)
    assert len(EpisodeReader(tmp_path)) == 12
    assert (tmp_path / "policy-score.json").stat().st_mtime_ns == before


def test_frames_made_in_another_way_are_not_mixed(tmp_path, monkeypatch):
    now = Collect(
        out=tmp_path / "now", policy="random", episodes=2, length=6, evaluate_episodes=0, workers=1
    )
    collect(now)
    info = read_info(now.out)
    assert "exact area" in info.rendering
    # Recorded when descriptions did not say it yet: noted once an episode has come out the same.
    write_info(now.out, replace(info, rendering=""))
    assert DatasetInfo.from_json(_without(info, "rendering")).rendering == ""
    other = replace(now, out=tmp_path / "other", seed=1)
    collect(other)
    with pytest.raises(UserError, match="cannot be joined: rendering not said against 160x120"):
        merge([now.out, other.out], tmp_path / "merged")
    collect(replace(now, episodes=3))
    assert read_info(now.out) == info
    assert merge([now.out, other.out], tmp_path / "merged") == (5, 0)
    assert read_info(tmp_path / "merged").rendering == info.rendering
    # The same with frames that are not those of today: refused, and left as it was.
    write_info(now.out, replace(info, rendering=""))
    brighter = AreaResize.__call__
    monkeypatch.setattr(AreaResize, "__call__", lambda self, image: brighter(self, image) | 1)
    with pytest.raises(UserError, match="episode 0 has different frames"):
        collect(replace(now, episodes=4))
    assert read_info(now.out).rendering == ""
    assert len(EpisodeReader(now.out)) == 3


def _without(info: DatasetInfo, name: str) -> dict:
    """A description as it was written before it had this entry."""
    return {key: value for key, value in info.to_json().items() if key != name}


def _descendants(parent: int) -> set[int]:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = {parent}
    while new := {child for child, p in parents.items() if p in found} - found:
        found |= new
    return found - {parent}


def _running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_interrupted_and_resumed_gives_the_same_set(tmp_path, how):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = ("--policy", "random", "--episodes", 40, "--length", 60, "--evaluate-episodes", 0)
    out = tmp_path / "interrupted"
    process = subprocess.Popen(
        _command(out, *arguments),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(list(out.glob("episode-*.h5"))) < 8:
        assert process.poll() is None
        time.sleep(0.02)
    family = _descendants(process.pid)
    assert engines_using(str(temporary))
    if how == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    assert process.wait(60) == (-9 if how == signal.SIGKILL else 130)
    end = time.monotonic() + 60
    while any(map(_running, family)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [child for child in family if _running(child)]
    assert not list(temporary.glob("vizdoom-*"))

    if how == signal.SIGINT:  # nothing is left half done
        assert not list(out.glob("episode-*"))
        assert verify(out).problems == []
        return
    resumed = _run(out, *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert verify(out).problems == []
    reader = EpisodeReader(out)
    assert reader.index["episode_id"].tolist() == list(range(40))

    whole = tmp_path / "whole"
    assert _run(whole, *arguments, "--episodes", 12, "--workers", 1).returncode == 0
    uninterrupted = EpisodeReader(whole)
    for i in range(12):
        assert_same_episode(reader.episode(i), uninterrupted.episode(i))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenario", "e1m1"), "unknown scenario 'e1m1'; the known ones are: hgs"),
        (("--episodes", 0), "--episodes must be from 1 to"),
        (("--policy", "no/such.zip"), "there is no policy file no/such.zip"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", _command(tmp_path / "out", *arguments)[2:])
    assert one_line_error(main).startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_policy_is_trained_and_training_goes_on(tmp_path):
    arguments = ("--episodes", 3, "--length", 5, "--evaluate-episodes", 0)
    first = _run(tmp_path, *arguments, "--train-steps", 2048)
    assert first.returncode == 0, first.stderr
    assert PPO.load(tmp_path / "policy.zip", device="cpu").num_timesteps == 2048
    score_only = _run(
        tmp_path, "--train-steps", 2048, "--length", 5, "--evaluate-episodes", 1, "--score-only"
    )
    assert score_only.returncode == 0, score_only.stderr
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["policies"]["scores"]["policy"]["num_episodes"] == 1
    # A policy trained further would be another one: its episodes do not mix with the first's.
    further = _run(tmp_path, *arguments, "--train-steps", 4096)
    assert further.returncode == 2
    assert "train_steps 2048 against 4096" in further.stderr
    assert PPO.load(tmp_path / "policy.zip", device="cpu").num_timesteps == 2048
