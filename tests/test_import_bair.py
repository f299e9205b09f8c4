"""BAIR's TFRecords, written by TensorBoard's writer and Google's protobuf."""

import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_samples import imported
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.data.importers.bair import (
    FOLDER,
    ImportBair,
    find_records,
    read_trajectory,
)
from worldmodel.data.importers.tfrecord import read_record, record_spans
from worldmodel.data.left_out import LeftOut, read_left_out
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec

ACTIONS = ActionSpec("box", low=(-0.1, -0.1, -10, -10), high=(0.1, 0.1, 10, 10))
IMPORT = """
import sys
from pathlib import Path
from worldmodel.data.importers.bair import ImportBair
ImportBair(Path(sys.argv[1]), Path(sys.argv[2])).run()
"""


def _example_class() -> type:
    """tf.train.Example, described as in TensorFlow's example.proto and feature.proto."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name: str, *fields: tuple) -> descriptor_pb2.DescriptorProto:
        made = file.message_type.add(name=name)
        for number, (field, label, type_, type_name) in enumerate(fields, 1):
            made.field.add(name=field, number=number, label=label, type=type_, type_name=type_name)
        return made

    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    message("BytesList", ("value", many, kind.TYPE_BYTES, None))
    message("FloatList", ("value", many, kind.TYPE_FLOAT, None))
    message("Int64List", ("value", many, kind.TYPE_INT64, None))
    feature = message(
        "Feature",
        ("bytes_list", one, kind.TYPE_MESSAGE, ".t.BytesList"),
        ("float_list", one, kind.TYPE_MESSAGE, ".t.FloatList"),
        ("int64_list", one, kind.TYPE_MESSAGE, ".t.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    entry = descriptor_pb2.DescriptorProto(name="FeatureEntry")
    entry.field.add(name="key", number=1, label=one, type=kind.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=one, type=kind.TYPE_MESSAGE, type_name=".t.Feature"
    )
    entry.options.map_entry = True
    features = message("Features", ("feature", many, kind.TYPE_MESSAGE, ".t.Features.FeatureEntry"))
    features.nested_type.append(entry)
    message("Example", ("features", one, kind.TYPE_MESSAGE, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


Example = _example_class()


def trajectory(seed: int) -> dict[str, np.ndarray]:
    """What a record holds; the last action is beyond every bound, for it is to be dropped."""
    rng = np.random.default_rng(seed)
    action = np.concatenate(
        [rng.uniform(-0.065, 0.065, (30, 2)), rng.integers(0, 5, (30, 2))], axis=1
    ).astype(np.float32)
    action[-1] = 1e6
    return {
        "image_main": rng.integers(0, 256, (30, 64, 64, 3), dtype=np.uint8),
        "image_aux1": rng.integers(0, 256, (30, 64, 64, 3), dtype=np.uint8),
        "action": action,
        "endeffector_pos": rng.normal(size=(30, 3)).astype(np.float32),
    }


def encoded(data: dict[str, np.ndarray]) -> bytes:
    example = Example()
    feature = example.features.feature
    for name, rows in data.items():
        for t, row in enumerate(rows):
            if rows.dtype == np.uint8:
                feature[f"{t}/{name}/encoded"].bytes_list.value.append(row.tobytes())
            else:
                feature[f"{t}/{name}"].float_list.value.extend(row.tolist())
    feature["unused"].int64_list.value.extend([1, -1, 2**40])
    return example.SerializeToString()


def write_records(path: Path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)


@pytest.fixture(scope="module")
def bair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny set as it comes out of the .tar: trajectories 0 to 2 of train and 100 of test."""
    folder = tmp_path_factory.mktemp("bair") / "softmotion30_44k"
    # In the order of numbers, "10" follows "2".
    write_records(folder / "train/traj_10_to_11.tfrecords", [encoded(trajectory(2))])
    write_records(folder / "train/traj_2_to_9.tfrecords", [encoded(trajectory(i)) for i in (0, 1)])
    write_records(folder / "test/traj_0_to_255.tfrecords", [encoded(trajectory(100))])
    return folder


