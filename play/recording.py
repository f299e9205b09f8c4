"""An mp4 of what was seen, and beside it the session that plays it again."""

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from PIL import Image

from play.replay import Session, write_session
from worldmodel.errors import UserError


class Recording:
    """Frames into `path` (H.264, yuv420p), the session into the same name with .json.

    Both appear whole at `finish`, or not at all.

    Args:
        path: ends in .mp4; its folder is made.
        size: height of the film in pixels, rounded down to an even number.
        fps: frames a second of the film; None may be replaced until the first frame comes.

    Raises:
        UserError: the path can't be written.
    """

    def __init__(self, path: Path, *, size: int, fps: float | None) -> None:
        if path.suffix != ".mp4":
            raise UserError(f"--record {path}: the name must end in .mp4")
        self.path = path
        self.session_path = path.with_suffix(".json")
        self.fps = fps
        self.num_frames = 0
        self._size = size
        self._unfinished = path.with_name(path.name + ".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._unfinished), "w", format="mp4")
        except OSError as error:
            raise UserError(f"can't write {path}: {error.strerror}") from error
        self._stream = None

    def add(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 (H, W, 3), scaled up by repeating its pixels.

        Raises:
            UserError: the disk is full, or gone.
        """
        height, width = frame.shape[:2]
        film_height = self._size // 2 * 2  # yuv420p needs even sides
        film_width = round(film_height * width / height / 2) * 2
        if self._stream is None:
            assert self.fps is not None
            rate = Fraction(self.fps).limit_denominator(1000)
            self._stream = self._container.add_stream("libx264", rate=rate)
            self._stream.width, self._stream.height = film_width, film_height
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.thread_count = 1  # the other cores are for the model
            self._stream.options = {"preset": "veryfast", "crf": "16"}
        picture = Image.fromarray(frame).resize((film_width, film_height), Image.Resampling.NEAREST)
        self._encode(av.VideoFrame.from_image(picture))
        self.num_frames += 1

    def finish(self, session: Session) -> None:
        """Complete the film and write the session.

        Raises:
            UserError: they can't be written.
        """
        try:
            self._encode(None)
            self._container.close()
            self._unfinished.replace(self.path)
        except UserError:
            self.discard()
            raise
        except OSError as error:
            self.discard()
            raise UserError(f"can't write {self.path}: {error.strerror}") from error
        write_session(self.session_path, session)

    def discard(self) -> None:
        """Leave nothing behind: for a session without a frame, or a full disk."""
        with contextlib.suppress(OSError):
            self._container.close()
        self._unfinished.unlink(missing_ok=True)

    def _encode(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame, or with None what the encoder still holds."""
        assert self._stream is not None
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except OSError as error:
            raise UserError(f"can't write {self.path}: {error.strerror}") from error
