"""A film of what was seen, and next to it the session that can be replayed."""

import os
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import OutputContainer
from PIL import Image

from play.map import draw_map
from play.pilot import Moment
from play.session import SessionFile, lock_file
from play.worlds import UnopenedWorld
from worldmodel.errors import UserError, os_error
from worldmodel.storage.files import refuse_existing

# A film can be watched while it is written, and if it is truncated, up to its last second; at the
# end it becomes an ordinary one.
FILM_OPTIONS = {
    "movflags": "+hybrid_fragmented",
    "frag_duration": "1000000",  # microseconds
    "flush_packets": "1",
}


class Recording:
    """Writes frames to `path` (H.264, yuv420p), and the session to the same name with .json.

    Both are written while playing: a crash leaves the session, and the film up to its last seconds.
    Without any moment, neither is created or replaced.

    Args:
        path: ends in .mp4; its folder is created.
        world: what is played.
        size: height of the film in pixels, rounded down to an even number.
        fps: frames per second of the film; None: set it before the first frame.
        with_map: whether to show the map beside each frame.
        overwrite: whether an existing film and session may be replaced.
        replayed: the session that is replayed. If it is the one next to the film, it is not
            written.

    Raises:
        UserError: the film or the session exists, another process is writing it, or it can't be
            written.
    """

    def __init__(
        self,
        path: Path,
        world: UnopenedWorld,
        *,
        size: int,
        fps: float | None,
        with_map: bool = False,
        overwrite: bool = False,
        replayed: Path | None = None,
    ) -> None:
        if path.suffix != ".mp4":
            raise UserError(f"--record {path}: the name must end in .mp4")
        self.path = path
        self.session_path = path.with_suffix(".json")
        self.fps = fps
        self.num_frames = 0
        self._size, self._with_map = size, with_map
        self._container: OutputContainer | None = None
        refuse_existing(path, overwrite=overwrite)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't write {path}: {os_error(error)}") from error
        self._session: SessionFile | None = None
        self._source: BinaryIO | None = None  # the replayed session next to the film, locked
        if replayed is not None and is_same_file(replayed, self.session_path):
            self._source = replayed.open("rb")
            lock_file(self._source, replayed)
        else:
            self._session = SessionFile(self.session_path, world, overwrite=overwrite)

    def add(self, moment: Moment) -> None:
        """Append a moment; its frame, uint8 (H, W, 3), is scaled up by repeating pixels.

        Raises:
            UserError: it can't be written, for example because the disk is full.
        """
        if self._session is not None:
            self._session.add(moment)
        height, width = moment.frame.shape[:2]
        film_height = self._size // 2 * 2  # yuv420p needs even sides
        film_width = round(film_height * width / height / 2) * 2
        map_width = film_height if self._with_map else 0
        try:
            if self._container is None:
                self._begin(film_width + map_width, film_height)
            frame = Image.fromarray(np.ascontiguousarray(moment.frame))
            frame = frame.resize((film_width, film_height), Image.Resampling.NEAREST)
            image = Image.new("RGB", (film_width + map_width, film_height))
            image.paste(frame)
            if self._with_map and moment.map is not None:
                drawn = Image.fromarray(draw_map(moment.map, film_height))
                image.paste(drawn, (film_width, 0))
            self._encode(av.VideoFrame.from_image(image))
        except OSError as error:
            raise UserError(f"can't write {self.path}: {os_error(error)}") from error
        self.num_frames += 1

    def finish(self) -> None:
        """Complete the film and the session.

        Raises:
            UserError: they can't be completed; what was recorded remains.
        """
        try:
            if self._container is not None:
                with self._container:
                    self._encode(None)
        except OSError as error:
            raise UserError(f"can't write {self.path}: {os_error(error)}") from error
        finally:
            if self._session is not None:
                self._session.finish()
            if self._source is not None:
                self._source.close()

    def _begin(self, width: int, height: int) -> None:
        assert self.fps is not None
        film = av.open(str(self.path), "w", format="mp4", options=FILM_OPTIONS)
        self._container = film
        self._stream = film.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1000))
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # the other cores are for the model
        self._stream.options = {"preset": "veryfast", "crf": "16"}

    def _encode(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame, or with None flush the encoder."""
        assert self._container is not None
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths are the same existing file."""
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
