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
from data_samples import INFO, assert_same_episode, imported, sample_episode, with_pose

from collect.minari import Export, Import, main
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.data.left_out import read_left_out
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import PoseSpec

IS_HERE = importlib.util.find_spec("minari") is not None
needs_minari = pytest.mark.skipif(not IS_HERE, reason="minari is an extra")
ID = "samples/toy-v0"
# Large enough that Minari would take them for pictures and store JPEG.
BIG = replace(INFO, frame_shape=(40, 36, 3), env_id="Counter")


def export_set(folder: Path, name: str, out: Path) -> Path:
    Export(folder, name, out).run()
    return out / name


def import_set(source: str, out: Path, **options: Any) -> int:
    return imported(Import(source, out, **options))


def write(folder: Path, info=BIG, ids=range(3, 9)) -> Path:
    with EpisodeWriter(folder, info, episodes_per_shard=4) as writer:
        for i in ids:
            episode = sample_episode(i, 3 + i % 4, info=info, policy=("a", "b+c")[i % 2])
            writer.append(with_pose(episode, len(info.pose)))
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
        replace(BIG, pose=PoseSpec(("health", "y"), "angle")),
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
    Export(data, ID).run()
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


def foreign_set(folder: Path, episodes: list[dict[str, Any]], **spaces: Any) -> Path:
    """A set as others make it: frames of 8 x 8, actions 0 to 2; five frames an episode but for
    what `episodes` say."""
    from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]
    from minari.dataset.minari_storage import (  # pyright: ignore[reportMissingImports]
        MinariStorage,
    )

    folder.mkdir(parents=True, exist_ok=True)
    storage: Any = MinariStorage.new(
        folder,
        observation_space=gymnasium.spaces.Box(0, 255, (8, 8), np.uint8),
        action_space=gymnasium.spaces.Discrete(3),
        **spaces,
    )
    storage.update_metadata({"dataset_id": ID})
    for i, changes in enumerate(episodes):
        arrays: dict[str, Any] = {
            "observations": np.full((5, 8, 8), i, np.uint8),
            "actions": np.array([0, 1, 2, 0]),
            "rewards": np.arange(4.0),
            "terminations": np.zeros(4, bool),
            "truncations": np.zeros(4, bool),
            "infos": {"x": np.arange(5.0) + i},
        }
        storage.update_episodes([EpisodeBuffer(**(arrays | changes))])
    return folder


@needs_minari
def test_episodes_that_cannot_be_stored_are_left_out_and_counted(tmp_path, monkeypatch, capsys):
    bad: list[dict[str, Any]] = [
        {},
        {"rewards": np.array([0, np.nan, 0, 0])},
        {"infos": {"x": np.array([0, 1, np.inf, 3, 4])}},
        {"rewards": np.array([0, 1e300, 0, 0])},
        {"actions": np.array([0, 3, 0, 0])},
        {"infos": {"y": np.arange(5.0)}},
        {"infos": {"x": np.arange(5.0), "y": np.arange(5.0), "z": np.arange(5)}},
        {},
    ]
    source = foreign_set(tmp_path / "foreign", bad)
    lines = [
        "left out     infos that the first episode lacks: 2, the first y of episode 6",
        "left out     with a reward or variable that is not finite: 3, the first episode 1",
        "left out     with an action out of bounds: 1, episode 4",
        "left out     without a variable that the first episode has: 1, episode 5",
    ]
    for _ in range(2):
        command = ["minari", "import", str(source), "--out", str(tmp_path / "set")]
        monkeypatch.setattr(sys, "argv", command)
        main()
        assert capsys.readouterr().out.splitlines()[1:] == lines
    assert verify(tmp_path / "set").problems == []
    reader = EpisodeReader(tmp_path / "set")
    assert reader.index["episode_id"].tolist() == [0, 6, 7]
    assert reader.frames(1)[0, 0, 0, 0] == 6
    nothing = foreign_set(tmp_path / "nothing", [bad[1]])
    with pytest.raises(UserError, match=r"holds no episode, .*: left out with a reward"):
        import_set(str(nothing), tmp_path / "empty")


