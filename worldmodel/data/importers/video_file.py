"""Read a video that may come from anyone, frame after frame: never by seeking, which in an AVI
with B-frames gives wrong frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import UInt8

from worldmodel.errors import UserError
from worldmodel.resize import square

MAX_PIXELS = 8192 * 4320  # of a frame: 8K
# Of the frames or the time that a file declares: decoders rightly give a few frames less.
LEAST_SHARE = 0.9
# FFmpeg itself refuses larger frames before it takes memory for them.
CODEC_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
# And no play lists: those would have it open other files, or the network.
CONTAINER_OPTIONS = {"format_whitelist": "avi,gif,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2"}


def frame_rate(path: Path) -> float:
    """Frames a second of a video. Raises UserError when it can't be read or doesn't say."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
        if not rate or rate < 0:
            raise UserError(f"{path} does not say how many frames a second it has")
        return float(rate)


def read_video(
    path: Path, *, size: int, every: int, max_frames: int
) -> tuple[UInt8[np.ndarray, "T size size 3"], bool]:
    """The first `max_frames` of every `every`-th frame, in RGB, cut to a square and scaled.

    Returns:
        The frames, and whether there were more.

    Raises:
        UserError: the video is damaged, has no frame, too large ones or ones that change size.
    """
    frames = []
    num_decoded = 0
    with _opened(path) as (container, stream):
        first_size, last_s = None, None
        for frame in _decoded(path, container, stream):
            frame_size = (frame.width, frame.height)
            first_size = first_size or frame_size
            if frame_size != first_size:
                raise UserError(
                    f"{path} is damaged: its size changes from {first_size} to {frame_size} at "
                    f"frame {num_decoded}"
                )
            if num_decoded % every == 0:
                if len(frames) == max_frames:
                    return np.stack(frames), True
                frames.append(square(frame.to_ndarray(format="rgb24"), size))
            num_decoded += 1
            last_s = frame.time
        if num_decoded == 0:
            raise UserError(f"{path} is damaged: it has no frame")
        share = _share_read(container, stream, num_decoded, last_s)
    if share < LEAST_SHARE:
        raise UserError(f"{path} is damaged: it ends after {share:.0%} of what it declares")
    return np.stack(frames), False


def _share_read(
    container: InputContainer, stream: VideoStream, num_decoded: int, last_s: float | None
) -> float:
    """How much was read of what the file says to hold; 1 where it doesn't say."""
    if stream.frames:
        return num_decoded / stream.frames
    # mkv and webm have a length only, that of the longest stream.
    rate = stream.average_rate
    if not container.duration or not rate or last_s is None or len(container.streams) > 1:
        return 1.0
    return (last_s + 1 / float(rate)) / (container.duration / av.time_base)


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
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise UserError(f"{path} is damaged: it ends in the middle of a frame")
        for frame in packet.decode():
            if not isinstance(frame, av.VideoFrame) or frame.is_corrupt:
                raise UserError(f"{path} is damaged: a frame cannot be decoded whole")
            yield frame
