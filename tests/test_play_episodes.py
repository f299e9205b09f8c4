"""What is played becomes episodes that training takes."""

import errno

import gymnasium
import numpy as np
import pytest
from test_play_window import until

from collect.recorder import describe
from envs import recording
from envs.recording import RecordEpisodes
from play.command import PlayOptions, run
from play.pilot import Pilot
from play.worker import HeldKeys, Worker
from worldmodel.command import local_command
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.data.verify import verify
from worldmodel.errors import UserError

GAME = "DoomHealthGatheringSupreme-v0"


def game(folder, **settings) -> RecordEpisodes:
    return RecordEpisodes(gymnasium.make(GAME), folder, env_id=GAME, **settings)


def test_episodes_are_what_was_played(tmp_path) -> None:
    env = game(tmp_path)
    random = np.random.default_rng(0)
    played = []
    for seed, steps in ((5, 7), (6, 0), (7, 3)):
        frame, info = env.reset(seed=seed)
        frames, healths, actions = [frame], [info["health"]], []
        for action in random.integers(4, size=steps):
            frame, *_, info = env.step(action)
            frames.append(frame)
            healths.append(info["health"])
            actions.append(action)
        played.append((seed, frames, healths, actions))
    env.close()
    reader = EpisodeReader(tmp_path)
    assert verify(tmp_path).problems == []
    assert (env.num_episodes, env.num_steps) == (len(reader), 10) == (2, 10)
    episodes = {episode.seed: episode for episode in map(reader.episode, range(2))}
    for seed, frames, healths, actions in (played[0], played[2]):
        episode = episodes[seed]
        assert episode.policy == "person"
        np.testing.assert_array_equal(episode.frames, frames)
        np.testing.assert_array_equal(episode.action, actions)
        np.testing.assert_array_equal(episode.variables[:, 0], healths)
        assert np.isfinite(episode.pose).all()
    # The set is of the same kind as `collect.vizdoom` records: they can be joined.
    assert reader.info.differences(describe(GAME, {}, {})) == []
    by_spec = RecordEpisodes(gymnasium.make(GAME), tmp_path)  # also by what it was made from
    by_spec.close()


def test_an_existing_set_is_continued_and_another_worlds_is_refused(tmp_path) -> None:
    for seed in (1, 2):
        env = game(tmp_path)
        env.reset(seed=seed)
        env.step(3)
        env.close()
    reader = EpisodeReader(tmp_path)
    assert sorted(reader.index["seed"].tolist()) == [1, 2]
    before = sorted(path.read_bytes() for path in tmp_path.glob("shard-*"))
    other = PlayOptions(env="dream-doom", headless=True, steps=1, episodes=tmp_path)
    with pytest.raises(UserError, match=f"env_id {GAME} against VideoGPTDream-v0"):
        run(other, started_s=0.0)
    assert sorted(path.read_bytes() for path in tmp_path.glob("shard-*")) == before
    env = game(tmp_path)
    with pytest.raises(UserError, match="another process"):
        game(tmp_path)
    env.close()


def test_long_episodes_are_cut_where_they_fill_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recording, "MOST_STEPS", 4)
    env = game(tmp_path)
    env.reset(seed=3)
    frames = [env.step(3)[0] for _ in range(9)]
    env.close()
    reader = EpisodeReader(tmp_path)
    parts = {episode.seed: episode for episode in map(reader.episode, range(3))}
    assert sorted(reader.index["episode_length"].tolist()) == [1, 4, 4]
    np.testing.assert_array_equal(parts[3].frames[1:], frames[:4])
    # As soon as there are three, all splits have one.
    reader.check_splits()


