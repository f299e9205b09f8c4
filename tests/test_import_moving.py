"""Moving digits and Moving MNIST: made as described, read as written, nothing else taken."""

import builtins
import contextlib
import functools
import gzip
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldmodel.data import SPLITS, ClipSampler, EpisodeReader, split_of
from worldmodel.data.__main__ import main
from worldmodel.data.importers import moving
from worldmodel.data.importers.moving import (
    SPEED,
    bouncing,
    open_sequences,
    read_idx,
    sklearn_digits,
)
from worldmodel.data.verify import verify
from worldmodel.errors import UserError

RNG = np.random.default_rng(0)
TRAIN_IMAGES = RNG.integers(0, 128, (30, 28, 28), np.uint8)  # darker than all of the test's
TEST_IMAGES = RNG.integers(128, 256, (7, 28, 28), np.uint8)
SEQUENCES = RNG.integers(0, 256, (20, 5, 64, 64), np.uint8)
digits_made_once = functools.cache(sklearn_digits)  # takes a second


@pytest.fixture
def run(monkeypatch) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["worldmodel.data", *map(str, arguments)])
        main()

    monkeypatch.setattr(moving, "sklearn_digits", digits_made_once)
    return run


def idx_bytes(images: np.ndarray, *, magic: int = 0x803, claimed: int | None = None) -> bytes:
    """By the format's definition: big-endian magic and sizes, then the pixels row by row."""
    num_images = len(images) if claimed is None else claimed
    return struct.pack(">IIII", magic, num_images, *images.shape[1:]) + images.tobytes()


def write_mnist(folder: Path) -> Path:
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(TRAIN_IMAGES))
    packed = gzip.compress(idx_bytes(TEST_IMAGES))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(packed)
    return folder


def assert_sound(folder: Path, num_episodes: int) -> EpisodeReader:
    report = verify(folder)
    assert report.problems == []
    assert any(line.startswith(f"episodes     {num_episodes}:") for line in report.lines)
    assert (folder / "contact-sheet.png").exists()
    reader = EpisodeReader(folder)
    assert len(reader) == num_episodes
    return reader


def test_digits_make_a_sound_set(tmp_path, run, capsys):
    run("digits", "--out", tmp_path / "set", "--episodes", 30)
    assert "30 episodes of moving digits (not Moving MNIST)" in capsys.readouterr().out
    reader = assert_sound(tmp_path / "set", 30)
    assert reader.info.env_id == "MovingDigits"
    assert reader.info.frame_shape == (64, 64, 1)
    assert set(reader.index["episode_length"]) == {19}
    for split in SPLITS:
        sampler = ClipSampler(reader, split, num_frames=16)
        clips = sampler.read(sampler.draw(np.random.default_rng(0), 3))
        assert clips.frames.shape == (3, 16, 64, 64, 1)
        assert (clips.action == 0).all()


def test_a_larger_set_begins_with_the_smaller_one_and_goes_on(tmp_path, run):
    at_once, in_parts = tmp_path / "at once", tmp_path / "in parts"
    options = ("--frames", 3, "--seed", 5)
    run("digits", "--out", at_once, "--episodes", 12, *options)
    run("digits", "--out", in_parts, "--episodes", 7, *options)
    run("digits", "--out", in_parts, "--episodes", 12, *options)
    left, right = EpisodeReader(at_once), EpisodeReader(in_parts)
    assert list(left.index["episode_id"]) == list(right.index["episode_id"]) == list(range(12))
    for i in range(12):
        np.testing.assert_array_equal(left.frames(i), right.frames(i))


def test_another_seed_is_another_set(tmp_path, run):
    run("digits", "--out", tmp_path / "0", "--episodes", 2)
    run("digits", "--out", tmp_path / "1", "--episodes", 2, "--seed", 1)
    frames = [EpisodeReader(tmp_path / seed).frames(0) for seed in "01"]
    assert (frames[0] != frames[1]).any()
    said = one_line_error(lambda: run("digits", "--out", tmp_path / "0", "--seed", 1))
    assert "Choose another folder" in said


def _ink(picture: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """What is drawn, wherever it is."""
    rows, columns = (np.flatnonzero(picture.any(axis)) for axis in (1, 0))
    drawn = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return drawn.shape, drawn.tobytes()


def test_test_digits_are_seen_in_the_test_split_alone(tmp_path, run):
    """One digit an episode, so that a frame holds its picture and nothing else."""
    run("digits", "--out", tmp_path, "--episodes", 60, "--frames", 2, "--digits", 1)
    reader, images = EpisodeReader(tmp_path), digits_made_once()
    number_of = {_ink(image): n for n, image in enumerate(images)}
    assert len(number_of) == len(images) == 1797
    for i, episode_id in enumerate(reader.index["episode_id"]):
        shown = {number_of[_ink(frame[..., 0])] for frame in reader.frames(i)}
        assert len(shown) == 1
        assert (min(shown) >= 1797 - 359) == (split_of(int(episode_id)) == "test")
    assert len(reader.split("test")) > 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), num_digits=st.integers(1, 3))
