"""Shrink a rendered screen to an observation."""

import math

import numpy as np


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
        self._rows, self._columns = (
            _overlaps(n_in, n_out) for n_in, n_out in zip(size_in, size_out, strict=True)
        )
        self._area = float(self._rows[0].sum() * self._columns[0].sum())

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C) -> uint8 (h, w, C)."""
        height, width, channels = image.shape
        lines = self._rows @ image.reshape(height, -1).astype(np.float32)
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
    return np.maximum(end - begin, 0).astype(np.float32)