@pytest.mark.parametrize("camera", ["main", "aux1"])
def test_every_trajectory_comes_through_whole(bair, tmp_path, camera):
    assert imported(ImportBair(bair, tmp_path / "out", camera=camera)) == 4
    reader = EpisodeReader(tmp_path / "out")
    trained = np.sort(np.concatenate([reader.split("train"), reader.split("validation")]))
    tested = reader.split("test")
    assert len(tested) == 1
    for i, seed in [*zip(trained, (0, 1, 2), strict=True), (tested[0], 100)]:
        expected, episode = trajectory(seed), reader.episode(int(i))
        np.testing.assert_array_equal(episode.frames, expected[f"image_{camera}"])
        np.testing.assert_array_equal(episode.action, expected["action"][:-1])
        np.testing.assert_array_equal(episode.variables, expected["endeffector_pos"])
    assert verify(tmp_path / "out").problems == []
    clips = ClipSampler(reader, "test", 16).read(np.array([[tested[0], 14]]))
    np.testing.assert_array_equal(clips.frames[0], trajectory(100)[f"image_{camera}"][14:30])
    np.testing.assert_array_equal(clips.action[0], trajectory(100)["action"][14:29])


def test_the_command_takes_the_parent_and_says_what_it_dropped(bair, tmp_path, capsys):
    ImportBair(bair.parent, tmp_path).run()
    assert "4 episodes of 30 frames and 29 actions" in capsys.readouterr().out
    ImportBair(bair.parent, tmp_path).run()  # again: nothing to do
    assert len(EpisodeReader(tmp_path)) == 4


def test_kill_9_loses_nothing_and_the_import_goes_on(bair, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(bair, source)
    one = (bair / "train/traj_10_to_11.tfrecords").read_bytes()
    (source / "train/traj_20_to_99.tfrecords").write_bytes(one * 30)
    with subprocess.Popen(
        [sys.executable, "-c", IMPORT, str(source), str(out)], stderr=subprocess.DEVNULL
    ) as process:
        while not list(out.glob("episode-*.h5")):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "shard-00000.h5").exists(), "it was killed too late to tell"
    assert imported(ImportBair(source, out)) == 34
    reader = EpisodeReader(out)
    tested = set(reader.split("test").tolist())
    expected = iter([0, 1, 2, *[2] * 30])
    for i in range(34):
        seed = 100 if i in tested else next(expected)
        np.testing.assert_array_equal(reader.frames(i), trajectory(seed)["image_aux1"])
    assert verify(out).problems == []


