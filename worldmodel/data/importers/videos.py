"""Videos in folders: python -m worldmodel.data videos SRC --out DIR

With a log of what was pressed beside each video: python -m worldmodel.data videos SRC --actions
--out DIR; see `worldmodel.data.importers.action_log`.

UCF-101 for example: python -m worldmodel.data videos UCF-101 --size 128 --out data/ucf101-128
--train-list ucfTrainTestlist/trainlist01.txt --test-list ucfTrainTestlist/testlist01.txt
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import av
import numpy as np
import tyro

from worldmodel.command import check_numbers, say
from worldmodel.data.episodes import CLASS_VARIABLE, POLICY_NAME_BYTES, DatasetInfo
from worldmodel.data.importers.action_log import (
    REWARD,
    TERMINATED,
    ActionLogs,
    Log,
    Roles,
    log_beside,
    read_log,
)
from worldmodel.data.importers.action_log import SUFFIXES as LOG_SUFFIXES
from worldmodel.data.importers.official_lists import official_splits
from worldmodel.data.importers.pipeline import (
    AFTER_END,
    LARGEST_SIDE,
    Found,
    Lack,
    OfficialSplit,
    PoseOptions,
    Recording,
    Source,
    found_files,
    import_found,
)
from worldmodel.data.importers.video_file import Film, VideoReader, duration_s, frame_rate
from worldmodel.data.left_out import LeftOut
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION

SKIP_HINT = ". --skip-damaged leaves such videos out"
KINDS = (
    "3g2 3gp asf avi divx f4v flv gif m2ts m4v mkv mov mp4 mpe mpeg mpg mts ogm ogv qt ts vob webm "
    "wmv"
)
SUFFIXES = frozenset(f".{kind}" for kind in KINDS.split())
SAME_RATE = 1e-3  # rates so near are called the same, as 30 and 29.97
# Reasons to leave something out.
NO_VIDEO = "no video by the ending of its name"
UNLISTED = "in neither list"
MISSING = "listed, but not there"
DAMAGED = "damaged"
SHORT_REST = "the end of a video, too short for an episode"
LONGEST_S = 24 * 3600  # of a video
FORGIVEN_S = 0.5  # between the lengths of a video and its log


@dataclass(frozen=True)
class ImportVideos(PoseOptions):
    """Read a folder of videos, SRC/VIDEO or SRC/CLASS/VIDEO, as episodes: the shorter side scaled,
    then cut to the square in the middle. Nobody steers them, unless logs of actions lie beside
    them."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Folder of videos (mp4, mov, avi, mkv, webm, gif, mpg, wmv and others), or of one folder of
    them a class."""
    out: Path
    """Folder of the data set."""
    size: int = 64
    """Side of a frame, in pixels."""
    fps: float | None = None
    """Frames a second, counted before --every; by default those of the first video. Videos of
    other rates are resampled: frames are repeated or left out."""
    train_list: tuple[Path, ...] = ()
    """Official list of the videos for training (UCF-101's trainlist01.txt, TGIF's train.txt):
    one file name, path or URL a line. Videos in neither list are left out."""
    test_list: tuple[Path, ...] = ()
    """The same for the test split. Without lists the splits are 8:1:1."""
    actions: bool = False
    """Beside each video lies what was pressed meanwhile: the same name with .csv (a line of names,
    then a row for each frame or, with a column time, at any second), .jsonl (an object a row; a
    list of names is of keys that are down) or .npy (a row for each frame). Columns reward and
    terminated are what they say; the others are the action."""
    action_columns: tuple[str, ...] = ()
    """With --actions: the action's columns; the others are left out."""
    sum: tuple[str, ...] = ()
    """With --actions: columns to add up over a step, such as a mouse's motion. Of the others, keys
    (0 and 1) count when they were down at any time of the step; numbers and names as they were at
    its beginning."""
    variables: tuple[str, ...] = ()
    """With --actions: columns that a dream should predict, such as health."""
    every: int = 1
    """Keep one frame in so many."""
    min_frames: int = 16
    """Leave out videos with fewer frames, counted after --every."""
    max_frames: int = 500
    """Divide longer videos into episodes of at most so many frames. Each begins with the last frame
    of the one before."""
    skip_damaged: bool = False
    """Leave damaged videos out instead of stopping at the first."""

    def run(self) -> None:
        """Raises UserError where an option, a list or a video is not usable."""
        check_numbers(
            self, above_zero=("fps",), size=1, every=1, min_frames=2, max_frames=self.min_frames
        )
        if self.size > LARGEST_SIDE:
            raise UserError(f"--size must be at most {LARGEST_SIDE}, not {self.size}")
        if not self.actions:
            for option in ("action_columns", "sum", "variables", "pose", "heading"):
                if getattr(self, option):
                    raise UserError(f"--{option.replace('_', '-')} needs --actions")
        left_out = LeftOut()
        class_of = find_videos(self.source, left_out, with_logs=self.actions)
        splits = self._splits(list(class_of), left_out)
        classes = sorted({name for name in class_of.values() if name is not None})
        fps = self._first_rate(splits) if self.fps is None else self.fps
        logs = self._logs(splits, fps) if self.actions else None
        reading = _Reading(fps, logs)
        num_pieces = {name: self._num_pieces(name, fps) for name in splits}
        columns = {
            name: value
            for name in ("action_columns", "sum")
            if (value := list(getattr(self, name)))
        }
        info = DatasetInfo(
            env_id=self.source.resolve().name,
            env_kwargs={
                "size": self.size,
                "every": self.every,
                "min_frames": self.min_frames,
                "max_frames": self.max_frames,
                "num_videos": len(splits),
                # Ids count the episodes: with other ones in between they'd mean something else.
                "listing": _digest(splits, num_pieces),
                **columns,
            },
            frame_shape=(self.size, self.size, 3),
            actions=NO_ACTION if logs is None else logs.spec,
            variable_names=((CLASS_VARIABLE,) if classes else ()) + self.variables,
            pose=self.pose_spec,
            controls={} if logs is None else logs.controls,
            fps=fps / self.every,
            frame_skip=1,
            class_names=tuple(classes),
            versions={"av": av.__version__, "ffmpeg": av.ffmpeg_version_info},
        )

        def sources() -> Iterator[Source]:
            for name, split in splits.items():
                own_class = class_of[name]
                number = None if own_class is None else classes.index(own_class)
                for piece in range(num_pieces[name]):
                    read = partial(self._read, name, piece, num_pieces[name], number, reading)
                    yield Source(read, _origin(name), split)

        total = sum(num_pieces.values())
        found = Found(info, sources(), total, left_out, partial=(SHORT_REST, AFTER_END))
        import_found(self.out, found)
        if reading.resampled:
            name, rate = next(iter(reading.resampled.items()))
            say(
                f"note: {len(reading.resampled)} of the videos read now have other rates than "
                f"{fps:g} frames a second and were resampled (the first: {name}, {rate:g}); --fps "
                "chooses another rate"
            )

    def _splits(self, names: list[str], left_out: LeftOut) -> dict[str, OfficialSplit | None]:
        """The videos to import, in order, with their splits. Adds the others to `left_out`."""
        if not self.train_list and not self.test_list:
            return dict.fromkeys(names)
        lists: dict[OfficialSplit, Sequence[Path]] = {
            "train": self.train_list,
            "test": self.test_list,
        }
        listed, missing = official_splits(names, lists)
        if not listed:
            raise UserError(f"no video in {self.source} is in the lists")
        for name in names:
            if name not in listed:
                left_out.add(UNLISTED, name)
        for name in missing:
            left_out.add(MISSING, name)
        return {name: listed[name] for name in names if name in listed}

    def _logs(self, names: Iterable[str], fps: float) -> ActionLogs:
        """What the logs of all videos have in common."""

        def each() -> Iterator[tuple[Log, float]]:
            for name in names:
                try:
                    yield self._log_of(name), frame_rate(self.source / name)
                except UserError as error:
                    if not self.skip_damaged:
                        raise UserError(f"{error}{SKIP_HINT}") from None

        roles = Roles(self.action_columns, self.sum, self.variables, self.pose_names)
        return ActionLogs(each(), roles, rate=fps / self.every)

    def _log_of(self, name: str) -> Log:
        path = log_beside(self.source / name)
        if path is None:
            raise UserError(f"{self.source / name} has no log of actions beside it")
        return read_log(path)

    def _first_rate(self, names: Mapping[str, object]) -> float:
        """Frames a second of the first video that can be read."""
        for name in names:
            try:
                return frame_rate(self.source / name)
            except UserError as error:
                if not self.skip_damaged:
                    raise UserError(f"{error}{SKIP_HINT}") from None
        raise UserError(f"no video in {self.source} can be read")

    def _num_pieces(self, name: str, fps: float) -> int:
        """How many episodes a video makes, by how long it says it is."""
        try:
            seconds = duration_s(self.source / name)
        except UserError:
            return 1  # `_read` reports it
        if seconds > LONGEST_S:
            raise UserError(
                f"{self.source / name} says that it lasts {seconds / 3600:,.0f} hours: divide it "
                f"into videos of at most {LONGEST_S // 3600}"
            )
        num_steps = round(seconds * fps / self.every) - 1
        whole, rest = divmod(num_steps, self.max_frames - 1)
        return max(1, whole + (rest >= self.min_frames - 1))

    def _read(
        self,
        name: str,
        piece: int,
        num_pieces: int,
        class_number: int | None,
        reading: "_Reading",
    ) -> Recording | Lack:
        """A piece of a video as an episode, or why it is left out."""
        start = piece * (self.max_frames - 1)
        part = name if num_pieces == 1 else f"{name} from frame {start}"
        try:
            if reading.name != name:
                reading.name, reading.video = name, None
                reading.log = None if reading.logs is None else self._log_of(name)
                rate = reading.fps / self.every
                reading.video = VideoReader(self.source / name, size=self.size, rate=rate)
                if reading.log is not None:
                    _check_duration(reading.log, reading.video)
            if reading.video is None:  # it was damaged in an earlier piece
                return Lack(DAMAGED, part)
            film = reading.video.piece(start, self.max_frames)
        except UserError as error:
            reading.video = None
            if not self.skip_damaged:
                raise UserError(f"{error}{SKIP_HINT}") from None
            return Lack(DAMAGED, part)
        if len(film.frames) < self.min_frames:
            return Lack(SHORT_REST if piece else f"fewer than {self.min_frames} frames", part)
        if not math.isclose(film.rate, reading.fps, rel_tol=SAME_RATE):
            reading.resampled[name] = film.rate
        variables = None
        if class_number is not None:
            variables = np.full((len(film.frames), 1), class_number, np.float32)
        is_cut = film.is_cut and piece == num_pieces - 1
        rest = f"{name} from frame {start + len(film.frames) - 1}"
        lacks = (Lack(SHORT_REST, rest),) if is_cut else ()
        plain = Recording(film.frames, variables=variables, lacks=lacks)
        if reading.logs is None or reading.log is None:
            return plain
        return self._with_actions(plain, part, start, reading.logs, reading.log, film)

    def _with_actions(
        self, plain: Recording, name: str, start: int, logs: ActionLogs, log: Log, film: Film
    ) -> Recording | Lack:
        """An episode with the actions of its log, up to the end that this tells."""
        rows = log.rows(start + len(film.frames), rate=logs.rate, own_rate=film.rate).after(start)
        zero = np.zeros(log.num_rows)
        ends = np.flatnonzero(rows.sums(log.columns.get(TERMINATED, zero)) > 0)
        length = len(film.frames) - 1 if not len(ends) else int(ends[0]) + 1
        if length + 1 < self.min_frames:
            return Lack(f"fewer than {self.min_frames} frames", name)
        numbers = np.stack([log.columns[n] for n in (*self.variables, *self.pose_names)] or [zero])
        at = numbers[:, rows.at[: length + 1]].T.astype(np.float32)
        variables, pose = at[:, : len(self.variables)], at[:, len(self.variables) :]
        if plain.variables is not None:
            variables = np.concatenate([plain.variables[: length + 1], variables], 1)
        is_cut = length + 1 < len(film.frames)
        return Recording(
            film.frames[: length + 1],
            actions=logs.actions(log, rows)[:length],
            variables=variables,
            pose=pose if self.pose else None,
            rewards=rows.sums(log.columns.get(REWARD, zero))[:length].astype(np.float32),
            terminated=np.arange(length) == (length - 1 if len(ends) else length),
            lacks=(*plain.lacks, Lack(AFTER_END, name)) if is_cut else plain.lacks,
        )


