"""Moving digits: python -m worldmodel.data digits --out data/moving-digits

Made as Moving MNIST is (Srivastava et al. 2015, "Unsupervised Learning of Video Representations
using LSTMs"), but of the small digits that scikit-learn carries, so that it needs no download.
It is another data set: its numbers are never to be compared with those of Moving MNIST.

Moving MNIST: python -m worldmodel.data moving-mnist SRC --out data/moving-mnist

Its test set is the file mnist_test_seq.npy (10,000 sequences of 20 frames), its training set is
made of MNIST's training digits. Both are read by path.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

from worldmodel import randomness
from worldmodel.command import check_numbers
from worldmodel.data.episodes import DatasetInfo
from worldmodel.data.importers.pipeline import (
    Found,
    OfficialSplit,
    Recording,
    Source,
    import_found,
)
from worldmodel.data.reader import split_of
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION

FRAME_SIZE = 64
DIGIT_SIZE = 28
STROKE_BOX = 20  # a digit's strokes fill so many pixels of the 28, as in MNIST
SPEED = 3.6  # pixels a frame: a tenth of the way that a digit has, as in Moving MNIST
FPS = 10.0
TEST_SHARE = 5  # one digit image in so many is seen in the test split alone
TEST_FILE = "mnist_test_seq.npy"
TEST_FRAMES = 20
IMAGE_FILES: dict[OfficialSplit, str] = {
    "train": "train-images-idx3-ubyte",
    "test": "t10k-images-idx3-ubyte",
}
IDX_MAGIC = 0x803  # unsigned bytes in three dimensions
IDX_HEADER = struct.Struct(">4I")
MAX_IMAGES = 200_000  # MNIST has 70,000, and QMNIST 120,000


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What both commands are asked for."""

    episodes: int = 10_000
    """Number of episodes to make; more than before adds to the set."""
    frames: int = 20
    """Frames of an episode that is made."""
    digits: int = 2
    """Digits of an episode that is made."""
    seed: int = 0
    """Of the episodes that are made."""

    def check(self) -> None:
        """Raises UserError where one is not usable."""
        check_numbers(self, episodes=1, frames=2, digits=1, seed=0)

    def env_kwargs(self) -> dict[str, Any]:
        """What a data set of such episodes says of itself."""
        return {"num_frames": self.frames, "num_digits": self.digits, "seed": self.seed}

    def sources(self, images: Mapping[OfficialSplit, np.ndarray]) -> Iterator[Source]:
        """Episodes of digits that bounce, each determined by the seed and its number alone.

        Args:
            images: (N, 28, 28) of each official split; a split's episodes show its own images
                only. Without any for "test" all episodes are for training.
        """

        def read(number: int, split: OfficialSplit) -> Recording:
            rng = randomness.generator(self.seed, "moving digits", number)
            chosen = images[split][rng.integers(len(images[split]), size=self.digits)]
            return Recording(bouncing(chosen, rng, self.frames))

        for i in range(self.episodes):
            split = "test" if "test" in images and split_of(i) == "test" else "train"
            yield Source(partial(read, i, split), "bouncing", split)


@dataclass(frozen=True, kw_only=True)
class ImportDigits(_Options):
    """Make moving digits: handwritten digits that bounce off the walls, from scikit-learn's
    8x8 images. Like Moving MNIST, but not to be compared with it."""

    out: Path = Path("data/moving-digits")
    """Folder of the data set."""

    def run(self) -> None:
        """Raises UserError when an option is not usable or scikit-learn is missing."""
        self.check()
        images = sklearn_digits()
        num_test = len(images) // TEST_SHARE
        sources = self.sources({"train": images[:-num_test], "test": images[-num_test:]})
        info = _info("MovingDigits", self.env_kwargs())
        found = Found(info, sources, self.episodes)
        import_found(self.out, found, remark=" of moving digits (not Moving MNIST)")


