"""VideoGPT's own HDF5: python -m worldmodel.data videogpt-hdf5 videos.hdf5 --out data/videos

Such a file holds `train_data` and `test_data`, uint8 (frames, H, W, C), all videos' frames one
after another, and `train_idx` and `test_idx`, where each video begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import h5py
import numpy as np
import tyro
from jaxtyping import Int64

from worldmodel.data.episodes import DatasetInfo
from worldmodel.data.importers.hdf5 import (
    guarded,
    open_hdf5,
    own_array,
    read_rows,
)
from worldmodel.data.importers.writing import (
    OfficialSplit,
    Recording,
    Source,
    import_sources,
    print_result,
)
from worldmodel.data.left_out import Tally
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION

# Called in another process.
SURVEY = f"{__name__}:survey"
READ_FRAMES = f"{__name__}:read_frames"
SPLITS: tuple[OfficialSplit, ...] = ("train", "test")
SINGLE_FRAME = "videos of a single frame"  # a reason to leave them out


@dataclass(frozen=True)
class ImportVideoGPTHDF5:
    """Import a file that was made for the original VideoGPT; its videos have no actions."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """The HDF5 file, with train_data, train_idx, test_data and test_idx."""
    out: Path
    """Folder of the data set."""
    fps: float = 10.0
    """Frames a second; the file doesn't tell."""

    def run(self) -> None:
        """Raises UserError when the file is not as it should be."""
        num_stored = import_videogpt_hdf5(self.source, self.out, fps=self.fps)
        print_result(self.out, f"{self.out} holds {num_stored} episodes")


def import_videogpt_hdf5(source: Path, out: Path, *, fps: float = 10.0) -> int:
    """Store the videos as episodes, train and test as they are; resumes where it stopped.

    Videos of a single frame are left out: nothing happens in them.

    Returns:
        How many episodes the data set holds now.

    Raises:
        UserError: the file is damaged, or its arrays don't fit together. All but the pixels is
            checked before anything is stored.
    """
    frame_shape, edges = guarded(SURVEY, source)
    whole = {split: np.flatnonzero(np.diff(edges[split]) > 1) for split in SPLITS}
    num_whole = sum(map(len, whole.values()))
    if num_whole == 0:
        raise UserError(f"{source} holds no video of two frames or more")
    left_out = Tally()
    for split in SPLITS:
        for i in np.flatnonzero(np.diff(edges[split]) == 1):
            left_out.add(SINGLE_FRAME, f"{split} {i}")

    def sources() -> Iterator[Source]:
        for split in SPLITS:
            for i in whole[split]:
                start, stop = edges[split][i : i + 2].tolist()
                yield Source(split, split, partial(_read, source, split, start, stop))

    info = DatasetInfo(
        env_id=source.stem,
        # The numbers are told, for ids follow from them: a file that grew is another source.
        env_kwargs={f"num_{split}": len(whole[split]) for split in SPLITS},
        frame_shape=frame_shape,
        actions=NO_ACTION,
        variable_names=(),
        fps=fps,
        frame_skip=1,
    )
    return import_sources(out, info, sources(), total=num_whole, left_out=left_out)


def survey(source: Path) -> tuple[tuple[int, int, int], dict[OfficialSplit, np.ndarray]]:
    """The shape of the frames and, for each split, where its videos begin, see `find_videos`.

    Raises:
        UserError: the file is damaged, or its arrays don't fit together.
    """
    with open_hdf5(source) as file:
        pixels: dict[OfficialSplit, h5py.Dataset] = {}
        edges: dict[OfficialSplit, np.ndarray] = {}
        for split in SPLITS:
            pixels[split] = _pixels(file, split)
            edges[split] = find_videos(file, split, len(pixels[split]))
        return _common_shape(source, pixels), edges


def read_frames(source: Path, split: OfficialSplit, start: int, stop: int) -> np.ndarray:
    """The frames of one video, uint8 (T, H, W, C). Raises UserError."""
    with open_hdf5(source) as file:
        return read_rows(_pixels(file, split), start, stop)


def _read(source: Path, split: OfficialSplit, start: int, stop: int) -> Recording:
    return Recording(guarded(READ_FRAMES, source, split, start, stop))


def _pixels(file: h5py.File, split: OfficialSplit) -> h5py.Dataset:
    return own_array(file, f"{split}_data", dtype=np.uint8, ndims=(4,))


def _common_shape(source: Path, pixels: dict[OfficialSplit, h5py.Dataset]) -> tuple[int, int, int]:
    shapes = [pixels[split].shape[1:] for split in SPLITS]
    if shapes[0] != shapes[1]:
        raise UserError(f"{source}: frames of train_data are {shapes[0]}, of test_data {shapes[1]}")
    if min(shapes[0]) < 1 or shapes[0][2] not in (1, 3):
        raise UserError(f"{source}: frames are {shapes[0]}, not (H, W, 1) or (H, W, 3)")
    return shapes[0]


def find_videos(
    file: h5py.File, split: OfficialSplit, num_frames: int
) -> Int64[np.ndarray, " edges"]:
    """Where each video begins, and behind the last one `num_frames`.

    Raises:
        UserError: videos overlap, are out of order, or lie outside the frames.
    """
    name = f"{split}_idx"
    array = own_array(file, name, dtype=np.integer, ndims=(1,))
    if len(array) > num_frames:
        raise UserError(f"{file.filename}: {name} has {len(array)} videos, more than frames")
    starts = read_rows(array, 0, len(array))
    # In the file's own type: it may not fit into int64.
    if len(starts) and not 0 <= starts.min() <= starts.max() < num_frames:
        raise UserError(
            f"{file.filename}: {name} lies from {starts.min()} to {starts.max()}, outside the "
            f"{num_frames} frames of {split}_data"
        )
    edges = np.append(starts.astype(np.int64), num_frames)
    if edges[0] != 0:
        raise UserError(f"{file.filename}: {name} does not begin with 0")
    wrong = np.flatnonzero(np.diff(edges) <= 0)
    if len(wrong):
        i = int(wrong[0])
        raise UserError(
            f"{file.filename}: {name} goes from {edges[i]} to {edges[i + 1]} at video {i}: "
            "videos must follow one another"
        )
    return edges
