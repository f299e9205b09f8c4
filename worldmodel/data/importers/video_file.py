"""Read untrusted videos and pictures; sizes are checked first.

Videos are read frame after frame: seeking gives wrong frames in an AVI with B-frames.
"""

import io
import itertools
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.sidedata.sidedata import Type
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from worldmodel.data.importers.film_ends import is_cut_off
from worldmodel.errors import UserError, os_error
from worldmodel.media.resize import square

MAX_PIXELS = 8192 * 4320  # of a frame of a video: 8K
MAX_SMALL_PIXELS = 2**22  # of what is packed in another file; a hundred bytes can claim any size
# FFmpeg itself refuses larger frames before it takes memory for them.
CODEC_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
# And no play lists: those would have it open other files, or the network.
CONTAINER_OPTIONS = {
    "format_whitelist": "avi,gif,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,asf,flv,ogg,mpeg,mpegts,"
    "mpegvideo"
}
# Streams: recordings of them begin anywhere, and their clock may restart.
STREAMS = ("mpeg", "mpegts")
LONGEST_GAP_S = 10.0  # between two frames of a stream
# A higher one is often but the unit of the file's times: browsers write films of 1000 a second.
BELIEVED_RATE = 240.0
MEASURED_FRAMES = 32
MAX_ASPECT = 16.0  # of a pixel; a file that notes more is wrong
ROUNDING_S = 1e-6  # of times, which files note in ticks


@dataclass(frozen=True)
class Film:
    """What was read of a video.

    Attributes:
        frames: uint8 (T, size, size, 3), RGB.
        is_cut: whether there was more.
        rate: frames a second of the video itself.
    """

    frames: UInt8[np.ndarray, "T size size 3"]
    is_cut: bool
    rate: float


class VideoReader:
    """Reads a video in pieces. Pieces in order, each from the last frame of the one before, decode
    it only once.

    Frames are those shown at the times 0, 1/rate, 2/rate, ..., as players show them: turned as the
    file notes, pixels of any shape, each frame as long as its times say. Then cut to the square in
    the middle and scaled.

    Args:
        size: side of a frame, in pixels.
        rate: frames a second.

    Raises:
        UserError: the video can't be read, or doesn't say how many frames a second it has.
    """

    def __init__(self, path: Path, *, size: int, rate: float) -> None:
        self.path, self.size, self.rate = path, size, rate
        self.own_rate = frame_rate(path)
        self._begin()

    def _begin(self) -> None:
        self._frames = enumerate(_shown_pictures(self.path, self.size, self.rate))
        # The last frame of a piece, and the one behind it, which says whether there is more.
        self._kept: deque[tuple[int, np.ndarray]] = deque(maxlen=2)

    def piece(self, start: int, length: int) -> Film:
        """At most `length` frames from number `start` on.

        Raises:
            UserError: the video is damaged or cut off, has no frame, too large ones or ones that
                change size.
        """
        if self._kept and start < self._kept[0][0]:
            self._begin()
        frames = [frame for number, frame in self._kept if number >= start]
        for number, frame in self._frames:
            self._kept.append((number, frame))
            if number >= start:
                frames.append(frame)
            if len(frames) > length:
                return Film(np.stack(frames[:length]), True, self.own_rate)
        if not frames and start == 0:
            raise UserError(f"{self.path} is damaged: it has no frame")
        shape = (len(frames), self.size, self.size, 3)
        return Film(np.array(frames, np.uint8).reshape(shape), False, self.own_rate)


def read_video(path: Path, *, size: int, rate: float, max_frames: int) -> Film:
    """The first `max_frames` frames of a video, see `VideoReader`."""
    return VideoReader(path, size=size, rate=rate).piece(0, max_frames)


def frame_rate(path: Path) -> float:
    """Frames a second of a video. Raises UserError when it can't be read or doesn't say."""
    with _opened(path) as (_, stream):
        return _rate(path, stream)


def duration_s(path: Path) -> float:
    """How long a video lasts, by what it says of itself, or else by the times of its frames.

    Raises:
        UserError: it can't be read.
    """
    with _opened(path) as (container, stream):
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / av.time_base
        times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        return float((max(times) - min(times)) * (stream.time_base or 0)) if times else 0.0


def _shown_pictures(path: Path, size: int, rate: float) -> Iterator[np.ndarray]:
    """The frames of a `VideoReader`. Raises UserError where they end too early."""
    with _opened(path) as (container, stream):
        aspect = _pixel_aspect(stream)
        timed = _timed(_decoded(path, container, stream), container, _rate(path, stream))
        last, picture = None, np.zeros(0)
        for frame in _shown(timed, rate):
            if frame is not last:
                pixels = frame.to_ndarray(format="rgb24")
                picture = turned(square(pixels, size, pixel_aspect=aspect), frame)
            yield picture
            last = frame
    try:
        if is_cut_off(path):
            raise UserError(f"{path} is damaged: the file ends before the film does")
    except OSError as error:
        raise UserError(f"{path} can't be read: {os_error(error)}") from None


def timed_pictures(path: Path) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], float]]:
    """Each frame of a video as RGB, and when it is shown, in seconds from the first.

    Raises:
        UserError: as `VideoReader.piece`.
    """
    with _opened(path) as (container, stream):
        frames = _decoded(path, container, stream)
        for frame, time_s, _ in _timed(frames, container, _rate(path, stream)):
            yield frame.to_ndarray(format="rgb24"), time_s


