"""What goes to Minari and comes back is the same; what Minari reads is what was recorded."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from conftest import one_line_error
from data_samples import INFO, assert_same_episode, sample_episode

from collect.minari import export_set, import_set, main
from worldmodel.actions import ActionSpec
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.data.verify import verify
from worldmodel.errors import UserError

IS_HERE = importlib.util.find_spec("minari") is not None
needs_minari = pytest.mark.skipif(not IS_HERE, reason="minari is an extra")
ID = "samples/toy-v0"
# Large enough that Minari would take them for pictures and store JPEG.
BIG = replace(INFO, frame_shape=(40, 36, 3), env_id="Counter")


def write(folder: Path, info=BIG, ids=range(3, 9)) -> Path:
    with EpisodeWriter(folder, info, episodes_per_shard=4) as writer:
        for i in ids:
            writer.append(sample_episode(i, 3 + i % 4, info=info, policy=("a", "b+c")[i % 2]))
    return folder


@needs_minari
@pytest.mark.parametrize(
    "info",
    [
        BIG,
        replace(BIG, variable_names=()),
        replace(BIG, variable_names=("speed/x", "speed/y")),
        replace(BIG, actions=ActionSpec("multi_discrete", (3, 2))),
        replace(BIG, actions=ActionSpec("box", low=(-1, -0.1), high=(1, 0.3))),
        replace(BIG, frame_shape=(40, 36, 1)),
        replace(BIG, env_id="Pixels-v0", env_kwargs={"env_id": "CartPole-v1"}),
    ],
)
def test_there_and_back_is_the_same(tmp_path: Path, info):
    data = write(tmp_path / "data", info)
    path = export_set(data, ID, tmp_path / "minari")
    assert path == tmp_path / "minari" / ID
    assert import_set(str(path), tmp_path / "again") == 6
    assert verify(tmp_path / "again").problems == []
    one, other = EpisodeReader(data), EpisodeReader(tmp_path / "again")
    assert one.info == other.info
    assert len(one) == len(other)
    for i in range(len(one)):
        assert_same_episode(one.episode(i), other.episode(i))
    assert import_set(str(path), tmp_path / "again") == 6  # all there already


@needs_minari
def test_minari_reads_what_was_recorded(tmp_path: Path, monkeypatch):
    import minari  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    info = replace(BIG, env_id="Pixels-v0", env_kwargs={"env_id": "CartPole-v1", "size": 40})
    data = write(tmp_path / "data", info)
    export_set(data, ID)
    dataset, reader = minari.load_dataset(ID), EpisodeReader(data)
    assert dataset.total_episodes == len(reader)
    assert dataset.total_steps == reader.index["episode_length"].sum()
    assert ID in minari.list_local_datasets()
    for theirs in dataset.iterate_episodes():
        ours = reader.episode(int(theirs.id))
        np.testing.assert_array_equal(theirs.observations, ours.frames)
        np.testing.assert_array_equal(theirs.actions, ours.action)
        np.testing.assert_array_equal(theirs.rewards, ours.reward)
        np.testing.assert_array_equal(theirs.terminations, ours.terminated)
        np.testing.assert_array_equal(theirs.infos["health"], ours.variables[:, 0])
    env = dataset.recover_environment()
    assert env.reset(seed=0)[0].shape == (40, 40, 3)
    env.close()
    assert import_set(ID, tmp_path / "again") == 6


@needs_minari
def test_a_set_of_others_is_imported(tmp_path: Path):
    from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]
    from minari.dataset.minari_storage import (  # pyright: ignore[reportMissingImports]
        MinariStorage,
    )

    rng = np.random.default_rng(0)
    storage: Any = MinariStorage.new(
        tmp_path,
        observation_space=gymnasium.spaces.Box(0, 255, (8, 8), np.uint8),
        action_space=gymnasium.spaces.Discrete(3, start=5),
    )
    storage.update_metadata({"dataset_id": ID, "algorithm_name": "x" * 80})
    frames = rng.integers(0, 256, (5, 8, 8), np.uint8)
    arrays: dict[str, Any] = {
        "observations": frames,
        "actions": np.array([5, 6, 7, 5]),
        "rewards": np.arange(4.0),
        "terminations": np.array([False, False, False, True]),
        "truncations": np.zeros(4, bool),
        "infos": {"x": np.arange(5.0), "name": np.arange(10).reshape(5, 2)},
    }
    buffer = EpisodeBuffer(**arrays)
    storage.update_episodes([buffer])
    assert import_set(str(tmp_path), tmp_path / "set", fps=12) == 1
    reader = EpisodeReader(tmp_path / "set")
    episode = reader.episode(0)
    np.testing.assert_array_equal(episode.frames[..., 0], frames)
    assert episode.action.tolist() == [0, 1, 2, 0]
    assert reader.info.variable_names == ("x",)
    assert episode.variables[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (reader.info.fps, episode.policy) == (12, "x" * 64)


@needs_minari
def test_an_export_that_stops_leaves_nothing_and_nothing_is_overwritten(tmp_path, monkeypatch):
    data, out = write(tmp_path / "data"), tmp_path / "minari"

    def stop(self: EpisodeReader, i: int):
        if i == 4:
            raise KeyboardInterrupt
        return whole(self, i)

    whole = EpisodeReader.episode
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeReader, "episode", stop)
        with pytest.raises(KeyboardInterrupt):
            export_set(data, ID, out)
    assert not (out / ID).exists()
    export_set(data, ID, out)
    assert [path.name for path in (out / ID).parent.iterdir()] == ["toy-v0"]
    before = (out / ID / "data" / "main_data.hdf5").read_bytes()
    with pytest.raises(UserError, match="is there already: choose another --id"):
        export_set(data, ID, out)
    assert (out / ID / "data" / "main_data.hdf5").read_bytes() == before


@needs_minari
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "no/such", "--id", ID), "no/such does not exist"),
        (("export", "DATA", "--id", "nothing"), "'nothing' is no id of Minari"),
        (("export", "DATA", "--id", "../x-v0"), "'../x-v0' is no id of Minari"),
        (("import", "none/such-v0", "--out", "OUT"), "there is no Minari data set none/such-v0"),
        (("import", "STATES", "--out", "OUT"), "observations of ss/ss-v0 are .* not pictures"),
        (("import", "DAMAGED", "--out", "OUT"), "cannot be read as a Minari data set"),
        (("import", "DAMAGED", "--out", "OUT", "--fps", "0"), "--fps must be above 0"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, monkeypatch, arguments, message):
    from minari.dataset.minari_storage import (  # pyright: ignore[reportMissingImports]
        MinariStorage,
    )

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    states = MinariStorage.new(
        tmp_path / "states",
        observation_space=gymnasium.spaces.Box(-1, 1, (3,)),
        action_space=gymnasium.spaces.Discrete(2),
    )
    states.update_metadata({"dataset_id": "ss/ss-v0"})
    data = write(tmp_path / "data")
    damaged = export_set(data, "dd/dd-v0", tmp_path / "other")
    with h5py.File(damaged / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
    paths = {"DATA": data, "STATES": tmp_path / "states", "DAMAGED": damaged}
    paths["OUT"] = tmp_path / "out"
    command = [str(paths.get(argument, argument)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["minari", *command])
    assert re.search(message, one_line_error(main))


@pytest.mark.skipif(IS_HERE, reason="minari is installed")
def test_without_minari_it_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minari", "import", ID, "--out", str(tmp_path / "out")])
    assert "pip install 'minari[hdf5]'" in one_line_error(main)
    assert not (tmp_path / "out").exists()
