"""Scale pictures."""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image


class AreaResize:
    """Each pixel becomes the mean of the area that it covers, cut pixels in proportion.

    Pillow's BOX takes whole pixels only: at 120 to 64 rows some rows average two pixels and
    some copy one, which leaves an aliased texture that no tokenizer can learn.

    The same on every machine: sums are of whole numbers small enough to be exact.

    Args:
        size_in: (height, width) of what comes.
        size_out: (height, width) of what is wanted.
    """

    def __init__(self, size_in: tuple[int, int], size_out: tuple[int, int]) -> None:
        rows, columns = (
            _overlaps(n_in, n_out) for n_in, n_out in zip(size_in, size_out, strict=True)
        )
        self._area = int(rows[0].sum() * columns[0].sum())
        is_small = 255 * self._area <= 2**24
        self._dtype = np.dtype(np.float32 if is_small else np.float64)
        self._rows, self._columns = rows.astype(self._dtype), columns.astype(self._dtype)

    def __call__(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "h w C"]:
        height, width, channels = image.shape
        lines = self._rows @ image.reshape(height, -1).astype(self._dtype)
        sums = self._columns @ lines.reshape(-1, width, channels)
        return np.rint(sums / self._area).astype(np.uint8)


def _overlaps(num_in: int, num_out: int) -> np.ndarray:
    """(num_out, num_in), how much of each input pixel lies in each output pixel, in units
    that make them whole numbers."""
    unit = math.gcd(num_in, num_out)
    edges_in = np.arange(num_in + 1) * (num_out // unit)
    edges_out = np.arange(num_out + 1) * (num_in // unit)
    begin = np.maximum(edges_out[:-1, None], edges_in[:-1])
    end = np.minimum(edges_out[1:, None], edges_in[1:])
    return np.maximum(end - begin, 0)


def area_resized(
    image: UInt8[np.ndarray, "H W C"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:
    """A picture scaled to (height, width) by area."""
    return _area_resize(image.shape[:2], size)(image)


def square(
    image: UInt8[np.ndarray, "H W 3"], size: int, *, pixel_aspect: float = 1.0
) -> UInt8[np.ndarray, "size size 3"]:
    """The middle of a picture, its shorter side scaled to `size` (VideoGPT Sec. 4.5).

    Shrunk by area; enlarged by bicubic curves.

    Args:
        pixel_aspect: how much wider than high the picture's pixels are shown.
    """
    height, width, _ = image.shape
    shorter = min(height, width * pixel_aspect)  # in units of a pixel's height
    # Cut first: the same as scaling first, but for no side that had to be rounded.
    rows, columns = max(1, round(shorter)), max(1, round(shorter / pixel_aspect))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    middle = area_resized(middle, (min(rows, size), min(columns, size)))
    if min(rows, columns) >= size:
        return middle
    enlarged = Image.fromarray(middle).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(enlarged)


@lru_cache(maxsize=64)
def _area_resize(size_in: tuple[int, int], size_out: tuple[int, int]) -> AreaResize:
    return AreaResize(size_in, size_out)
