"""The HDF5 files of the original VideoGPT, written as its script writes them."""

import fcntl
import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_samples import array_of, imported

from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.data.importers.videogpt_hdf5 import (
    ImportVideoGPTHDF5,
)
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.storage import hdf5
from worldmodel.storage.hdf5 import open_hdf5

LENGTHS = {"train": [5, 2, 9], "test": [4, 3]}


def videos(split: str, channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(len(split))
    return [rng.integers(0, 256, (n, 8, 6, channels), dtype=np.uint8) for n in LENGTHS[split]]


def write_file(
    path: Path, changes: dict[str, np.ndarray] | None = None, *, channels: int = 3
) -> Path:
    """All frames end to end, and where each video begins."""
    with h5py.File(path, "w") as file:
        for split, lengths in LENGTHS.items():
            data = np.concatenate(videos(split, channels))
            file.create_dataset(f"{split}_data", data=(changes or {}).get(f"{split}_data", data))
            starts = np.cumsum([0, *lengths[:-1]])
            file.create_dataset(f"{split}_idx", data=(changes or {}).get(f"{split}_idx", starts))
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_every_video_comes_through_whole(tmp_path, channels):
    source = write_file(tmp_path / "moving.hdf5", channels=channels)
    assert imported(ImportVideoGPTHDF5(source, tmp_path / "out", fps=12)) == 5
    reader = EpisodeReader(tmp_path / "out")
    assert reader.info.fps == 12
    trained = np.sort(np.concatenate([reader.split("train"), reader.split("validation")]))
    for split, members in (("train", trained), ("test", reader.split("test"))):
        for i, video in zip(members, videos(split, channels), strict=True):
            episode = reader.episode(int(i))
            np.testing.assert_array_equal(episode.frames, video)
            assert episode.action.tolist() == [0] * (len(video) - 1)
    assert verify(tmp_path / "out").problems == []
    clips = ClipSampler(reader, "test", 4).read(np.array([[reader.split("test")[0], 0]]))
    np.testing.assert_array_equal(clips.frames[0], videos("test", channels)[0])


def test_the_command_says_what_it_left_out(tmp_path, capsys):
    starts = np.array([0, 5, 6, 7])  # the second and third have one frame
    source = write_file(tmp_path / "a.hdf5", {"train_idx": starts})
    for _ in range(2):  # the second time there is nothing to do
        ImportVideoGPTHDF5(source, tmp_path / "out").run()
        said = capsys.readouterr().out.splitlines()
        assert said[0].endswith("holds 4 episodes")
        assert said[1:] == ["left out     videos of a single frame: 2, the first train 1"]
    lengths = EpisodeReader(tmp_path / "out").index["episode_length"] + 1
    assert sorted(lengths) == [3, 4, 5, 9]


def test_paths_mean_what_they_mean_here_wherever_one_goes(tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        write_file(Path("a.hdf5"))
        assert imported(ImportVideoGPTHDF5(Path("a.hdf5"), Path("out"))) == 5


def test_another_source_does_not_mix_in(tmp_path):
    imported(ImportVideoGPTHDF5(write_file(tmp_path / "a.hdf5"), tmp_path / "out"))
    write_file(tmp_path / "a.hdf5", {"train_idx": np.array([0, 5])})
    with pytest.raises(UserError, match="episodes of another kind: env_kwargs"):
        imported(ImportVideoGPTHDF5(tmp_path / "a.hdf5", tmp_path / "out"))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64, ">i4"])
def test_starts_may_be_integers_of_any_kind(tmp_path, dtype):
    source = write_file(tmp_path / "a.hdf5", {"train_idx": np.array([0, 5, 7], dtype)})
    assert imported(ImportVideoGPTHDF5(source, tmp_path / "out")) == 5


def _link(file: h5py.File) -> None:
    del file["train_data"]
    file["train_data"] = h5py.ExternalLink("other.hdf5", "/train_data")


def _virtual(file: h5py.File) -> None:
    del file["train_data"]
    layout = h5py.VirtualLayout((16, 8, 6, 3), "u1")
    layout[:] = h5py.VirtualSource("other.hdf5", "x", (16, 8, 6, 3))
    file.create_virtual_dataset("train_data", layout)


def _outside(file: h5py.File) -> None:
    del file["train_data"]
    file.create_dataset("train_data", (16, 8, 6, 3), "u1", external=[("/etc/passwd", 0, 2304)])