@dataclass(frozen=True, kw_only=True)
class ImportMovingMNIST(_Options):
    """Read or make Moving MNIST. The official test set is mnist_test_seq.npy; the episodes for
    training are made of MNIST's digits, and so is the test split where that file is not given."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """The file mnist_test_seq.npy, or a folder that holds it, or train-images-idx3-ubyte and
    t10k-images-idx3-ubyte (also .gz), or it and train-images-idx3-ubyte."""
    out: Path = Path("data/moving-mnist")
    """Folder of the data set."""

    def run(self) -> None:
        """Raises UserError when an option is not usable, or a file is missing or damaged."""
        self.check()
        test_path, image_paths = find_files(self.source)
        parts, total, env_kwargs = [], 0, {}
        if image_paths:
            images: dict[OfficialSplit, np.ndarray] = {
                split: read_idx(path) for split, path in image_paths.items()
            }
            parts.append(self.sources(images))
            total, env_kwargs = self.episodes, self.env_kwargs()
        if test_path is not None:
            sequences = open_sequences(test_path)
            parts.append(official_sources(sequences))
            total += sequences.shape[1]
        test = "made of MNIST's test digits" if test_path is None else TEST_FILE
        info = _info("MovingMNIST", env_kwargs | {"test": test})
        found = Found(info, chain(*parts), total)
        import_found(self.out, found, remark=f"; its test split is {test}")


def _info(env_id: str, env_kwargs: dict[str, Any]) -> DatasetInfo:
    return DatasetInfo(
        env_id=env_id,
        env_kwargs=env_kwargs,
        frame_shape=(FRAME_SIZE, FRAME_SIZE, 1),
        actions=NO_ACTION,
        variable_names=(),
        fps=FPS,
        frame_skip=1,
    )


def bouncing(
    digits: UInt8[np.ndarray, "n 28 28"], rng: np.random.Generator, num_frames: int
) -> UInt8[np.ndarray, "T 64 64 1"]:
    """A film of digits that move at one constant speed and are thrown back by the walls.

    Each begins anywhere and goes anywhere; where two overlap, the brighter pixel is seen
    (Srivastava et al. 2015, Sec. 4.2).
    """
    way = FRAME_SIZE - DIGIT_SIZE
    start = rng.uniform(0, way, (len(digits), 1, 2))
    angle = rng.uniform(0, 2 * np.pi, (len(digits), 1))
    velocity = SPEED * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    travelled = start + velocity * np.arange(num_frames)[:, None]  # as if there were no walls
    corner = np.rint(way - np.abs(way - travelled % (2 * way))).astype(int)
    film = np.zeros((num_frames, FRAME_SIZE, FRAME_SIZE, 1), np.uint8)
    for digit, corners in zip(digits, corner, strict=True):
        for frame, (top, left) in zip(film[..., 0], corners, strict=True):
            patch = frame[top : top + DIGIT_SIZE, left : left + DIGIT_SIZE]
            np.maximum(patch, digit, out=patch)
    return film


def sklearn_digits() -> UInt8[np.ndarray, "1797 28 28"]:
    """The handwritten digits that scikit-learn carries, enlarged, white on black.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        # Optional, and takes a second: only this command wants it.
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "moving digits are made of scikit-learn's images, and it is not installed: "
            "pip install 'scikit-learn>=1.5', or the extra: pip install -e '.[digits]'"
        ) from None
    pixels, _ = load_digits(return_X_y=True)
    return np.stack([enlarged(image) for image in np.asarray(pixels).reshape(-1, 8, 8)])