def test_an_end_is_stored_at_once(tmp_path) -> None:
    env = RecordEpisodes(gymnasium.make("RobotPushing-v0", renderer="rays", length=3), tmp_path)
    env.reset(seed=0)
    for _ in range(3):
        *_, truncated, _ = env.step(env.action_space.sample())
    assert truncated
    assert list(tmp_path.glob("episode-*.h5"))  # a crash from now on doesn't lose it
    env.close()
    episode = EpisodeReader(tmp_path).episode(0)
    assert episode.truncated.tolist() == [False, False, True]


@pytest.mark.parametrize("name", ["dream-doom", "doom-hgs"])
def test_the_command_records_what_is_played(name: str, tmp_path, capsys) -> None:
    folder, film = tmp_path / "episodes", tmp_path / "walk.mp4"
    options = PlayOptions(
        env=name, headless=True, steps=12, seed=4, episodes=folder, record=film, policy="random"
    )
    assert run(options, started_s=0.0) == 0
    said = capsys.readouterr().out
    assert (
        f"12 steps in 1 episode in {folder}; no episode is in the split validation or test" in said
    )
    first = EpisodeReader(folder).episode(0)
    assert first.policy == "random"
    again = PlayOptions(
        headless=True, replay=film.with_suffix(".json"), episodes=tmp_path / "again"
    )
    assert run(again, started_s=0.0) == 0
    second = EpisodeReader(tmp_path / "again").episode(0)
    for seed in (5, 6):
        more = PlayOptions(env=name, headless=True, steps=3, seed=seed, episodes=folder)
        assert run(more, started_s=0.0) == 0
    assert f"train on them: {local_command('worldmodel.train', '--data', str(folder))}" in (
        capsys.readouterr().out
    )
    assert second.policy == "replay"
    with pytest.raises(UserError, match="--policy random needs --headless"):
        run(PlayOptions(env=name, policy="random"), started_s=0.0)
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.action, second.action)


def test_what_can_not_be_recorded_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="uint8 pictures"):
        RecordEpisodes(gymnasium.make("CartPole-v1"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_seeds_are_stored_only_where_they_lead_to_the_episode(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recording, "MOST_STEPS", 2)
    env = RecordEpisodes(gymnasium.make("VideoGPTDream-v0", horizon=None), tmp_path)
    for seed, options, steps in ((7, None, 3), (7, {"start": 1}, 1), (None, None, 1)):
        env.reset(seed=seed, options=options)
        for _ in range(steps):
            env.step(3)
    env.close()
    reader = EpisodeReader(tmp_path)
    assert reader.info.env_kwargs == {"horizon": None}
    assert sorted(reader.index["seed"].tolist()) == [-1, -1, -1, 7]


def test_what_was_not_reset_or_not_played(tmp_path) -> None:
    env = RecordEpisodes(gymnasium.make(GAME), tmp_path)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    env.close()
    assert not list(tmp_path.glob("*.json"))  # another world may be recorded here
    other = RecordEpisodes(gymnasium.make("RobotPushing-v0", renderer="rays", length=1), tmp_path)
    other.reset(seed=0)
    other.step(other.action_space.sample())
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(other.action_space.sample())
    other.close()


def test_a_full_disk_at_the_end_is_told(tmp_path, monkeypatch) -> None:
    """The last episode is lost, but not silently, and the folder is free again."""
    env = game(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(EpisodeWriter, "_check_space", full)
        worker = Worker(lambda tell: Pilot(env, seed=0), keys=HeldKeys(), fps=100)
        worker.start()
        until(lambda: worker.shown is not None and worker.shown.moment.step_number > 1)
        worker.stop()
        with pytest.raises(UserError, match="No space left on device"):
            worker.join()
    game(tmp_path).close()


def test_it_changes_nothing(tmp_path) -> None:
    plain, recorded = gymnasium.make(GAME), game(tmp_path)
    assert recorded.observation_space == plain.observation_space
    for env in (plain, recorded):
        env.reset(seed=9)
    for action in (3, 1, 3):
        np.testing.assert_array_equal(plain.step(action)[0], recorded.step(action)[0])
    plain.close()
    recorded.close()