def test_a_square_bounces_at_constant_speed(seed, num_digits):
    """Full squares: the film must be the union of what a billiard table's rules say."""
    digits = np.full((num_digits, 28, 28), 255, np.uint8)
    film = bouncing(digits, np.random.default_rng(seed), 40)
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 36, (num_digits, 1, 2))[:, 0]
    angles = rng.uniform(0, 2 * np.pi, (num_digits, 1))[:, 0]
    velocities = SPEED * np.stack([np.sin(angles), np.cos(angles)], 1)
    for frame in film[..., 0]:
        expected = np.zeros((64, 64), np.uint8)
        for top, left in np.rint(positions).astype(int):
            expected[top : top + 28, left : left + 28] = 255
        # The two roundings of a position at one half may differ, by a line of pixels.
        assert (frame != expected).sum() <= 2 * 28 * num_digits
        positions = positions + velocities
        for walls in (positions < 0, positions > 36):
            velocities[walls] *= -1
            positions[walls] = np.where(positions < 0, -positions, 72 - positions)[walls]


def test_the_brighter_pixel_is_seen():
    digits = np.stack([np.full((28, 28), level, np.uint8) for level in (80, 200, 140)])
    film = bouncing(digits, np.random.default_rng(1), 200)
    drawn_alone = [np.where(film == level, 1, 0).sum((1, 2, 3)) for level in (80, 200, 140)]
    assert set(np.unique(film)) == {0, 80, 140, 200}
    assert (drawn_alone[1] == 28 * 28).all()  # nothing ever covers the brightest


def test_enlarged_digits_stay_what_they_are():
    """Shrunk again they give the ink that was counted, up to the sharper edges."""
    from sklearn.datasets import load_digits

    images = sklearn_digits()
    original = np.asarray(load_digits(return_X_y=True)[0]).reshape(-1, 8, 8)
    assert (images[:, :4] == 0).all()
    assert (images[:, :, -4:] == 0).all()
    fine = images[:, 4:24, 4:24].repeat(2, 1).repeat(2, 2)
    shrunk = fine.reshape(-1, 8, 5, 8, 5).mean((2, 4))
    related = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(shrunk, original, strict=True)
    ]
    assert min(related) > 0.85
    assert images.max(axis=(1, 2)).min() > 200


def test_without_scikit_learn_the_way_to_it_is_said(tmp_path, run, monkeypatch):
    real_import = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(moving, "sklearn_digits", sklearn_digits)
    monkeypatch.setattr(builtins, "__import__", without)
    message = one_line_error(lambda: run("digits", "--out", tmp_path / "set"))
    assert "pip install" in message
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("option", ["--episodes", "--digits", "--frames"])
def test_useless_options_are_refused(tmp_path, run, option):
    assert option in one_line_error(lambda: run("digits", "--out", tmp_path / "set", option, 0))


def test_the_official_test_set_is_read_whole(tmp_path, run):
    np.save(tmp_path / "mnist_test_seq.npy", SEQUENCES)
    run("moving-mnist", tmp_path / "mnist_test_seq.npy", "--out", tmp_path / "set")
    reader = assert_sound(tmp_path / "set", 5)
    assert len(reader.split("test")) == 5
    for i in range(5):
        np.testing.assert_array_equal(reader.frames(i), SEQUENCES[:, i, :, :, None])
    sampler = ClipSampler(reader, "test", num_frames=20)
    assert sampler.num_windows == 5


def test_fortran_order_is_the_same_array(tmp_path, run):
    np.save(tmp_path / "mnist_test_seq.npy", np.asfortranarray(SEQUENCES))
    run("moving-mnist", tmp_path, "--out", tmp_path / "set")
    np.testing.assert_array_equal(
        EpisodeReader(tmp_path / "set").frames(3), SEQUENCES[:, 3, :, :, None]
    )


def test_digits_of_mnist_keep_to_their_splits(tmp_path, run):
    source = write_mnist(tmp_path / "mnist")
    options = ("--episodes", 40, "--frames", 4)
    run("moving-mnist", source, "--out", tmp_path / "set", *options)
    reader = assert_sound(tmp_path / "set", 40)
    for i, episode_id in enumerate(reader.index["episode_id"]):
        is_test = split_of(int(episode_id)) == "test"
        assert (reader.frames(i).max() >= 128) == is_test
    assert len(reader.split("test")) > 0


