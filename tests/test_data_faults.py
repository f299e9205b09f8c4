"""Damaged files, killed writers, full disks."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_samples import INFO, array_of, assert_same_episode, sample_episode, write_samples

from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.data.verify import verify
from worldmodel.errors import UserError

WRITE_FOR_EVER = """
import itertools, sys
sys.path.insert(0, sys.argv[2])
from data_samples import INFO, sample_episode
from worldmodel.data import EpisodeWriter
writer = EpisodeWriter(sys.argv[1], INFO, episodes_per_shard=50)
for i in itertools.count():
    if i not in writer.done:
        writer.append(sample_episode(i))
        print(i, flush=True)
"""

FILL_THE_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from data_samples import INFO, sample_episode
from worldmodel.data import EpisodeWriter
from worldmodel.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing on fails with an OSError instead
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
with EpisodeWriter(sys.argv[1], INFO, episodes_per_shard=70) as writer:
    try:
        for i in range(10_000):
            writer.append(sample_episode(i, 40))
            print(i, flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
"""


def _start(script: str, folder: Path, **kwargs) -> subprocess.Popen:
    tests = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), tests],
        stdout=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_kill_9_while_writing_loses_no_finished_episode(tmp_path):
    finished: set[int] = set()
    for attempt in range(3):
        with _start(WRITE_FOR_EVER, tmp_path) as process:
            assert process.stdout is not None
            finished.add(int(process.stdout.readline()))
            time.sleep(random.Random(attempt).uniform(0.1, 0.5))
            process.send_signal(signal.SIGKILL)
            finished.update(int(line) for line in process.stdout if line.endswith("\n"))
    with EpisodeWriter(tmp_path, INFO) as writer:
        assert finished <= writer.done
        new = max(writer.done) + 1
        writer.append(sample_episode(new))
    reader = EpisodeReader(tmp_path)
    assert reader.index["episode_id"].tolist() == list(range(new + 1))
    for i in range(len(reader)):
        assert_same_episode(reader.episode(i), sample_episode(i))
    assert verify(tmp_path).problems == []


def test_a_full_disk_keeps_what_is_finished(tmp_path):
    with _start(FILL_THE_DISK, tmp_path, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "make room and run the same command again" in err
    assert "Traceback" not in err
    finished = {int(line) for line in out.split()}
    assert finished
    with EpisodeWriter(tmp_path, INFO) as writer:
        assert finished <= writer.done
        writer.append(sample_episode(10_000))
    reader = EpisodeReader(tmp_path)
    for i in range(len(reader) - 1):
        assert_same_episode(reader.episode(i), sample_episode(i, 40))


def test_the_last_bytes_of_the_disk_are_not_touched(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**19})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with EpisodeWriter(tmp_path, INFO) as writer, pytest.raises(UserError, match="No space left"):
        writer.append(sample_episode(0))


def test_an_episode_whose_file_is_damaged_is_recorded_again(tmp_path):
    writer = EpisodeWriter(tmp_path, INFO)
    for i in range(4):
        writer.append(sample_episode(i))
    writer._lock.close()  # as the system does for a killed process
    with h5py.File(tmp_path / "episode-2.h5", "r+") as file:
        array_of(file, "reward")[0] = np.nan
    (tmp_path / "episode-9.new").write_bytes(b"half of an episode")
    with EpisodeWriter(tmp_path, INFO) as writer:
        assert writer.done == {0, 1, 3}
        writer.append(sample_episode(2))
    reader = EpisodeReader(tmp_path)
    for i in range(4):
        assert_same_episode(reader.episode(i), sample_episode(i))
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "meta.json", "shard-00000.h5"}


