"""Moving MNIST: python -m worldmodel.data moving-mnist SRC --out data/moving-mnist

Its test set is the file mnist_test_seq.npy (10,000 sequences of 20 frames), its training set is
made as one goes, of MNIST's training digits (Srivastava et al. 2015). Both are read by path.
"""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import UInt8

from worldmodel.command import check_numbers
from worldmodel.data.importers.moving_digits import (
    DIGIT_SIZE,
    FRAME_SIZE,
    bouncing_sources,
    describe,
)
from worldmodel.data.importers.writing import (
    OfficialSplit,
    Recording,
    Source,
    import_sources,
    print_result,
)
from worldmodel.errors import UserError

TEST_FILE = "mnist_test_seq.npy"
TEST_FRAMES = 20
IMAGE_FILES: dict[OfficialSplit, str] = {
    "train": "train-images-idx3-ubyte",
    "test": "t10k-images-idx3-ubyte",
}
# Read here and not by NumPy, whose parser of headers raises all kinds of errors on damaged ones.
NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_PRELUDE = struct.Struct("<8sH")  # magic, size of the header that follows
NPY_HEADER = re.compile(
    rb"\{'descr': '[|<>=]u1', 'fortran_order': (?P<fortran>False|True), "
    rb"'shape': \((?P<shape>\d{1,9}(, \d{1,9}){3})\), \} *\n"
)
IDX_MAGIC = 0x803  # unsigned bytes in three dimensions
IDX_HEADER = struct.Struct(">4I")
MAX_IMAGES = 200_000  # MNIST has 70,000, and QMNIST 120,000


@dataclass(frozen=True)
class ImportMovingMNIST:
    """Read or make Moving MNIST. The official test set is mnist_test_seq.npy; the episodes for
    training are made of MNIST's digits, and so is the test split where that file is not given."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """The file mnist_test_seq.npy, or a folder that holds it, or train-images-idx3-ubyte and
    t10k-images-idx3-ubyte (also .gz), or it and train-images-idx3-ubyte."""
    out: Path = Path("data/moving-mnist")
    """Folder of the data set."""
    episodes: int = 10_000
    """Number of episodes to make, beside those that are read; more than before adds to the set."""
    frames: int = 20
    """Frames of an episode that is made."""
    digits: int = 2
    """Digits of an episode that is made."""
    seed: int = 0
    """Of the episodes that are made."""

    def run(self) -> None:
        """Raises UserError when an option is not usable, or a file is missing or damaged."""
        check_numbers(self, episodes=1, frames=2, digits=1, seed=0)
        test_path, image_paths = find_files(self.source)
        options = {
            "num_frames": self.frames,
            "num_digits": self.digits,
            "seed": self.seed,
        }
        made, read = iter(()), iter(())
        total = 0
        if image_paths:
            images: dict[OfficialSplit, np.ndarray] = {
                split: read_idx(path) for split, path in image_paths.items()
            }
            made = bouncing_sources(images, num_episodes=self.episodes, **options)
            total += self.episodes
        if test_path is not None:
            sequences = open_sequences(test_path)
            read = official_sources(sequences)
            total += sequences.shape[1]
        test = "made of MNIST's test digits" if test_path is None else TEST_FILE
        info = describe("MovingMNIST", (options if image_paths else {}) | {"test": test})
        num_stored = import_sources(self.out, info, chain(made, read), total=total)
        print_result(self.out, f"{self.out} holds {num_stored} episodes; its test split is {test}")


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
        yield Source("test", TEST_FILE, partial(read, i))


def open_sequences(path: Path) -> UInt8[np.ndarray, "T N 64 64"]:
    """The array of mnist_test_seq.npy, mapped and not yet read.

    Raises:
        UserError: it is not such a file; nothing in it is unpickled.
    """
    try:
        with path.open("rb") as file:
            prelude = file.read(NPY_PRELUDE.size)
            if len(prelude) < NPY_PRELUDE.size or not prelude.startswith(NPY_MAGIC):
                raise UserError(f"{path} is no .npy file of version 1: {TEST_FILE} is one")
            *_, header_size = NPY_PRELUDE.unpack(prelude)
            header = file.read(header_size)
        says = NPY_HEADER.fullmatch(header)
        shape = [int(size) for size in says["shape"].split(b", ")] if says else [0] * 4
        num_frames, num_sequences, *frame_size = shape
        is_expected = num_frames == TEST_FRAMES and frame_size == [FRAME_SIZE, FRAME_SIZE]
        if says is None or not is_expected or num_sequences < 1:
            raise UserError(
                f"{path} says that it holds {header[:150].decode(errors='replace').strip()!r}, but "
                f"{TEST_FILE} holds uint8 '|u1' ({TEST_FRAMES}, 10000, {FRAME_SIZE}, {FRAME_SIZE})"
            )
        offset = NPY_PRELUDE.size + header_size
        num_bytes = path.stat().st_size - offset
        if num_bytes != math.prod(shape):
            raise UserError(
                f"{path} is damaged: {num_bytes} bytes follow its header, not {math.prod(shape)}"
            )
        order = "F" if says["fortran"] == b"True" else "C"
        return np.memmap(path, np.uint8, "r", offset, tuple(shape), order)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


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