def test_official_test_set_beside_digits_for_training(tmp_path, run):
    source = write_mnist(tmp_path / "mnist")
    np.save(source / "mnist_test_seq.npy", SEQUENCES)
    run("moving-mnist", source, "--out", tmp_path / "set", "--episodes", 20)
    reader = assert_sound(tmp_path / "set", 25)
    test = [reader.frames(int(i)) for i in reader.split("test")]
    np.testing.assert_array_equal(np.stack(test, 1)[..., 0], SEQUENCES)
    for split in ("train", "validation"):
        assert all(reader.frames(int(i)).max() < 128 for i in reader.split(split))


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gz"])
def test_idx_is_read_as_written(tmp_path, pack):
    path = tmp_path / ("images" + ("" if pack(b"x") == b"x" else ".gz"))
    path.write_bytes(pack(idx_bytes(TRAIN_IMAGES)))
    np.testing.assert_array_equal(read_idx(path), TRAIN_IMAGES)


HOSTILE_IDX = {
    "short header": (b"\0\0\x08\x03", "too short"),
    "wrong magic": (idx_bytes(TEST_IMAGES, magic=0x801), "magic"),
    "claims more": (idx_bytes(TEST_IMAGES, claimed=8), "fewer"),
    "claims less": (idx_bytes(TEST_IMAGES, claimed=6), "more"),
    "claims far more": (idx_bytes(TEST_IMAGES, claimed=2**32 - 1), "4294967295"),
    "none": (idx_bytes(TEST_IMAGES[:0]), "0 images"),
    "other size": (idx_bytes(TEST_IMAGES[:, :8, :8]), "8 x 8"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("data", "said"), HOSTILE_IDX.values(), ids=HOSTILE_IDX)
def test_hostile_idx_is_refused(tmp_path, data, said, packed):
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(UserError, match=said):
        read_idx(path)


def test_a_gz_bomb_is_not_unpacked(tmp_path):
    """64 MB of zeros in 300 kB, behind a header that claims few: only so many are read."""
    bomb = gzip.compress(idx_bytes(TEST_IMAGES) + bytes(2**26), compresslevel=1)
    (tmp_path / "bomb.gz").write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more"):
            read_idx(tmp_path / "bomb.gz")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [b"", b"no gz at all", gzip.compress(idx_bytes(TEST_IMAGES))[:-20]]
)
def test_a_damaged_gz_is_refused(tmp_path, data):
    (tmp_path / "images.gz").write_bytes(data)
    with pytest.raises(UserError):
        read_idx(tmp_path / "images.gz")


class Evil:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("framed", [True, False])
def test_nothing_is_unpickled(tmp_path, framed):
    path, trace = tmp_path / "mnist_test_seq.npy", tmp_path / "trace"
    if framed:
        np.save(path, np.array([Evil(trace)], object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(UserError):
        open_sequences(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "array",
    [
        SEQUENCES.astype(np.float32),
        SEQUENCES.swapaxes(0, 1),
        SEQUENCES[:, :, :32],
        SEQUENCES[:, :0],
        SEQUENCES[0],
        np.uint8(3),
    ],
    ids=["float", "transposed", "size", "none", "three", "scalar"],
)
def test_other_arrays_are_refused(tmp_path, array):
    np.save(tmp_path / "mnist_test_seq.npy", array)
    with pytest.raises(UserError, match="mnist_test_seq"):
        open_sequences(tmp_path / "mnist_test_seq.npy")


def test_a_truncated_npy_is_refused(tmp_path):
    path = tmp_path / "mnist_test_seq.npy"
    np.save(path, SEQUENCES)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError):
        open_sequences(path)


def test_what_is_missing_is_said(tmp_path, run):
    out = ("--out", tmp_path / "set")
    assert "does not exist" in one_line_error(lambda: run("moving-mnist", tmp_path / "x", *out))
    source = write_mnist(tmp_path / "mnist")
    (source / "train-images-idx3-ubyte").unlink()
    said = one_line_error(lambda: run("moving-mnist", source, *out))
    assert "train-images-idx3-ubyte" in said
    assert not (tmp_path / "set").exists()


FLIPS = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), min_size=1, max_size=4)


def _flipped(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, bits in flips:
        changed[at % len(changed)] ^= bits
    return bytes(changed)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(flips=FLIPS)
def test_flipped_bytes_give_images_or_a_data_error(tmp_path, flips):
    for name, data in {
        "images": idx_bytes(TEST_IMAGES[:1]),
        "images.gz": gzip.compress(idx_bytes(np.zeros((1, 28, 28), np.uint8))),
    }.items():
        (tmp_path / name).write_bytes(_flipped(data, flips))
        with contextlib.suppress(UserError):
            assert read_idx(tmp_path / name).shape[1:] == (28, 28)