def _claim(name: str, shape: tuple[int, ...], chunks: tuple[int, ...]):
    def damage(file: h5py.File) -> None:
        dtype = array_of(file, name).dtype
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"train_idx": np.array([0, 7, 5])}, "train_idx goes from 7 to 5 at video 1"),
        ({"train_idx": np.array([0, 5, 5])}, "train_idx goes from 5 to 5 at video 1"),
        ({"train_idx": np.array([0, 5, 16])}, "from 0 to 16, outside the 16 frames"),
        ({"train_idx": np.array([-1, 5])}, "from -1 to 5, outside the 16 frames"),
        ({"train_idx": np.array([0, 2**64 - 1], np.uint64)}, "outside the 16 frames"),
        ({"train_idx": np.array([2, 5])}, "train_idx does not begin with 0"),
        ({"train_idx": np.array([], np.int64)}, "train_idx does not begin with 0"),
        ({"train_idx": np.array([0.0, 5.0])}, "float64 .* not integer"),
        ({"train_idx": np.array([[0, 5]])}, "not integer of 1 dimensions"),
        ({"train_idx": np.arange(17)}, "17 videos, more than frames"),
        ({"train_data": np.zeros((16, 8, 6, 3), np.float32)}, "float32 .* not uint8"),
        ({"train_data": np.zeros((16, 8, 6), np.uint8)}, "not uint8 of 4 dimensions"),
        ({"train_data": np.zeros((16, 8, 8, 3), np.uint8)}, "of train_data are .*8, 8, 3.*8, 6, 3"),
        (_link, "'train_data' is a link to elsewhere"),
        (_virtual, "points to other files"),
        (_outside, "points to other files"),
        (lambda f: f.__delitem__("test_idx"), "has no 'test_idx'"),
        (_claim("train_data", (2**40, 8, 6, 3), (1, 8, 6, 3)), "more than the file can hold"),
        (_claim("train_data", (16, 8, 6, 3), (16, 8, 6, 3)), None),  # nothing was written: zeros
        (_claim("train_idx", (2**40,), (99,)), "more than the file can hold"),
    ],
)
def test_a_hostile_file_is_refused_before_anything_is_stored(tmp_path, damage, message):
    source = write_file(tmp_path / "a.hdf5", None if callable(damage) else damage)
    if callable(damage):
        with h5py.File(source, "r+") as file:
            damage(file)
    if message is None:
        assert imported(ImportVideoGPTHDF5(source, tmp_path / "out")) == 5
        return
    with pytest.raises(UserError, match=rf"a\.hdf5.*{message}") as refused:
        imported(ImportVideoGPTHDF5(source, tmp_path / "out"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_frames_of_another_shape_are_refused(tmp_path):
    pictures = {f"{split}_data": np.zeros((16, 8, 6, 4), np.uint8) for split in LENGTHS}
    with pytest.raises(UserError, match=r"8, 6, 4.* not \(H, W, 1\) or \(H, W, 3\)"):
        imported(ImportVideoGPTHDF5(write_file(tmp_path / "a.hdf5", pictures), tmp_path / "out"))


def test_a_video_that_does_not_fit_is_not_read(tmp_path):
    """Sparse: the file does claim all of it, and takes no room on the disk."""
    source = write_file(tmp_path / "a.hdf5")
    with h5py.File(source, "r+") as file:
        del file["train_data"]
        # The last video would take 4 GiB; contiguous storage is laid out at once.
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((2**32 // 144, 8, 6, 3))
        h5py.h5d.create(file.id, b"train_data", h5py.h5t.NATIVE_UINT8, space, plist).close()
    with pytest.raises(UserError, match="more than the 536870912 read at once"):
        imported(ImportVideoGPTHDF5(source, tmp_path / "out"))
    reader = EpisodeReader(tmp_path / "out")
    assert len(reader) == 2  # the two before it
    (problem,) = verify(tmp_path / "out").problems
    assert "import still runs or was stopped" in problem


def test_no_file_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        imported(ImportVideoGPTHDF5(tmp_path / "none.hdf5", tmp_path / "out"))
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(UserError, match="no HDF5 file, or damaged"):
        imported(ImportVideoGPTHDF5(tmp_path / "text.hdf5", tmp_path / "out"))
    with pytest.raises(UserError, match="is a folder, not a file"):
        imported(ImportVideoGPTHDF5(tmp_path, tmp_path / "out"))
    os.mkfifo(tmp_path / "pipe.hdf5")
    with pytest.raises(UserError, match="not a regular file"):
        imported(ImportVideoGPTHDF5(tmp_path / "pipe.hdf5", tmp_path / "out"))
    with pytest.raises(UserError, match=r"fps must be from 0\.01"):
        imported(ImportVideoGPTHDF5(write_file(tmp_path / "a.hdf5"), tmp_path / "out", fps=0))
    single = {f"{split}_idx": np.arange(sum(n)) for split, n in LENGTHS.items()}
    with pytest.raises(UserError, match="no video of two frames"):
        imported(ImportVideoGPTHDF5(write_file(tmp_path / "b.hdf5", single), tmp_path / "out"))


def test_a_video_that_takes_too_much_memory_is_refused(tmp_path, monkeypatch):
    """A file of 300 kB whose one video is 256 MB of black."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for split in ("train", "test"):
            black = np.zeros((2**16, 64, 64, 1), np.uint8)
            file.create_dataset(
                f"{split}_data", data=black, chunks=(64, 64, 64, 1), compression="gzip"
            )
            file[f"{split}_idx"] = np.array([0])
    monkeypatch.setattr(hdf5, "MOST_MEMORY", 2**27)
    with pytest.raises(UserError, match=r"a\.hdf5 is damaged.*takes more than 128 MiB of memory"):
        imported(ImportVideoGPTHDF5(tmp_path / "a.hdf5", tmp_path / "out"))


def test_a_file_that_another_program_has_locked_is_read(tmp_path):
    source = write_file(tmp_path / "a.hdf5")
    with source.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert imported(ImportVideoGPTHDF5(source, tmp_path / "out")) == 5


def test_a_full_table_of_files_is_no_damage(tmp_path):
    source = write_file(tmp_path / "a.hdf5")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(source, os.O_RDONLY) for _ in range(16)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
    try:
        refused = pytest.raises(UserError, match="can't be read: Too many open files")
        with refused, open_hdf5(source):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in taken:
            os.close(handle)
