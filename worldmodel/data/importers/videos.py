"""Videos in folders: python -m worldmodel.data videos SRC --out DIR

UCF-101 for example: python -m worldmodel.data videos UCF-101 --size 128 --out data/ucf101-128
--train-list ucfTrainTestlist/trainlist01.txt --test-list ucfTrainTestlist/testlist01.txt
"""

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import av
import numpy as np
import tyro

from worldmodel.command import check_numbers, say
from worldmodel.data.episodes import CLASS_VARIABLE, POLICY_NAME_BYTES, DatasetInfo
from worldmodel.data.importers.pipeline import (
    Found,
    Lack,
    OfficialSplit,
    Recording,
    Source,
    found_files,
    import_found,
)
from worldmodel.data.importers.video_file import frame_rate, read_video
from worldmodel.data.left_out import LeftOut
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION
from worldmodel.storage.files import read_bytes

LARGEST_SIDE = 4096  # of a frame, in pixels
SKIP_HINT = ". --skip-damaged leaves such videos out"
KINDS = (
    "3g2 3gp asf avi divx f4v flv gif m2ts m4v mkv mov mp4 mpe mpeg mpg mts ogm ogv qt ts vob webm "
    "wmv"
)
SUFFIXES = frozenset(f".{kind}" for kind in KINDS.split())
MAX_LIST_BYTES = 2**26
SAME_RATE = 1e-3  # rates so near are called the same, as 30 and 29.97
# Reasons to leave something out.
NO_VIDEO = "no video by the ending of its name"
UNLISTED = "in neither list"
MISSING = "listed, but not there"
DAMAGED = "damaged"


