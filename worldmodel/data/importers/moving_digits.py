"""Moving digits: python -m worldmodel.data digits --out data/moving-digits

Made as Moving MNIST is (Srivastava et al. 2015, "Unsupervised Learning of Video Representations
using LSTMs"), but of the small digits that scikit-learn carries, so that it needs no download.
It is another data set: its numbers are never to be compared with those of Moving MNIST.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from worldmodel.data.episodes import DataError, DatasetInfo
from worldmodel.data.importers.writing import NO_ACTION, Recording, Source, import_sources
from worldmodel.data.reader import split_of

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
        """Raises DataError when an option is not usable or scikit-learn is missing."""
        check_options(self.episodes, self.frames, self.digits, self.seed)
        images = sklearn_digits()
        num_test = len(images) // TEST_SHARE
        num_stored = import_moving_digits(
            self.out,
            {"train": images[:-num_test], "test": images[-num_test:]},
            env_id="MovingDigits",
            num_episodes=self.episodes,
            num_frames=self.frames,
            num_digits=self.digits,
            seed=self.seed,
        )
        print(f"{self.out} holds {num_stored} episodes of moving digits (not Moving MNIST)")


def check_options(num_episodes: int, num_frames: int, num_digits: int, seed: int) -> None:
    """Raises DataError when no moving digits can be made so."""
    limits = {
        "--episodes": (num_episodes, 1),
        "--frames": (num_frames, 2),
        "--digits": (num_digits, 1),
        "--seed": (seed, 0),
    }
    for name, (value, least) in limits.items():
        if value < least:
            raise DataError(f"{name} must be at least {least}, not {value}")


def import_moving_digits(
    out: Path,
    images: dict[str, UInt8[np.ndarray, "n 28 28"]],
    *,
    env_id: str,
    num_episodes: int,
    num_frames: int,
    num_digits: int,
    seed: int,
) -> int:
    """Store episodes of digits that bounce; goes on where it was stopped.

    An episode follows from the seed and its id alone, so more episodes add to a set.

    Args:
        images: of "train" and "test"; an episode of a split shows digits of that split only.

    Returns:
        How many episodes the data set holds now.

    Raises:
        DataError: `out` holds another data set, or the disk is full.
    """
    info = DatasetInfo(
        env_id=env_id,
        env_kwargs={"num_frames": num_frames, "num_digits": num_digits, "seed": seed},
        frame_shape=(FRAME_SIZE, FRAME_SIZE, 1),
        actions=NO_ACTION,
        variable_names=(),
        fps=FPS,
        frame_skip=1,
    )

    def read(episode_id: int, split: str) -> Recording:
        rng = np.random.default_rng([seed, episode_id])
        chosen = images[split][rng.integers(len(images[split]), size=num_digits)]
        return Recording(bouncing(chosen, rng, num_frames))

    def sources() -> Iterator[Source]:
        for i in range(num_episodes):
            split = "test" if split_of(i) == "test" else "train"
            # Called at once or never, so `i` and `split` are still its own.
            yield Source(split, "bouncing", lambda i=i, split=split: read(i, split))

    return import_sources(out, info, sources(), total=num_episodes)


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
        DataError: scikit-learn is not installed.
    """
    try:
        # Optional, and takes a second: only this command wants it.
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "moving digits are made of scikit-learn's images, and it is not installed: "
            "pip install 'scikit-learn>=1.5', or the extra: pip install -e '.[digits]'"
        ) from None
    return np.stack([enlarged(image) for image in load_digits(return_X_y=False)["images"]])


def enlarged(image: np.ndarray) -> UInt8[np.ndarray, "28 28"]:
    """An 8x8 image of a digit, 0 to 16, as a pen would have drawn it larger.

    A pixel counts how much of it is ink. Bicubic curves through these counts, made steeper,
    give strokes with clear edges; they are drawn four times too large and averaged.
    """
    fine = 4 * STROKE_BOX
    margin = fine // 8  # one pixel of the 8x8 around it: strokes may end at its edge
    ink = Image.fromarray(np.pad(image, 1).astype(np.float32) / 16)
    curves = np.asarray(ink.resize((fine + 2 * margin,) * 2, Image.Resampling.BICUBIC))
    steeper = ((curves[margin:-margin, margin:-margin] - 0.2) / 0.5).clip(0, 1)
    strokes = steeper**2 * (3 - 2 * steeper)
    shrunk = strokes.reshape(STROKE_BOX, 4, STROKE_BOX, 4).mean((1, 3))
    return np.pad(np.rint(255 * shrunk).astype(np.uint8), (DIGIT_SIZE - STROKE_BOX) // 2)