@pytest.fixture(scope="module")
def one_file(bair) -> bytes:
    return (bair / "test/traj_0_to_255.tfrecords").read_bytes()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_file_gives_the_same_data_or_an_error(one_file, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    position = data.draw(st.integers(0, 40) | st.integers(0, len(one_file) - 1))
    if data.draw(st.booleans()):
        damaged = one_file[:position]
    else:
        flipped = one_file[position] ^ data.draw(st.integers(1, 255))
        damaged = one_file[:position] + bytes([flipped]) + one_file[position + 1 :]
    folder.mkdir(exist_ok=True)
    (folder / "traj_0_to_0.tfrecords").write_bytes(damaged)
    with pytest.raises(UserError):
        [read_trajectory(record, "aux1", ACTIONS) for record in find_records(folder, LeftOut())]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_damaged_message_is_data_or_an_error(bair, tmp_path_factory, data):
    """With checksums that are right: whoever writes a bad message can count, too."""
    folder = tmp_path_factory.getbasetemp() / "forged"
    record = bytearray(_record_without_pixels())
    for _ in range(data.draw(st.integers(1, 3))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    write_records(folder / "traj_0_to_0.tfrecords", [bytes(record)])
    for found in find_records(folder, LeftOut()):
        with pytest.raises(UserError):  # it has no pictures, whatever is damaged
            read_trajectory(found, "aux1", ACTIONS)


def _record_without_pixels() -> bytes:
    data = trajectory(0)
    return encoded({name: data[name] for name in ("action", "endeffector_pos")})


def _with(**changes: np.ndarray) -> bytes:
    return encoded(trajectory(0) | changes)


def _beyond(value: float) -> np.ndarray:
    action = trajectory(0)["action"].copy()
    action[7, 0] = value
    return action


FORGED = [
    (_record_without_pixels, "'0/image_aux1/encoded' holds 0 byte strings, not one"),
    (lambda: _with(image_aux1=trajectory(0)["image_aux1"][:17]), "'17/image_aux1/encoded' holds 0"),
    (lambda: _with(image_aux1=np.zeros((30, 64, 48, 3), np.uint8)), "9216 bytes, not the 12288"),
    (lambda: _with(image_aux1=np.zeros((30, 4), np.float32)), "'0/image_aux1/encoded' holds 0"),
    (lambda: _with(action=np.zeros((30, 5), np.float32)), "holds 5 numbers, not 4"),
    (lambda: _with(action=_beyond(0.11)), r"action 7 is \[0.1.*--action-limits"),
    (lambda: _with(action=_beyond(np.nan)), r"action 7 is \[nan"),
    (lambda: _with(endeffector_pos=np.full((30, 3), np.inf, np.float32)), "not finite"),
    (lambda: b"", "'0/image_aux1/encoded' holds 0"),
    (lambda: b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "not a tf.train.Example"),
    (lambda: b"\x0a\x7f", "not a tf.train.Example"),
    (lambda: b"\x0b", "not a tf.train.Example"),
    (lambda: b"\x0a\x05\x0a\x03\x0a\x01\xff", "not a tf.train.Example"),
]


@pytest.mark.parametrize(("forge", "message"), FORGED)
def test_a_record_of_another_kind_is_named_and_the_others_are_kept(bair, tmp_path, forge, message):
    source, out = tmp_path / "source", tmp_path / "out"
    good = (bair / "train/traj_10_to_11.tfrecords").read_bytes()
    write_records(source / "train/traj_0_to_255.tfrecords", [forge()])
    bad = (source / "train/traj_0_to_255.tfrecords").read_bytes()
    (source / "train/traj_0_to_255.tfrecords").write_bytes(good + bad)
    shutil.copytree(bair / "test", source / "test")
    with pytest.raises(UserError, match=rf"traj_0_to_255\.tfrecords, record 1: .*{message}"):
        imported(ImportBair(source, out))
    reader = EpisodeReader(out)
    np.testing.assert_array_equal(reader.frames(0), trajectory(2)["image_aux1"])
    (problem,) = verify(out).problems
    assert "import still runs or was stopped" in problem


def test_the_limit_itself_is_no_larger_action(tmp_path):
    # 0.1 of float32 is above 0.1 of float64.
    for split in ("train", "test"):
        action = _beyond(0.1)
        write_records(tmp_path / split / "traj_0_to_0.tfrecords", [_with(action=action)])
    assert imported(ImportBair(tmp_path, tmp_path / "out")) == 2
    assert verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_limits_that_are_none_are_refused(bair, tmp_path, limit):
    with pytest.raises(UserError, match="--action-limits must be finite and above 0"):
        imported(ImportBair(bair, tmp_path / "out", action_limits=(0.1, limit, 10.0, 10.0)))
    assert not (tmp_path / "out").exists()


def test_wider_limits_let_larger_actions_in(tmp_path):
    write_records(tmp_path / "train/traj_0_to_0.tfrecords", [_with(action=_beyond(0.11))])
    write_records(tmp_path / "test/traj_0_to_0.tfrecords", [_with()])
    limits = (0.2, 0.2, 10.0, 10.0)
    assert imported(ImportBair(tmp_path, tmp_path / "out", action_limits=limits)) == 2
    with pytest.raises(UserError, match="another kind: actions"):
        imported(ImportBair(tmp_path, tmp_path / "out", action_limits=(0.3, 0.2, 10.0, 10.0)))


def _header(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", pywrap_tensorflow.masked_crc32c(packed))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_header(2**30), "claims 1073741824 bytes"),
        (_header(2**63), "claims 9223372036854775808 bytes"),
        (_header(2**20), "it is cut off"),
        (_header(5) + b"12345", "it is cut off"),
        (_header(5)[:-1], "it is cut off"),
        (bytes(12), "the checksum of its length is wrong"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "no TFRecord file"),
        (_header(5) + b"12345" + bytes(4), "its checksum is wrong"),
    ],
)
def test_a_damaged_file_is_named(bair, tmp_path, content, message):
    source = tmp_path / "source"
    shutil.copytree(bair, source)
    bad = source / "test/traj_256_to_511.tfrecords"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=rf"traj_256_to_511\.tfrecords, record 0: .*{message}"):
        imported(ImportBair(source, tmp_path / "out"))


