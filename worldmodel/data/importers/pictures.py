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
            for frame in itertools.islice(container.decode(stream), count):
                yield frame.to_ndarray(format="rgb24")
    except FFmpegError as error:
        raise UserError(f"{name} is no mp4, damaged, or too large: {error}") from None
