"""Videos in folders: python -m worldmodel.data videos SRC --out DIR

UCF-101 for example: python -m worldmodel.data videos UCF-101 --size 128 --out data/ucf101-128
--train-list ucfTrainTestlist/trainlist01.txt --test-list ucfTrainTestlist/testlist01.txt
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import tyro

from worldmodel.actions import NO_ACTION
from worldmodel.data.episodes import CLASS_VARIABLE, POLICY_NAME_BYTES, DatasetInfo
from worldmodel.data.importers.split_lists import official_splits
from worldmodel.data.importers.video_file import frame_rate, read_video
from worldmodel.data.importers.writing import (
    OfficialSplit,
    Recording,
    Source,
    import_sources,
)
from worldmodel.errors import UserError

LARGEST_SIDE = 4096  # of a frame, in pixels
SKIP_HINT = ". --skip-damaged leaves such videos out"
SUFFIXES = (".avi", ".gif", ".mkv", ".mp4", ".webm")


@dataclass(frozen=True)
class ImportVideos:
    """Read a folder of videos, SRC/VIDEO or SRC/CLASS/VIDEO, each as one episode that nobody
    steers: its shorter side scaled, then cut to the square in the middle."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Folder of avi, gif, mkv, mp4 and webm files, or of one folder of them a class."""
    out: Path
    """Folder of the data set."""
    size: int = 64
    """Side of a frame, in pixels."""
    train_list: tuple[Path, ...] = ()
    """Official list of the videos for training (UCF-101's trainlist01.txt, TGIF's train.txt):
    one file name, path or URL a line. What stands in no list is left out."""
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

    def run(self) -> None:
        """Raises UserError when an option, a list or a video is not usable."""
        _check(self)
        videos = find_videos(self.source)
        splits, notes = _splits(self, list(videos))
        classes = sorted({name for name in videos.values() if name is not None})
        positions = {name: i for i, name in enumerate(classes)}
        tally = Tally()
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
            fps=_first_rate(self, splits) / self.every,
            frame_skip=1,
            class_names=tuple(classes),
            versions={"av": av.__version__, "ffmpeg": av.ffmpeg_version_info},
        )

        def sources() -> Iterator[Source]:
            for name, split in splits.items():
                position = positions.get(videos[name] or "")  # no folder has an empty name
                yield Source(split, _origin(name), partial(_read, self, name, position, tally))

        num_stored = import_sources(self.out, info, sources(), total=len(splits))
        notes += tally.notes(self)
        said = "; ".join([f"{self.out} holds {num_stored} episodes", *notes])
        if num_stored == 0:
            raise UserError(f"{said}: nothing is left to learn from")
        print(said)


@dataclass
class Tally:
    """What happened to the videos that were read in this call."""

    damaged: list[str] = field(default_factory=list)
    num_short: int = 0
    num_cut: int = 0

    def notes(self, options: ImportVideos) -> list[str]:
        """A few words on each thing that happened at all."""
        notes = []
        if self.num_short:
            notes.append(
                f"{self.num_short} videos of fewer than {options.min_frames} frames left out"
            )
        if self.damaged:
            notes.append(
                f"{len(self.damaged)} damaged ones left out (the first: {self.damaged[0]})"
            )
        if self.num_cut:
            notes.append(f"{self.num_cut} of those read now cut at {options.max_frames} frames")
        return notes


def find_videos(source: Path) -> dict[str, str | None]:
    """Path below `source` and class of each video, in the order of the paths.

    Raises:
        UserError: there is none, or some lie in class folders and others don't.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: give the folder that holds the videos")
    at_depth = {
        depth: sorted(
            path.relative_to(source).as_posix()
            for path in source.glob("/".join("*" * depth))
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        for depth in (1, 2, 3)
    }
    depths = [depth for depth, names in at_depth.items() if names]
    if not depths:
        raise UserError(f"{source} holds no video: none of {', '.join(SUFFIXES)}")
    if len(depths) > 1 or depths[0] == 3:
        examples = " and ".join(at_depth[depth][0] for depth in depths)
        raise UserError(
            f"{source} holds {examples}: all videos must lie right in it, or all in one folder "
            "a class"
        )
    has_classes = depths[0] == 2
    return {name: name.split("/")[0] if has_classes else None for name in at_depth[depths[0]]}


def _check(options: ImportVideos) -> None:
    least = {
        "--size": (options.size, 1),
        "--every": (options.every, 1),
        "--min-frames": (options.min_frames, 2),
        "--max-frames": (options.max_frames, options.min_frames),
    }
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise UserError(f"{name} must be at least {lowest}, not {value}")
    if options.size > LARGEST_SIDE:
        raise UserError(f"--size must be at most {LARGEST_SIDE}, not {options.size}")


def _splits(
    options: ImportVideos, names: Sequence[str]
) -> tuple[dict[str, OfficialSplit | None], list[str]]:
    """The videos to import, in order, with their splits; and what is to be said of the lists."""
    if not options.train_list and not options.test_list:
        return dict.fromkeys(names), []
    listed, missing = official_splits(
        names, {"train": options.train_list, "test": options.test_list}
    )
    if not listed:
        raise UserError(f"no video in {options.source} stands in the lists")
    notes = []
    if len(listed) < len(names):
        notes.append(f"{len(names) - len(listed)} videos that stand in no list left out")
    if missing:
        notes.append(f"{len(missing)} listed ones are missing (the first: {missing[0]})")
    return {name: listed[name] for name in names if name in listed}, notes


def _first_rate(options: ImportVideos, names: Mapping[str, object]) -> float:
    """Frames a second of the first video that can be read."""
    for name in names:
        try:
            return frame_rate(options.source / name)
        except UserError as error:
            if not options.skip_damaged:
                raise UserError(f"{error}{SKIP_HINT}") from None
    raise UserError(f"no video in {options.source} can be read")


def _read(options: ImportVideos, name: str, position: int | None, tally: Tally) -> Recording | None:
    """A video as an episode, or None where it is to be left out."""
    try:
        frames, is_cut = read_video(
            options.source / name,
            size=options.size,
            every=options.every,
            max_frames=options.max_frames,
        )
    except UserError as error:
        if not options.skip_damaged:
            raise UserError(f"{error}{SKIP_HINT}") from None
        tally.damaged.append(name)
        return None
    if len(frames) < options.min_frames:
        tally.num_short += 1
        return None
    tally.num_cut += is_cut
    if position is None:
        return Recording(frames)
    return Recording(frames, variables=np.full((len(frames), 1), position, np.float32))


def _origin(name: str) -> str:
    """The end of a path, in as many bytes as may be stored."""
    readable = os.fsencode(name).decode(errors="replace")
    return readable.encode()[-POLICY_NAME_BYTES:].decode(errors="ignore")


def _digest(splits: Mapping[str, OfficialSplit | None]) -> str:
    lines = "".join(f"{name}\t{split}\n" for name, split in splits.items())
    return hashlib.blake2b(os.fsencode(lines), digest_size=8).hexdigest()
