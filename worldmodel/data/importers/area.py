"""Pictures made smaller, or larger, by exact area."""

import numpy as np
from jaxtyping import Int64, UInt8


def area_mean(
    image: UInt8[np.ndarray, "H W C"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:
    """Each pixel becomes the mean of the area that it covers, cut pixels in proportion.

    As OpenCV's INTER_AREA; neither Pillow's BOX nor torch's "area" cuts pixels. In whole
    numbers, so it is the same on every machine.

    Args:
        size: (height, width) of what is wanted.
    """
    area = image.shape[0] * image.shape[1]
    rows = _strips(image.astype(np.int64), size[0])
    sums = _strips(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1)
    return ((2 * sums + area) // (2 * area)).astype(np.uint8)


def _strips(lines: Int64[np.ndarray, "n m C"], count: int) -> Int64[np.ndarray, "count m C"]:
    """`count` times the sums over as many strips of lines, all equally wide."""
    num_lines = len(lines)
    whole, cut = np.divmod(np.arange(count + 1) * num_lines, count)
    before = np.zeros((num_lines + 1, *lines.shape[1:]), np.int64)
    lines.cumsum(0, out=before[1:])
    behind_edge = lines[np.minimum(whole, num_lines - 1)]  # the last edge cuts nothing
    return np.diff(count * before[whole] + cut[:, None, None] * behind_edge, axis=0)