@dataclass
class _Reading:
    """What reading pieces of videos has in common.

    Attributes:
        fps: frames a second, before --every.
        logs: of all videos; None: nobody steered.
        name, video, log: what was read last; no video: it is damaged.
        resampled: rates of the videos that have others.
    """

    fps: float
    logs: ActionLogs | None
    name: str = ""
    video: VideoReader | None = None
    log: Log | None = None
    resampled: dict[str, float] = field(default_factory=dict)


def _check_duration(log: Log, video: VideoReader) -> None:
    """Raises UserError unless a log without times has a row for each frame, or each but the last;
    half a second more or less is forgiven."""
    log_s, film_s = log.num_rows / video.own_rate, duration_s(video.path)
    log.check_times(film_s)
    if log.times is None and abs(log_s - film_s) > FORGIVEN_S:
        raise UserError(
            f"{log.path} has {log.num_rows} rows, {log_s:.1f} seconds of the video's "
            f"{video.own_rate:g} "
            f"frames a second, but the video lasts {film_s:.1f}: it needs a row for each frame, or "
            "a column time"
        )


def find_videos(
    source: Path, left_out: LeftOut, *, with_logs: bool = False
) -> dict[str, str | None]:
    """Path below `source` and class of each video, in the order of the paths.

    Args:
        left_out: gets what else lies there.
        with_logs: whether logs of actions belong there too.

    Raises:
        UserError: there is no video, or some lie in class folders and others don't.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: give the folder that holds the videos")
    names: list[str] = []
    for name in found_files(source, left_out):
        if PurePosixPath(name).suffix.lower() in SUFFIXES:
            names.append(name)
        elif not with_logs or PurePosixPath(name).suffix not in LOG_SUFFIXES:
            left_out.add(NO_VIDEO, name)
    if not names:
        raise UserError(f"{source} holds no video: none of {KINDS}")
    example_of = {name.count("/"): name for name in reversed(names)}
    if len(example_of) > 1 or max(example_of) > 1:
        examples = " and ".join(example_of[depth] for depth in sorted(example_of))
        raise UserError(
            f"{source} holds {examples}: all videos must lie right in it, or all in one folder "
            "a class"
        )
    has_classes = 1 in example_of
    return {name: name.split("/")[0] if has_classes else None for name in names}


def _origin(name: str) -> str:
    """The end of a path, in as many bytes as may be stored."""
    readable = os.fsencode(name).decode(errors="replace")
    return readable.encode()[-POLICY_NAME_BYTES:].decode(errors="ignore")


def _digest(splits: Mapping[str, OfficialSplit | None], num_pieces: Mapping[str, int]) -> str:
    lines = "".join(
        f"{name}\t{split}" + (f"\t{num_pieces[name]}" if num_pieces[name] > 1 else "") + "\n"
        for name, split in splits.items()
    )
    return hashlib.blake2b(os.fsencode(lines), digest_size=8).hexdigest()
