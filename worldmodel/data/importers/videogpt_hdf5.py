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
from worldmodel.data.importers.pipeline import (
    Found,
    OfficialSplit,
    Recording,
    Source,
    import_found,
)
from worldmodel.data.left_out import LeftOut
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION
from worldmodel.storage.hdf5 import guarded, open_hdf5, own_array, read_rows

# Called in another process.
SURVEY = f"{__name__}:survey"
READ_FRAMES = f"{__name__}:read_frames"
SPLITS: tuple[OfficialSplit, ...] = ("train", "test")
SINGLE_FRAME = "videos of a single frame"  # are left out: nothing happens in them


@dataclass(frozen=True)
class ImportVideoGPTHDF5:
    """Import a file that was made for the original VideoGPT; its videos have no actions."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """The HDF5 file, with train_data, train_idx, test_data and test_idx."""
    out: Path
    """Folder of the data set."""
    fps: float = 10.0
    """Frames a second; the file doesn't say."""

    def run(self) -> None:
        """Raises UserError where the file is damaged, or its arrays don't fit together.

        All but the pixels is checked before anything is stored.
        """
        frame_shape, edges = guarded(SURVEY, self.source)
        left_out, videos = LeftOut(), {}
        for split in SPLITS:
            lengths = np.diff(edges[split])
            videos[split] = [edges[split][i : i + 2].tolist() for i in np.flatnonzero(lengths > 1)]
            for i in np.flatnonzero(lengths == 1):
                left_out.add(SINGLE_FRAME, f"{split} {i}")
        total = sum(map(len, videos.values()))
        if total == 0:
            raise UserError(f"{self.source} holds no video of two frames or more")
        info = DatasetInfo(
            env_id=self.source.stem,
            # With the numbers, which decide ids: a file that grew is another source.
            env_kwargs={f"num_{split}": len(videos[split]) for split in SPLITS},
            frame_shape=frame_shape,
            actions=NO_ACTION,
            variable_names=(),
            fps=self.fps,
            frame_skip=1,
        )

        def sources() -> Iterator[Source]:
            for split in SPLITS:
                for start, stop in videos[split]:
                    yield Source(partial(_read, self.source, split, start, stop), split, split)

        import_found(self.out, Found(info, sources(), total, left_out))


def survey(source: Path) -> tuple[tuple[int, int, int], dict[OfficialSplit, np.ndarray]]:
    """The shape of the frames and, for each split, where its videos begin, see `find_videos`.

    Raises:
        UserError: the file is damaged, or its arrays don't fit together.
    """
    with open_hdf5(source) as file:
        pixels = {split: _pixels(file, split) for split in SPLITS}
        edges: dict[OfficialSplit, np.ndarray] = {
            split: find_videos(file, split, len(pixels[split])) for split in SPLITS
        }
        train, test = (pixels[split].shape[1:] for split in SPLITS)
        if train != test:
            raise UserError(f"{source}: frames of train_data are {train}, of test_data {test}")
        if min(train) < 1 or train[2] not in (1, 3):
            raise UserError(f"{source}: frames are {train}, not (H, W, 1) or (H, W, 3)")
        return train, edges


def read_frames(source: Path, split: OfficialSplit, start: int, stop: int) -> np.ndarray:
    """The frames of one video, uint8 (T, H, W, C). Raises UserError."""
    with open_hdf5(source) as file:
        return read_rows(_pixels(file, split), start, stop)


def _read(source: Path, split: OfficialSplit, start: int, stop: int) -> Recording:
    return Recording(guarded(READ_FRAMES, source, split, start, stop))


def _pixels(file: h5py.File, split: OfficialSplit) -> h5py.Dataset:
    return own_array(file, f"{split}_data", dtype=np.uint8, ndims=(4,))


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