def test_large_episodes_do_not_wait_for_many_others(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.data.writer.MOST_WAITING_BYTES", 200_000)
    with EpisodeWriter(tmp_path, INFO) as writer:
        for i in range(4):
            writer.append(sample_episode(i, 900))  # 130 kB of frames each
        assert len(list(tmp_path.glob("shard-*.h5"))) == 2
        assert not list(tmp_path.glob("episode-*"))


def test_a_writer_killed_before_it_removed_what_it_had_packed(tmp_path):
    writer = EpisodeWriter(tmp_path, INFO)
    writer.append(sample_episode(0))
    left = (tmp_path / "episode-0.h5").read_bytes()
    writer.close()
    (tmp_path / "episode-0.h5").write_bytes(left)
    write_samples(tmp_path, range(1, 2))
    assert EpisodeReader(tmp_path).index["episode_id"].tolist() == [0, 1]
    assert not list(tmp_path.glob("episode-*"))


def test_an_unfinished_shard_of_an_earlier_version_is_continued(tmp_path):
    write_samples(tmp_path, range(3))
    shard = tmp_path / "shard-00000.h5"
    shard.rename(tmp_path / "shard-00000.h5.tmp")
    with h5py.File(tmp_path / "shard-00000.h5.tmp", "r+") as file:
        array_of(file, "index").resize(4, axis=0)
    with EpisodeWriter(tmp_path, INFO) as writer:
        assert writer.done == {0, 1, 2}
    assert len(EpisodeReader(tmp_path)) == 3
    assert not list(tmp_path.glob("*.tmp"))


def test_two_writers_do_not_mix(tmp_path):
    with EpisodeWriter(tmp_path, INFO) as writer:
        writer.append(sample_episode(0))
        script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from data_samples import INFO
from worldmodel.data import EpisodeWriter
EpisodeWriter({str(tmp_path)!r}, INFO)
"""
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert "is being written to by another process" in other.stderr
        writer.append(sample_episode(1))
    assert len(EpisodeReader(tmp_path)) == 2


def test_a_truncated_shard_is_refused(tmp_path):
    write_samples(tmp_path, range(8))
    shard = tmp_path / "shard-00001.h5"
    os.truncate(shard, shard.stat().st_size // 2)
    for use in (EpisodeReader, lambda folder: EpisodeWriter(folder, INFO)):
        with pytest.raises(UserError, match=r"shard-00001\.h5.* damaged.*[Cc]opy"):
            use(tmp_path)


def _replace_array(file: h5py.File, name: str, data, **kwargs) -> None:
    del file[name]
    file.create_dataset(name, data=data, **kwargs)


def _link_elsewhere(file: h5py.File) -> None:
    del file["reward"]
    file["reward"] = h5py.ExternalLink("other.h5", "/reward")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.__delitem__("reward"), "has no 'reward'"),
        (lambda f: f.__delitem__("index"), "has no 'index'"),
        (
            lambda f: _replace_array(f, "action", ["a"] * 12, dtype=h5py.string_dtype()),
            "'action' holds objects",
        ),
        (_link_elsewhere, "'reward' is a link to elsewhere"),
        (lambda f: _replace_array(f, "frames", np.zeros((99, 8, 8, 3), np.uint8)), "another data"),
        (lambda f: _replace_array(f, "frames", np.zeros((99, 8, 6, 3))), "another data set"),
        (lambda f: _replace_array(f, "variables", np.zeros((99, 3), np.float32)), "another data"),
        (lambda f: _replace_array(f, "index", np.zeros(4)), "other columns"),
        (lambda f: array_of(f, "frames").resize(9, axis=0), "points behind the end of 'frames'"),
        (lambda f: array_of(f, "reward").resize(3, axis=0), "points behind the end of 'reward'"),
    ],
)
def test_a_damaged_shard_is_refused(tmp_path, damage, message):
    write_samples(tmp_path, range(4))
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        damage(file)
    with pytest.raises(UserError, match=message):
        EpisodeReader(tmp_path)
    assert any(message in problem for problem in verify(tmp_path).problems)


def test_a_finished_shard_holds_no_reserved_space(tmp_path):
    write_samples(tmp_path, range(4))
    assert (tmp_path / "shard-00000.h5").stat().st_size < 150_000


READ_MANY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from worldmodel.data import EpisodeReader
reader = EpisodeReader(sys.argv[1])
print(len(reader), sum(len(reader.frames(i)) for i in range(len(reader))))
"""


def test_many_shards_need_few_open_files(tmp_path):
    write_samples(tmp_path, range(1))
    shard = tmp_path / "shard-00000.h5"
    for number in range(1, 300):
        shutil.copy(shard, tmp_path / f"shard-{number:05d}.h5")
    done = subprocess.run(
        [sys.executable, "-c", READ_MANY, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.stdout == "300 1200\n", done.stderr


def test_a_limit_of_open_files_is_not_called_damage(tmp_path):
    write_samples(tmp_path, range(2))
    reader = EpisodeReader(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(UserError) as refused:
            reader.frames(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "Too many open files" in str(refused.value)
    assert "delete" not in str(refused.value)


def test_a_second_writer_is_refused_in_the_same_process_too(tmp_path):
    with EpisodeWriter(tmp_path, INFO) as first:
        with pytest.raises(UserError, match="is being written to by another process"):
            EpisodeWriter(tmp_path, INFO)
        first.append(sample_episode(0))
    with EpisodeWriter(tmp_path, INFO) as second:  # once the first is closed
        second.append(sample_episode(1))
    assert len(EpisodeReader(tmp_path)) == 2


def test_a_shard_that_makes_hdf5_take_all_memory_is_refused(tmp_path):
    with EpisodeWriter(tmp_path, INFO) as writer:
        writer.append(sample_episode(0, 40))
    shard = tmp_path / "shard-00000.h5"
    content = shard.read_bytes()
    damaged = content[:710] + content[718:]
    shard.write_bytes(damaged.ljust(2**21, b"\0"))  # HDF5 looks first whether a file is too short
    (problem,) = [line for line in verify(tmp_path).problems if "shard-00000.h5" in line]
    assert "takes more than 640 MiB of memory" in problem
    shard.rename(tmp_path / "shard-00000.h5.tmp")
    with pytest.raises(UserError, match="takes more than 640 MiB of memory"):
        EpisodeWriter(tmp_path, INFO)


def test_a_chunk_that_unpacks_to_more_than_it_may_hold_is_refused(tmp_path):
    write_samples(tmp_path, range(1))
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        bomb = zlib.compress(bytes(2**28), 1)
        array_of(file, "frames").id.write_direct_chunk((0, 0, 0, 0), bomb)
    (problem,) = verify(tmp_path).problems
    assert "damaged" in problem


def test_an_episode_that_would_fill_the_memory_is_refused(tmp_path):
    """Black frames pack a thousand times smaller: 1 MB would have taken gigabytes."""
    frames = np.zeros((64, 64, 64, 3), np.uint8)
    info = replace(INFO, frame_shape=(64, 64, 3), variable_names=())
    episode = sample_episode(0, 63, info=info)
    with EpisodeWriter(tmp_path, info) as writer:
        writer.append(replace(episode, frames=frames))
    packed = zlib.compress(bytes(4 * 64 * 64 * 3), 9)
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        length = 50_000
        for name in ("frames", "action", "reward", "terminated", "truncated"):
            array = array_of(file, name)
            rows = length + (name == "frames")
            assert array.chunks is not None
            array.resize(-(-rows // array.chunks[0]) * array.chunks[0], axis=0)
            if name != "frames":
                array[:] = 0
        for start in range(0, length + 1, 4):
            array_of(file, "frames").id.write_direct_chunk((start, 0, 0, 0), packed)
        index = array_of(file, "index")[:]
        index["episode_length"] = length
        array_of(file, "index")[:] = index
    assert (tmp_path / "shard-00000.h5").stat().st_size < 3 * 2**20
    (problem, *_) = verify(tmp_path).problems
    assert "it would take more than 512 MiB" in problem


def test_a_closed_writer_writes_no_more(tmp_path):
    writer = EpisodeWriter(tmp_path, INFO)
    writer.close()
    with pytest.raises(UserError, match="is closed"):
        writer.append(sample_episode(0))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("episode_length", 10**9),
        ("episode_length", 2**63 - 1),
        ("episode_start", 2**63 - 1),
        ("frame_start", 2**62),
    ],
)
def test_what_an_index_claims_is_not_believed(tmp_path, column, value):
    write_samples(tmp_path, range(3))
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        index = array_of(file, "index")[:]
        index[column][1] = value
        array_of(file, "index")[:] = index
    with pytest.raises(UserError, match="episode 1: its index row points behind the end"):
        EpisodeReader(tmp_path)


def test_rows_that_are_claimed_but_not_stored_are_not_zeros(tmp_path):
    write_samples(tmp_path, range(1))
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        for name in ("frames", "variables", "action", "reward", "terminated", "truncated"):
            array_of(file, name).resize(10**7, axis=0)
        index = array_of(file, "index")[:]
        index["episode_length"][0] = 10**6
        array_of(file, "index")[:] = index
    with pytest.raises(UserError, match=r"more than the file can hold|are not in the file"):
        EpisodeReader(tmp_path)


def test_an_index_of_ten_billion_rows_is_refused(tmp_path):
    write_samples(tmp_path, range(1))
    with h5py.File(tmp_path / "shard-00000.h5", "r+") as file:
        array_of(file, "index").resize(10**10, axis=0)
    with pytest.raises(UserError, match=r"'index' claims to be \(10000000000,\), more than"):
        EpisodeReader(tmp_path)
