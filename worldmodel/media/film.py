"""Pictures and films of clips, for people: sheets, titles, png, gif and mp4.

A film is uint8 (T, height, width, 3), like a clip, only larger.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.storage.files import written_whole

GAP = 2  # pixels between frames
RED = (230, 30, 30)  # of given frames, as in the paper's figures
TITLE_HEIGHT = 20  # pixels
PALETTE_FRAMES = 32  # of a film, spread evenly, from which the colours of a gif are chosen
SAVERS = (".png", ".gif", ".mp4")


def sheet(rows: Sequence[np.ndarray], *, scale: int = 1) -> np.ndarray:
    """Lay clips out under each other, time from left to right.

    Args:
        rows: one clip a row, uint8 (T, H, W, 3), all of the same size.
        scale: pixels of the sheet for a pixel of a frame.

    Returns:
        uint8 (height, width, 3), white lines between the frames.
    """
    picture = _joined([_joined(list(clip), 1, gap=GAP) for clip in rows], 0, gap=GAP)
    return enlarged(picture, scale)


def _joined(parts: Sequence[np.ndarray], axis: int, *, gap: int = 2 * GAP) -> np.ndarray:
    """Pictures or films one after another along an axis, white between them."""
    shape = [gap if i == axis else size for i, size in enumerate(parts[0].shape)]
    white = np.full(shape, 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (white, part)][1:], axis)


def enlarged(pictures: np.ndarray, scale: int) -> np.ndarray:
    """Pictures (..., H, W, 3), each pixel repeated `scale` times along both sides."""
    return pictures.repeat(scale, -3).repeat(scale, -2)


def coloured(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., H, W, 1 or 3) in three colours; grey ones stay grey."""
    return np.repeat(pictures, 3, -1) if pictures.shape[-1] == 1 else pictures


def framed(pictures: np.ndarray, *, thickness: int = 2) -> np.ndarray:
    """A copy of pictures (..., H, W, 3) with a red border drawn over their edges."""
    marked = pictures.copy()
    for edge in (slice(None, thickness), slice(-thickness, None)):
        marked[..., edge, :, :] = RED
        marked[..., edge, :] = RED
    return marked


def with_given(sampled: np.ndarray, real: np.ndarray, num_given: int) -> np.ndarray:
    """Samples as the paper's figures show them: the frames that they were given stand in place
    of what was drawn for them, with a red border.

    Args:
        sampled: uint8 (..., T, H, W, 1 or 3).
        real: the clips that samples were given the first frames of, of the same shape.

    Returns:
        uint8 (..., T, H, W, 3).
    """
    given = framed(coloured(real[..., :num_given, :, :, :]))
    drawn = coloured(sampled[..., num_given:, :, :, :])
    return np.concatenate([given, drawn], -4)


def titled(film: np.ndarray, title: str) -> np.ndarray:
    """The film with a line of text above it, black on white, cut off where it is too long."""
    bar = Image.new("RGB", (film.shape[2], TITLE_HEIGHT), "white")
    font = ImageFont.load_default(14)
    ImageDraw.Draw(bar).text((4, 1), title, fill="black", font=font)
    pixels = np.asarray(bar)
    return np.concatenate([np.broadcast_to(pixels, (len(film), *pixels.shape)), film], 1)


def side_by_side(clips: Mapping[str, np.ndarray], *, scale: int = 4) -> np.ndarray:
    """A film of several clips at once, each under its name.

    Args:
        clips: uint8 (T, H, W, 3) each, all of the same size; the titles are their keys.
        scale: pixels of the film for a pixel of a clip.
    """
    parts = [titled(enlarged(clip, scale), title) for title, clip in clips.items()]
    return _joined(parts, 2)


def stacked(films: Sequence[np.ndarray]) -> np.ndarray:
    """Films of the same size and length under each other."""
    return _joined(films, 1)


def grid(films: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Films of the same size and length in rows of `columns`; the last row is filled up white."""
    num_rows = math.ceil(len(films) / columns)
    blank = np.full_like(films[0], 255)
    cells = [*films, *[blank] * (num_rows * columns - len(films))]
    rows = [_joined(cells[i * columns : (i + 1) * columns], 2) for i in range(num_rows)]
    return stacked(rows)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 (height, width, 3 or 1), whole or not at all; folders are made."""
    image = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
    with written_whole(path) as unfinished:
        image.save(unfinished, format="png")


def save_gif(path: Path, film: np.ndarray, *, fps: float) -> None:
    """Write a film that loops; folders are made.

    Colours come from one palette of 256 for the whole film, so still parts don't flicker. A
    frame that equals the one before it is stored as a longer wait, and waits are rounded to
    hundredths of a second, as the format has them.
    """
    chosen = film[np.linspace(0, len(film) - 1, min(len(film), PALETTE_FRAMES)).astype(int)]
    palette = Image.fromarray(chosen.reshape(-1, *film.shape[2:])).quantize(256)
    frames = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in film
    ]
    # Rounded as a sum, so a long film keeps its length.
    ends_ms = 10 * np.round(np.arange(1, len(film) + 1) * 100 / fps).astype(int)
    waits_ms = np.diff(ends_ms, prepend=0).clip(10).tolist()
    with written_whole(path) as unfinished:
        frames[0].save(
            unfinished,
            format="gif",
            save_all=True,
            append_images=frames[1:],
            duration=waits_ms,
            loop=0,
        )


def save_mp4(path: Path, film: np.ndarray, *, fps: float) -> None:
    """Write a film as H.264; folders are made.

    Where a side is odd, its last line of pixels is repeated: the format wants even sides.
    """
    odd = [(0, 0), (0, film.shape[1] % 2), (0, film.shape[2] % 2), (0, 0)]
    padded = np.pad(film, odd, mode="edge")
    with (
        written_whole(path) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = padded.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "16"}
        for frame in padded:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