@dataclass(frozen=True)
class ImportVideos:
    """Read a folder of videos, SRC/VIDEO or SRC/CLASS/VIDEO, each as one episode that nobody
    steers: its shorter side scaled, then cut to the square in the middle."""

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
    every: int = 1
    """Keep one frame in so many."""
    min_frames: int = 16
    """Leave out videos with fewer frames, counted after --every."""
    max_frames: int = 2000
    """Keep so many frames from the beginning of a video."""
    skip_damaged: bool = False
    """Leave damaged videos out instead of stopping at the first."""

    @property
    def too_long(self) -> str:
        """Why the end of a video is left out."""
        return f"what follows the first {self.max_frames} frames of a video"

    def run(self) -> None:
        """Raises UserError where an option, a list or a video is not usable."""
        check_numbers(self, size=1, every=1, min_frames=2, max_frames=self.min_frames)
        if self.size > LARGEST_SIDE:
            raise UserError(f"--size must be at most {LARGEST_SIDE}, not {self.size}")
        left_out = LeftOut()
        class_of = find_videos(self.source, left_out)
        splits = self._splits(list(class_of), left_out)
        classes = sorted({name for name in class_of.values() if name is not None})
        fps = self._first_rate(splits) if self.fps is None else self.fps
        resampled: dict[str, float] = {}
        info = DatasetInfo(
            env_id=self.source.resolve().name,
            env_kwargs={
                "size": self.size,
                "every": self.every,
                "min_frames": self.min_frames,
                "max_frames": self.max_frames,
                "num_videos": len(splits),
                # Ids count the videos: with other ones in between they'd mean something else.
                "listing": _digest(splits),
            },
            frame_shape=(self.size, self.size, 3),
            actions=NO_ACTION,
            variable_names=(CLASS_VARIABLE,) if classes else (),
            fps=fps / self.every,
            frame_skip=1,
            class_names=tuple(classes),
            versions={"av": av.__version__, "ffmpeg": av.ffmpeg_version_info},
        )

        def sources() -> Iterator[Source]:
            for name, split in splits.items():
                own_class = class_of[name]
                number = None if own_class is None else classes.index(own_class)
                yield Source(
                    partial(self._read, name, number, fps, resampled), _origin(name), split
                )

        found = Found(info, sources(), len(splits), left_out, partial=(self.too_long,))
        import_found(self.out, found)
        if resampled:
            name, rate = next(iter(resampled.items()))
            say(
                f"note: {len(resampled)} of the videos read now have other rates than {fps:g} "
                f"frames a second and were resampled (the first: {name}, {rate:g}); --fps chooses "
                "another rate"
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

    def _first_rate(self, names: Mapping[str, object]) -> float:
        """Frames a second of the first video that can be read."""
        for name in names:
            try:
                return frame_rate(self.source / name)
            except UserError as error:
                if not self.skip_damaged:
                    raise UserError(f"{error}{SKIP_HINT}") from None
        raise UserError(f"no video in {self.source} can be read")

    def _read(
        self, name: str, class_number: int | None, fps: float, resampled: dict[str, float]
    ) -> Recording | Lack:
        """A video as an episode, or why it is left out. Notes it in `resampled` if it was."""
        try:
            film = read_video(
                self.source / name,
                size=self.size,
                rate=fps / self.every,
                max_frames=self.max_frames,
            )
        except UserError as error:
            if not self.skip_damaged:
                raise UserError(f"{error}{SKIP_HINT}") from None
            return Lack(DAMAGED, name)
        if len(film.frames) < self.min_frames:
            return Lack(f"fewer than {self.min_frames} frames", name)
        if not math.isclose(film.rate, fps, rel_tol=SAME_RATE):
            resampled[name] = film.rate
        variables = None
        if class_number is not None:
            variables = np.full((len(film.frames), 1), class_number, np.float32)
        lacks = (Lack(self.too_long, name),) if film.is_cut else ()
        return Recording(film.frames, variables=variables, lacks=lacks)


def find_videos(source: Path, left_out: LeftOut) -> dict[str, str | None]:
    """Path below `source` and class of each video, in the order of the paths.

    Args:
        left_out: gets what else lies there.

    Raises:
        UserError: there is no video, or some lie in class folders and others don't.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: give the folder that holds the videos")
    names: list[str] = []
    for name in found_files(source, left_out):
        if PurePosixPath(name).suffix.lower() in SUFFIXES:
            names.append(name)
        else:
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


def _digest(splits: Mapping[str, OfficialSplit | None]) -> str:
    lines = "".join(f"{name}\t{split}\n" for name, split in splits.items())
    return hashlib.blake2b(os.fsencode(lines), digest_size=8).hexdigest()


def official_splits(
    names: Sequence[str], lists: Mapping[OfficialSplit, Sequence[Path]]
) -> tuple[dict[str, OfficialSplit], list[str]]:
    """Look up which list each video is in.

    A line is a path or a URL, then perhaps a class number (UCF-101) or, behind a tab, a
    description (TGIF). A path means the video whose path ends like it, as far as both go; a
    URL the video of its file name.

    Args:
        names: paths of the videos that there are, with forward slashes.
        lists: files of each split.

    Returns:
        The split of each name that is listed; and the listed ones that are not among the names.

    Raises:
        UserError: a list can't be read, means several videos by one line, or one video is
            in lists of both splits.
    """
    of_file_name: dict[str, list[str]] = defaultdict(list)
    for name in names:
        of_file_name[name.rsplit("/", 1)[-1]].append(name)
    splits: dict[str, OfficialSplit] = {}
    missing: list[str] = []
    for split, paths in lists.items():
        for path in paths:
            for entry in _entries(path):
                candidates = of_file_name.get(entry.name, [])
                found = [name for name in candidates if _ends_alike(entry, name)]
                if not found:
                    missing.append(str(entry))
                elif len(found) > 1:
                    raise UserError(f"{path}: {entry} may mean {found[0]} or {found[1]}")
                elif splits.setdefault(found[0], split) != split:
                    raise UserError(f"{found[0]} is listed for training and for the test")
    return splits, missing


def _entries(path: Path) -> Iterator[PurePosixPath]:
    content = read_bytes(path, most_bytes=MAX_LIST_BYTES)
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as a list of videos: {error}") from None
    for line in lines:
        entry = re.sub(r"\s+\d+$", "", line.split("\t")[0].strip()).replace("\\", "/")
        if "://" in entry:  # only the file name is kept by whoever downloads
            entry = entry.split("?")[0].rsplit("/", 1)[-1]
        if entry:
            yield PurePosixPath(entry)


def _ends_alike(entry: PurePosixPath, name: str) -> bool:
    left, right = entry.parts, PurePosixPath(name).parts
    shorter = min(len(left), len(right))
    return left[-shorter:] == right[-shorter:]