@needs_minari
def test_infos_without_a_value_at_the_first_frame_are_kept(tmp_path, capsys):
    infos = {
        "speed": np.array([2.0, 4.0, 8.0, 16.0]),
        "place": {"x": np.arange(5)},
        "name": np.zeros((5, 2)),
    }
    source = foreign_set(tmp_path / "foreign", [{"infos": infos}])
    import_set(str(source), tmp_path / "set")
    assert "speed have no value at an episode's first frame" in capsys.readouterr().err
    reader = EpisodeReader(tmp_path / "set")
    columns = dict(zip(reader.info.variable_names, reader.episode(0).variables.T, strict=True))
    assert columns["speed"].tolist() == [2, 2, 4, 8, 16]
    assert columns["place/x"].tolist() == [0, 1, 2, 3, 4]
    assert columns.keys() == {"speed", "place/x"}
    assert read_left_out(tmp_path / "set").lines() == [
        "left out     infos that are not one number a frame: 1, name"
    ]


def _external(file: h5py.File) -> None:
    del file["episode_1/observations"]
    file.create_dataset("episode_1/observations", (5, 8, 8), "u1", external=[("secret", 0, 320)])


def _virtual(file: h5py.File) -> None:
    del file["episode_1/infos/x"]
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource("secret.hdf5", "x", (5,))
    file.create_virtual_dataset("episode_1/infos/x", layout)


def _linked(name: str, link: h5py.ExternalLink | h5py.SoftLink):
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return change


def _around(file: h5py.File) -> None:
    file["episode_1/infos/around"] = file["episode_1"]


def _claiming(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file.create_dataset("episode_1/rewards", (2**40,), "f8", chunks=(2**10,))


SECRET = h5py.ExternalLink("secret.hdf5", "/x")


@needs_minari
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_linked("episode_1/observations", SECRET), "is a link to elsewhere"),
        (_linked("episode_1/infos/x", SECRET), "is a link to elsewhere"),
        (_linked("episode_1/infos", SECRET), "is a link to elsewhere"),
        (_linked("episode_1", SECRET), "is a link to elsewhere"),
        (_linked("episode_1/actions", h5py.SoftLink("/episode_0/actions")), "is a link"),
        (_external, "points to other files"),
        (_virtual, "points to other files"),
        (_around, "deeper than"),
        (_claiming, "more than the file can hold"),
    ],
)
def test_nothing_is_read_from_other_files(tmp_path, change, message):
    source = foreign_set(tmp_path / "foreign", [{}, {}], jpeg_encoding=False)
    (source / "secret").write_bytes(bytes(320))
    with h5py.File(source / "secret.hdf5", "w") as secret:
        secret["x"] = np.full((5, 8, 8), 77, np.uint8)
    with h5py.File(source / "main_data.hdf5", "r+") as file:
        change(file)
    with pytest.raises(UserError, match=message) as refused:
        import_set(str(source), tmp_path / "set")
    assert "episode_1" in str(refused.value)
    assert len(EpisodeReader(tmp_path / "set")) == 1  # the one before is kept


@needs_minari
def test_a_set_that_takes_too_much_memory_is_refused(tmp_path, monkeypatch):
    black = {"infos": {"x": np.zeros(5), "large": np.zeros((2**24,))}}
    source = foreign_set(tmp_path / "foreign", [{}, black])
    monkeypatch.setattr("collect.minari.MOST_MEMORY", 2**26)
    with pytest.raises(UserError, match="takes more than 64 MiB of memory"):
        import_set(str(source), tmp_path / "set")


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
    assert list((out / ID).parent.iterdir()) == []
    export_set(data, ID, out)
    assert [path.name for path in (out / ID).parent.iterdir()] == ["toy-v0"]
    before = (out / ID / "data" / "main_data.hdf5").read_bytes()
    with pytest.raises(UserError, match="already exists: choose another --id"):
        export_set(data, ID, out)
    assert (out / ID / "data" / "main_data.hdf5").read_bytes() == before


@needs_minari
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "no/such", "--id", ID), "no/such does not exist"),
        (("export", "DATA", "--id", "nothing"), "'nothing' is not a Minari id"),
        (("export", "DATA", "--id", "../x-v0"), "'../x-v0' is not a Minari id"),
        (("import", "none/such-v0", "--out", "OUT"), "there is no Minari data set none/such-v0"),
        (("import", "STATES", "--out", "OUT"), "observations of ss/ss-v0 are .* not images"),
        (("import", "DAMAGED", "--out", "OUT"), "cannot be read as a Minari data set"),
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
