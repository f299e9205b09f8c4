"""RoboNet: python -m worldmodel.data robonet hdf5 --files 'berkeley_sawyer*' --out data/robonet

The set of Dasari et al. 2019, "RoboNet: Large-Scale Multi-Robot Learning": an HDF5 file a
trajectory, with pictures of several cameras as mp4 or as JPEG.
"""

import fnmatch
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import h5py
import numpy as np
import tyro
from jaxtyping import Float32, Float64, UInt8

from worldmodel.command import track
from worldmodel.data.episodes import DatasetInfo
from worldmodel.data.importers.pipeline import (
    Found,
    Recording,
    Source,
    actions_within,
    found_files,
    import_found,
)
from worldmodel.data.importers.video_file import decode_mp4, decode_picture
from worldmodel.data.left_out import LeftOut
from worldmodel.errors import UserError
from worldmodel.media.resize import area_resized
from worldmodel.storage.hdf5 import (
    attribute,
    check_strings,
    guarded,
    has_own,
    open_hdf5,
    own_array,
    own_group,
    read_rows,
)

# Called in another process.
SURVEY = f"{__name__}:survey"
READ_TRAJECTORY = f"{__name__}:read_trajectory"
ACTION_MEANINGS = ("dx", "dy", "dz", "turn", "gripper")  # some robots have no fifth
FPS = 5.0  # the set doesn't say; a pace to watch it at
NO_ACTION_OR_STATE = "pictures without an action or a state"  # a reason to leave them out
MAX_FRAMES = 10_000  # of a trajectory, which has about 30: it is held whole
MAX_ENCODED_BYTES = 2**28  # of one film or picture


@dataclass(frozen=True)
class Trajectory:
    """What a file holds, all but its pictures.

    Attributes:
        num_frames: of the shortest of its parts.
        num_beyond: pictures behind these, without an action or a state.
        largest: of each number of an action, either way.
        state_size: how many numbers a state has.
    """

    path: Path
    num_frames: int
    num_beyond: int
    largest: Float32[np.ndarray, " A"]
    state_size: int


@dataclass(frozen=True)
class ImportRoboNet:
    """Import RoboNet. All trajectories must have as many numbers in an action and a state."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """The folder of HDF5 files; folders in it are searched too."""
    out: Path = Path("data/robonet")
    """Folder of the data set."""
    files: str = "*.hdf5"
    """Which of the files, as a pattern of names: 'berkeley_sawyer*.hdf5' for one robot's."""
    camera: int = 0
    """Number of the camera whose pictures are taken."""
    size: int = 64
    """Height and width of the stored frames; each pixel is the mean of the area it covers."""

    def run(self) -> None:
        """Raises UserError where an option, the folder or a file is not as it should be.

        All but the pictures is read before anything is stored.
        """
        if self.camera < 0 or not 1 <= self.size <= 4096:
            raise UserError(
                f"--camera {self.camera} is negative, or --size {self.size} not from 1 to 4096"
            )
        left_out = LeftOut()
        trajectories = find_trajectories(self.source, self.files, self.camera, left_out)
        total = len(trajectories)
        largest = np.max([t.largest for t in trajectories], axis=0).tolist()
        limits = tuple(limit or 1.0 for limit in largest)  # 1 where nothing ever moved
        info = DatasetInfo(
            env_id="RoboNet",
            # With the number, which decides ids: a folder that grew is another source.
            env_kwargs={"camera": self.camera, "files": self.files, "num_trajectories": total},
            frame_shape=(self.size, self.size, 3),
            actions=actions_within(limits, ACTION_MEANINGS),
            variable_names=tuple(f"state_{i}" for i in range(trajectories[0].state_size)),
            fps=FPS,
            frame_skip=1,
        )
        sources = (
            Source(
                partial(guarded, READ_TRAJECTORY, t.path, t.num_frames, self.camera, self.size),
                "robonet",
            )
            for t in trajectories
        )
        import_found(self.out, Found(info, sources, total, left_out))


def find_trajectories(source: Path, files: str, camera: int, left_out: LeftOut) -> list[Trajectory]:
    """All files of these names in a folder, surveyed.

    Args:
        left_out: gets the files of other names, and pictures without an action or a state.

    Raises:
        UserError: there are none, one is damaged, or one's actions or states are of another size.
    """
    if not source.is_dir():
        raise UserError(f"{source} is no folder: give the one with RoboNet's HDF5 files, unpacked")
    names: list[str] = []
    for name in found_files(source, left_out):
        if fnmatch.fnmatch(PurePosixPath(name).name, files):
            names.append(name)
        else:
            left_out.add(f"not named {files} (--files)", name)
    if not names:
        raise UserError(f"{source} holds no files {files}")
    trajectories = []
    for name in track(names, "reading actions"):
        trajectory = guarded(SURVEY, source / name, camera)
        trajectories.append(trajectory)
        if trajectory.num_beyond:
            left_out.add(NO_ACTION_OR_STATE, name, count=trajectory.num_beyond)
    first = trajectories[0]
    for other in trajectories:
        sizes, expected = [(len(t.largest), t.state_size) for t in (other, first)]
        if sizes != expected:
            raise UserError(
                f"{other.path}: actions have {sizes[0]} numbers and states {sizes[1]}, but those "
                f"of {first.path} have {expected[0]} and {expected[1]}: take the files of one "
                "robot with --files"
            )
    return trajectories