def _rate(path: Path, stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate < 0:
        raise UserError(f"{path} does not say how many frames a second it has")
    return float(rate) if rate <= BELIEVED_RATE else _measured_rate(path)


def _measured_rate(path: Path) -> float:
    """Frames a second by the times of the first frames."""
    with _opened(path) as (container, stream):
        first = itertools.islice(_decoded(path, container, stream), MEASURED_FRAMES)
        times = np.array([frame.time for frame in first if frame.time is not None])
    gaps = np.diff(times)
    if not (gaps > 0).any():
        raise UserError(f"{path} does not say how many frames a second it has")
    return float(1 / np.median(gaps[gaps > 0]))


def _pixel_aspect(stream: VideoStream) -> float:
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else 1.0


def _timed(
    frames: Iterator[av.VideoFrame], container: InputContainer, rate: float
) -> Iterator[tuple[av.VideoFrame, float, float]]:
    """Each frame, when it is shown, and for how long if it is the last: seconds from the first.

    A frame without a time, or with one that goes back, follows at the video's rate.
    """
    is_stream = container.format.name in STREAMS
    first_s, last_s = None, -1 / rate
    for frame in frames:
        next_s = last_s + 1 / rate
        noted_s = frame.time
        first_s = noted_s if first_s is None else first_s
        time_s = next_s if noted_s is None or first_s is None else noted_s - first_s
        if is_stream and noted_s is not None and not 0 < time_s - last_s <= LONGEST_GAP_S:
            first_s, time_s = noted_s - next_s, next_s
        time_s = time_s if time_s > last_s else next_s
        duration_s = float(frame.duration * (frame.time_base or 0))
        yield frame, time_s, duration_s if duration_s > 0 else 1 / rate
        last_s = time_s


def _shown(
    frames: Iterator[tuple[av.VideoFrame, float, float]], rate: float
) -> Iterator[av.VideoFrame]:
    """The frames that are shown at 0, 1/rate, 2/rate, ... seconds.

    Times are rounded: up to half a frame later, of the video or of the result, is the same time.
    So a video of this very rate gives each of its frames once.
    """
    count = 0
    for shown, following in itertools.pairwise(itertools.chain(frames, [None])):
        assert shown is not None
        frame, begin_s, duration_s = shown
        end_s = begin_s + duration_s if following is None else following[1]
        tolerance_s = min(1 / rate, end_s - begin_s) / 2 - ROUNDING_S
        while count / rate + tolerance_s < end_s:
            yield frame
            count += 1


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video, nothing of which is decoded yet."""
    try:
        # As an absolute path, or FFmpeg could take the name for a protocol.
        with av.open(
            str(path.resolve()),
            options=CODEC_OPTIONS,
            container_options=CONTAINER_OPTIONS,
            metadata_errors="ignore",
        ) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise UserError(f"{path} is damaged: it holds no video that can be decoded")
            width, height = stream.codec_context.width, stream.codec_context.height
            if not 0 < width * height <= MAX_PIXELS:
                raise UserError(
                    f"{path} is damaged or too large: its frames are {width} x {height} "
                    f"(0 x 0 where it doesn't say a usable size), the most is {MAX_PIXELS} pixels"
                )
            stream.codec_context.options = CODEC_OPTIONS
            yield container, stream
    except PermissionError:
        raise UserError(f"{path} may not be opened: its permissions forbid it") from None
    except FFmpegError as error:
        raise UserError(f"{path} is damaged or no video: {error.strerror}") from None


def _decoded(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """The frames in order. Raises UserError for a damaged one, or one of another size."""
    begins_anywhere = container.format.name in STREAMS
    first_size, num_decoded = None, 0
    for packet in container.demux(stream):
        # What a recording of a stream begins with may lean on what came before.
        is_passed_over = begins_anywhere and num_decoded == 0
        if packet.is_corrupt and not is_passed_over:
            raise UserError(f"{path} is damaged: it ends in the middle of a frame")
        try:
            frames = packet.decode()
        except InvalidDataError:
            if not is_passed_over:
                raise
            continue
        for frame in frames:
            if not isinstance(frame, av.VideoFrame) or frame.is_corrupt:
                if begins_anywhere and num_decoded == 0:
                    continue
                raise UserError(f"{path} is damaged: a frame cannot be decoded whole")
            size = (frame.width, frame.height)
            first_size = first_size or size
            if size != first_size:
                raise UserError(
                    f"{path} is damaged: its size changes from {first_size} to {size} at frame "
                    f"{num_decoded}"
                )
            num_decoded += 1
            yield frame


def decode_picture(
    data: bytes, name: str, *, formats: tuple[str, ...] = ("JPEG",)
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture as RGB. Raises UserError when it is damaged, another format, or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=formats) as picture:
                if picture.width * picture.height > MAX_SMALL_PIXELS:
                    raise UserError(
                        f"{name}: a picture of {picture.width}x{picture.height} is too large"
                    )
                return np.asarray(picture.convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: a picture is too large: {error}") from None
    except (OSError, SyntaxError) as error:
        raise UserError(f"{name} is no {' or '.join(formats)}, or damaged: {error}") from None


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
            stream.codec_context.options = {"max_pixels": str(MAX_SMALL_PIXELS)}
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