def enlarged(image: np.ndarray) -> UInt8[np.ndarray, "28 28"]:
    """An 8x8 image of a digit, 0 to 16, as a pen would have drawn it larger.

    A pixel counts how much of it is ink. Bicubic curves through these counts, made steeper,
    give strokes with clear edges; they are drawn four times too large and averaged.
    """
    fine = 4 * STROKE_BOX
    margin = fine // 8  # one pixel of the 8x8 around it: strokes may end at its edge
    canvas = fine + 2 * margin
    ink = Image.fromarray(np.pad(image, 1).astype(np.float32) / 16)
    curves = np.asarray(ink.resize((canvas, canvas), Image.Resampling.BICUBIC))
    steeper = ((curves[margin:-margin, margin:-margin] - 0.2) / 0.5).clip(0, 1)
    strokes = steeper**2 * (3 - 2 * steeper)
    shrunk = strokes.reshape(STROKE_BOX, 4, STROKE_BOX, 4).mean((1, 3))
    return np.pad(np.rint(255 * shrunk).astype(np.uint8), (DIGIT_SIZE - STROKE_BOX) // 2)


def find_files(source: Path) -> tuple[Path | None, dict[OfficialSplit, Path]]:
    """The official test set and MNIST's images, as far as they are to be used.

    Raises:
        UserError: what is there makes no data set.
    """
    if source.is_file():
        return source, {}
    if not source.is_dir():
        raise UserError(f"{source} does not exist: give {TEST_FILE}, or a folder that holds it")
    test_path = source / TEST_FILE if (source / TEST_FILE).is_file() else None
    image_paths: dict[OfficialSplit, Path] = {}
    for split, name in IMAGE_FILES.items():
        dotted = name.replace("-idx", ".idx")  # so some copies of MNIST write it
        names = (name, f"{name}.gz", dotted, f"{dotted}.gz")
        found = [source / name for name in names if (source / name).is_file()]
        if found and (split == "train" or test_path is None):
            image_paths[split] = found[0]
    complete = test_path is not None or "test" in image_paths
    if not complete or (test_path is None and "train" not in image_paths):
        raise UserError(
            f"{source} holds neither {TEST_FILE} nor both of "
            f"{' and '.join(IMAGE_FILES.values())} (also .gz)"
        )
    return test_path, image_paths


def official_sources(sequences: UInt8[np.ndarray, "T N 64 64"]) -> Iterator[Source]:
    """The sequences of the official test set, read one by one."""

    def read(i: int) -> Recording:
        return Recording(np.ascontiguousarray(sequences[:, i, :, :, None]))

    for i in range(sequences.shape[1]):
        yield Source(partial(read, i), TEST_FILE, "test")


def open_sequences(path: Path) -> UInt8[np.ndarray, "T N 64 64"]:
    """The array of mnist_test_seq.npy, mapped and not yet read.

    Raises:
        UserError: it is not such a file; nothing in it is unpickled.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parser raises all kinds of them
        raise UserError(f"{path} cannot be read as {TEST_FILE}: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive, not {TEST_FILE}")
    num_frames, num_sequences, *size = array.shape if array.ndim == 4 else [0] * 4
    is_expected = num_frames == TEST_FRAMES and size == [FRAME_SIZE, FRAME_SIZE]
    if array.dtype != np.uint8 or not is_expected or num_sequences < 1:
        raise UserError(
            f"{path} holds {array.dtype} {array.shape}, but {TEST_FILE} holds uint8 "
            f"({TEST_FRAMES}, 10000, {FRAME_SIZE}, {FRAME_SIZE})"
        )
    return array


def read_idx(path: Path) -> UInt8[np.ndarray, "_ 28 28"]:
    """The images of one of MNIST's files, also when packed as .gz.

    Raises:
        UserError: it is not such a file, is damaged, or is longer or shorter than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(IDX_HEADER.size)
            if len(header) < IDX_HEADER.size:
                raise UserError(f"{path} is too short for the header of an IDX file")
            magic, num_images, height, width = IDX_HEADER.unpack(header)
            if magic != IDX_MAGIC or (height, width) != (DIGIT_SIZE, DIGIT_SIZE):
                raise UserError(
                    f"{path} is not a file of MNIST's images: its header says magic {magic:#x}, "
                    f"{height} x {width}, not {IDX_MAGIC:#x}, {DIGIT_SIZE} x {DIGIT_SIZE}"
                )
            if not 1 <= num_images <= MAX_IMAGES:
                raise UserError(
                    f"{path} says that it holds {num_images} images, not 1 to {MAX_IMAGES}"
                )
            num_bytes = num_images * DIGIT_SIZE**2
            pixels = file.read(num_bytes + 1)  # one more tells whether it ends here
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read or is damaged: {error}") from None
    if len(pixels) != num_bytes:
        holds = "more" if len(pixels) > num_bytes else "fewer"
        raise UserError(f"{path} holds {holds} images than the {num_images} that it says")
    return np.frombuffer(pixels, np.uint8).reshape(num_images, DIGIT_SIZE, DIGIT_SIZE)
