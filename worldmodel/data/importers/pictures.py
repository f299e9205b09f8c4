"""Encoded pictures and films of strangers, decoded with their sizes checked before.

`name` is what an error calls them.
"""

import io
import itertools
import warnings
from collections.abc import Iterator

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from jaxtyping import UInt8
from PIL import Image

from worldmodel.errors import UserError

MAX_PIXELS = 2**22  # of one picture, 2048x2048; a file of a hundred bytes can claim any size


def decode_jpeg(data: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """A JPEG as RGB. Raises UserError when it is damaged, another format, or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise UserError(
                        f"{name}: a picture of {picture.width}x{picture.height} is too large"
                    )
                return np.asarray(picture.convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: a picture is too large: {error}") from None
    except (OSError, SyntaxError) as error:
        raise UserError(f"{name} is no JPEG, or damaged: {error}") from None


def decode_mp4(data: bytes, name: str, count: int) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The first `count` frames of an mp4 film as RGB, or all if it has fewer.

    Raises:
        UserError: it is damaged, another format, holds no film, or its frames are too large.
    """
    try:
        # The format is not guessed: some are lists of other files.
        with av.open(io.BytesIO(data), "r", format="mp4", metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                raise UserError(f"{name} holds no film, or one of an unknown kind")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.codec_context.thread_count = 1  # each would take memory, for a tiny film
            for frame in itertools.islice(container.decode(stream), count):
                yield turned(frame.to_ndarray(format="rgb24"), frame)
    except FFmpegError as error:
        raise UserError(f"{name} is no mp4, damaged, or too large: {error}") from None


def turned(picture: UInt8[np.ndarray, "H W 3"], frame: av.VideoFrame) -> np.ndarray:
    """A picture made of a frame, turned and mirrored as players do.

    A telephone writes films as its sensor lies, and notes how it was held.
    """
    if Type.DISPLAYMATRIX not in frame.side_data:
        return picture
    note = frame.side_data[Type.DISPLAYMATRIX]  # pyright: ignore[reportGeneralTypeIssues]
    # The pixel in column x and row y is shown in column ax + cy and row bx + dy.
    a, b, _, c, d = np.frombuffer(bytes(note), np.int32)[:5].tolist()
    column_sign, row_sign = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture = picture.transpose(1, 0, 2)
        column_sign, row_sign = c, b
    picture = picture[:: -1 if row_sign < 0 else 1, :: -1 if column_sign < 0 else 1]
    return np.ascontiguousarray(picture)
