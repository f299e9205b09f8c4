"""Moving digits: python -m worldmodel.data digits --out data/moving-digits

Made as Moving MNIST is (Srivastava et al. 2015, "Unsupervised Learning of Video Representations
using LSTMs"), but of the small digits that scikit-learn carries, so that it needs no download.
It is another data set: its numbers are never to be compared with those of Moving MNIST.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from worldmodel import randomness
from worldmodel.command import check_numbers
from worldmodel.data.episodes import DatasetInfo
from worldmodel.data.importers.writing import (
    OfficialSplit,
    Recording,
    Source,
    import_sources,
    print_result,
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


@dataclass(frozen=True)
class ImportDigits:
    """Make moving digits: handwritten digits that bounce off the walls, from scikit-learn's
    8x8 images. Like Moving MNIST, but not to be compared with it."""

    out: Path = Path("data/moving-digits")
    """Folder of the data set."""
    episodes: int = 10_000
    """Number of episodes; more than before adds to the set."""
    frames: int = 20
    """Frames an episode."""
    digits: int = 2
    """Digits an episode."""
    seed: int = 0
    """Of everything."""

    def run(self) -> None:
        """Raises UserError when an option is not usable or scikit-learn is missing."""
        check_numbers(self, episodes=1, frames=2, digits=1, seed=0)
        images = sklearn_digits()
        num_test = len(images) // TEST_SHARE
        options = {
            "num_frames": self.frames,
            "num_digits": self.digits,
            "seed": self.seed,
        }
        num_stored = import_sources(
            self.out,
            describe("MovingDigits", options),
            bouncing_sources(
                {"train": images[:-num_test], "test": images[-num_test:]},
                num_episodes=self.episodes,
                **options,
            ),
            total=self.episodes,
        )
        print_result(
            self.out, f"{self.out} holds {num_stored} episodes of moving digits (not Moving MNIST)"
        )


def describe(env_id: str, env_kwargs: dict[str, Any]) -> DatasetInfo:
    """What a data set of moving digits says of itself."""
    return DatasetInfo(
        env_id=env_id,
        env_kwargs=env_kwargs,
        frame_shape=(FRAME_SIZE, FRAME_SIZE, 1),
        actions=NO_ACTION,
        variable_names=(),
        fps=FPS,
        frame_skip=1,
    )


def bouncing_sources(
    images: Mapping[OfficialSplit, UInt8[np.ndarray, "_ 28 28"]],
    *,
    num_episodes: int,
    num_frames: int,
    num_digits: int,
    seed: int,
) -> Iterator[Source]:
    """Episodes of digits that bounce, each shown by its seed and number alone.

    Args:
        images: of each official split; a split's episodes show its own images only. Without
            any for "test" all episodes are for training.
    """

    def read(number: int, split: OfficialSplit) -> Recording:
        rng = randomness.generator(seed, "moving digits", number)
        chosen = images[split][rng.integers(len(images[split]), size=num_digits)]
        return Recording(bouncing(chosen, rng, num_frames))

    for i in range(num_episodes):
        split = "test" if "test" in images and split_of(i) == "test" else "train"
        yield Source(split, "bouncing", partial(read, i, split))


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
