"""BAIR robot pushing: python -m worldmodel.data bair softmotion30_44k --out data/bair

The set of Ebert et al. 2017, "Self-Supervised Visual Planning with Temporal Skip Connections":
43,264 trajectories for training and 256 for testing, as TFRecords.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jaxtyping import Float32, UInt8

from worldmodel.data.episodes import DatasetInfo
from worldmodel.data.importers.pipeline import (
    Found,
    OfficialSplit,
    Recording,
    Source,
    actions_within,
    import_found,
)
from worldmodel.data.importers.tfrecord import (
    bytes_of,
    floats_of,
    parse_example,
    read_record,
    record_spans,
)
from worldmodel.data.left_out import LeftOut
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec

FOLDER = "softmotion30_44k"
SPLITS: tuple[OfficialSplit, ...] = ("train", "test")
NUM_FRAMES = 30
FRAME_SHAPE = (64, 64, 3)
ACTION_MEANINGS = ("dx", "dy", "count 1", "count 2")
# Reasons to leave something out.
OTHER_NAME = "not named traj_*_to_*.tfrecords"
MISSING = "missing from files that should hold them by their names; were they cut?"
FPS = 5.0  # the set doesn't say; a pace to watch it at

# A file, the record's number in it, and where the record lies.
Record = tuple[Path, int, tuple[int, int]]


@dataclass(frozen=True)
class ImportBair:
    """Import BAIR robot pushing. A record's last action leads out of it and is dropped."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """The unpacked folder softmotion30_44k, or the one it lies in."""
    out: Path = Path("data/bair")
    """Folder of the data set."""
    camera: Literal["main", "aux1"] = "aux1"
    """Whose pictures to take; VideoGPT took aux1."""
    action_limits: tuple[float, float, float, float] = (0.1, 0.1, 10.0, 10.0)
    """The most that each number of an action may be, either way: a shift in x and in y (those of
    the set reach about 0.065), and two small whole numbers."""

    def run(self) -> None:
        """Raises UserError where the folder, a file, a record or an action is not as it should be.

        All headers are read before anything is stored.
        """
        if not all(0 < limit < math.inf for limit in self.action_limits):
            raise UserError(f"--action-limits must be finite and above 0, not {self.action_limits}")
        folder = find_folder(self.source)
        left_out = LeftOut()
        records = {split: find_records(folder / split, left_out) for split in SPLITS}
        actions = actions_within(self.action_limits, ACTION_MEANINGS)
        info = DatasetInfo(
            env_id="BAIR",
            # With the numbers, which decide ids: a folder that grew is another source.
            env_kwargs={"camera": self.camera} | {f"num_{k}": len(v) for k, v in records.items()},
            frame_shape=FRAME_SHAPE,
            actions=actions,
            variable_names=("x", "y", "z"),
            fps=FPS,
            frame_skip=1,
        )

        def sources() -> Iterator[Source]:
            for split in SPLITS:
                for record in records[split]:
                    read = partial(read_trajectory, record, self.camera, actions)
                    yield Source(read, f"{FOLDER}/{split}", split)

        total = sum(map(len, records.values()))
        remark = (
            f" of {NUM_FRAMES} frames and {NUM_FRAMES - 1} actions; each trajectory's last action "
            "leads out of it and was dropped"
        )
        import_found(self.out, Found(info, sources(), total, left_out), remark=remark)


def find_folder(source: Path) -> Path:
    """The folder that holds train/ and test/. Raises UserError that says what to do."""
    if source.is_file():
        raise UserError(
            f"{source} is a file: unpack it first (tar -xf {source}) and give the folder {FOLDER}"
        )
    if not source.is_dir():
        raise UserError(f"{source} does not exist: give the folder {FOLDER}")
    for folder in (source, source / FOLDER):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    raise UserError(f"{source} holds no folders train and test: give the folder {FOLDER}")


def find_records(folder: Path, left_out: LeftOut) -> list[Record]:
    """All records of a folder's files, in the order of the trajectories' numbers.

    Args:
        left_out: gets what lies there beside them, and the trajectories that are missing.

    Raises:
        UserError: there are none, or a file is empty, damaged or cut off.
    """
    files: list[tuple[int, int, Path]] = []
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"traj_(\d{1,9})_to_(\d{1,9})\.tfrecords", path.name)
        if match and path.is_file():
            files.append((int(match[1]), int(match[2]), path))
        elif not path.name.startswith("."):
            left_out.add(OTHER_NAME, f"{folder.name}/{path.name}")
    records: list[Record] = []
    for first, last, path in sorted(files):
        spans = record_spans(path)
        if not spans:
            raise UserError(f"{path} is empty: fetch the file again")
        records += [(path, number, span) for number, span in enumerate(spans)]
        expected = last - first + 1
        if len(spans) < expected:
            name = f"{folder.name}/{path.name} with {len(spans)} of {expected}"
            left_out.add(MISSING, name, count=expected - len(spans))
    if not records:
        raise UserError(f"{folder} holds no records in files traj_*_to_*.tfrecords")
    return records


def read_trajectory(record: Record, camera: str, actions: ActionSpec) -> Recording:
    """One trajectory: 30 frames, 29 actions, 30 positions of the gripper.

    Raises:
        UserError: the record is damaged, lacks something, or an action lies outside `actions`.
    """
    path, number, span = record
    try:
        features = parse_example(read_record(path, span))
        frames = np.stack(
            [_image(features, f"{t}/image_{camera}/encoded") for t in range(NUM_FRAMES)]
        )
        moves = _rows(features, "action", 4)[:-1]  # the last one leads out of the trajectory
        for t, move in enumerate(moves):
            if not actions.contains(move):
                raise UserError(
                    f"action {t} is {move.tolist()}, beyond {actions.high}: if that is meant, "
                    "give larger --action-limits and another --out"
                )
        positions = _rows(features, "endeffector_pos", 3)
        if not np.isfinite(positions).all():
            raise UserError("a position of the gripper is not finite")
    except UserError as error:
        raise UserError(f"{path}, record {number}: {error}") from None
    return Recording(frames, moves, positions)


def _image(features: dict[str, Any], name: str) -> UInt8[np.ndarray, "64 64 3"]:
    """A picture; whatever its name says, it is not encoded."""
    pixels = bytes_of(features, name)
    if len(pixels) != np.prod(FRAME_SHAPE):
        raise UserError(
            f"{name!r} holds {len(pixels)} bytes, not the {np.prod(FRAME_SHAPE)} of 64x64 RGB"
        )
    return np.frombuffer(pixels, np.uint8).reshape(FRAME_SHAPE)


def _rows(features: dict[str, Any], name: str, size: int) -> Float32[np.ndarray, "30 n"]:
    return np.stack([floats_of(features, f"{t}/{name}", size) for t in range(NUM_FRAMES)])