def test_an_empty_file_is_no_file_of_the_set(bair, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(bair, source)
    (source / "train/traj_256_to_511.tfrecords").touch()
    with pytest.raises(UserError, match=r"traj_256_to_511\.tfrecords is empty: fetch"):
        imported(ImportBair(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_trajectories_that_are_missing_and_files_of_other_names_are_counted(tmp_path, capsys):
    source, out = tmp_path / FOLDER, tmp_path / "out"
    records = [encoded(trajectory(i)) for i in range(3)]
    write_records(source / "train/traj_0_to_2.tfrecords", records)
    write_records(source / "test/traj_0_to_0.tfrecords", records[:1])
    ImportBair(source, out).run()
    assert "left out" not in capsys.readouterr().out
    whole = source / "train/traj_0_to_2.tfrecords"
    os.truncate(whole, record_spans(whole)[0][1] + 16)  # between the first and the second
    shutil.copy(whole, source / "train/traj_0_to_2 (1).tfrecords")
    ImportBair(source, tmp_path / "cut").run()
    lines = [
        "left out     missing from files that should hold them by their names; were they cut?: 2, "
        "the first train/traj_0_to_2.tfrecords with 1 of 3",
        "left out     not named traj_*_to_*.tfrecords: 1, train/traj_0_to_2 (1).tfrecords",
    ]
    assert capsys.readouterr().out.splitlines()[1:] == lines
    assert read_left_out(tmp_path / "cut").lines() == lines
    assert len(EpisodeReader(tmp_path / "cut")) == 2


def test_a_claimed_gigabyte_is_not_allocated(tmp_path):
    path = tmp_path / "claims.tfrecords"
    path.write_bytes(_header(2**30))
    os.truncate(path, 2**31)  # the file does hold so much: a hole
    tracemalloc.start()
    with pytest.raises(UserError, match="claims 1073741824 bytes"):
        record_spans(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20


def test_spans_are_where_the_records_lie(tmp_path):
    write_records(tmp_path / "some.tfrecords", [b"", b"one", b"another"])
    spans = record_spans(tmp_path / "some.tfrecords")
    assert [read_record(tmp_path / "some.tfrecords", s) for s in spans] == [b"", b"one", b"another"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"tar"), "is a file: unpack it first"),
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "holds no folders train and test"),
        (lambda p: (p / "train").mkdir(parents=True), "holds no folders train and test"),
        (
            lambda p: [(p / part).mkdir(parents=True) for part in ("train", "test")],
            "holds no records",
        ),
    ],
)
def test_another_folder_is_refused_with_the_way_out(tmp_path, make, message):
    make(tmp_path / "source")
    with pytest.raises(UserError, match=message):
        imported(ImportBair(tmp_path / "source", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_another_source_does_not_mix_in(bair, tmp_path):
    imported(ImportBair(bair, tmp_path / "out"))
    grown = tmp_path / "grown"
    shutil.copytree(bair, grown)
    write_records(grown / "train/traj_0_to_1.tfrecords", [encoded(trajectory(7))])
    with pytest.raises(UserError, match="episodes of another kind: env_kwargs"):
        imported(ImportBair(grown, tmp_path / "out"))
    with pytest.raises(UserError, match="episodes of another kind: env_kwargs"):
        imported(ImportBair(bair, tmp_path / "out", camera="main"))