def survey(path: Path, camera: int) -> Trajectory:
    """What a file holds, all but its pictures.

    Pictures, states and actions may differ in number: what is behind the shortest is left out,
    as RoboNet's own loader does.

    Raises:
        UserError: it is not a trajectory of RoboNet, has no such camera, or is damaged.
    """
    with open_hdf5(path) as file:
        check_strings(path)
        actions = _numbers(file, "policy/actions")
        states = _numbers(file, "env/state")
        num_pictures = _num_pictures(file, camera)
        num_frames = min(len(actions) + 1, len(states), num_pictures)
        if num_frames < 2:
            raise UserError(f"{path} holds no two frames with an action between them")
        if not 4 <= actions.shape[1] <= len(ACTION_MEANINGS) or states.shape[1] < 1:
            raise UserError(
                f"{path}: actions have {actions.shape[1]} numbers, not 4 or 5, or there is no state"
            )
        largest = np.abs(actions[: num_frames - 1]).max(0)
        num_beyond = num_pictures - num_frames
        largest = largest.astype(np.float32)
        return Trajectory(path, num_frames, num_beyond, largest, states.shape[1])


def read_trajectory(path: Path, num_frames: int, camera: int, size: int) -> Recording:
    """The first frames, RGB of the wanted size, with actions and states. Raises UserError."""
    with open_hdf5(path) as file:
        actions = _numbers(file, "policy/actions")[: num_frames - 1].astype(np.float32)
        states = _numbers(file, "env/state")[:num_frames].astype(np.float32)
        frames = [area_resized(p, (size, size)) for p in _pictures(file, camera, num_frames)]
    if len(frames) < num_frames:
        raise UserError(f"{path}: its film ends after {len(frames)} of {num_frames} frames")
    return Recording(np.stack(frames), actions, states)


def _numbers(file: h5py.File, name: str) -> Float64[np.ndarray, "n m"]:
    array = own_array(file, name, dtype=np.floating, ndims=(2,))
    if len(array) > MAX_FRAMES or array.shape[1] > MAX_FRAMES:
        raise UserError(f"{file.filename}: {name!r} is {array.shape}: too long for a trajectory")
    numbers = read_rows(array, 0, len(array)).astype(np.float64)
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        raise UserError(f"{file.filename}: {name!r} holds a number that is not finite")
    return numbers


def _num_pictures(file: h5py.File, camera: int) -> int:
    """How many pictures a camera took, as the file says."""
    folder = f"env/cam{camera}_video"
    if not has_own(own_group(file, "env"), f"cam{camera}_video"):
        raise UserError(f"{file.filename} has no camera {camera}: choose another --camera")
    group = own_group(file, folder)
    if not has_own(group, "frames"):
        return next(n for n in itertools.count() if not has_own(group, f"frame{n}"))
    count = attribute(_encoded(file, f"{folder}/frames"), "T")
    if not isinstance(count, int):
        raise UserError(f"{file.filename}: the film's attribute 'T' is {count!r}, not a number")
    return count


def _pictures(file: h5py.File, camera: int, count: int) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The first pictures of a camera, as RGB.

    RoboNet writes and reads JPEGs with OpenCV, which takes the colours that it is given for
    BGR. So JPEGs have red and blue exchanged where `image_format` says RGB, and films where it
    says BGR; then its loader returns RGB.
    """
    folder = f"env/cam{camera}_video"
    if has_own(own_group(file, folder), "frames"):
        film = _encoded(file, f"{folder}/frames")
        for picture in decode_mp4(_bytes(film), f"{file.filename}: {film.name!r}", count):
            yield picture if _is_rgb(film) else picture[..., ::-1]
        return
    for t in range(count):
        array = _encoded(file, f"{folder}/frame{t}")
        picture = decode_picture(_bytes(array), f"{file.filename}: {array.name!r}")
        yield picture[..., ::-1] if _is_rgb(array) else picture


def _is_rgb(array: h5py.Dataset) -> bool:
    image_format = attribute(array, "image_format")
    if image_format not in ("RGB", "BGR"):
        raise UserError(
            f"{array.file.filename}: {array.name!r}: image_format is {image_format!r}, not RGB "
            "or BGR"
        )
    return image_format == "RGB"


def _encoded(file: h5py.File, name: str) -> h5py.Dataset:
    # Older OpenCV gives the bytes of a JPEG as a column.
    array = own_array(file, name, dtype=np.uint8, ndims=(1, 2))
    if array.nbytes > MAX_ENCODED_BYTES:
        raise UserError(f"{file.filename}: {name!r} is {array.shape}: too long for pictures")
    return array


def _bytes(array: h5py.Dataset) -> bytes:
    return read_rows(array, 0, len(array)).tobytes()
