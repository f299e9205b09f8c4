"""One HDF5 file of episodes: its layout, and the checks before anything in it is used.

Rows of all episodes lie one after another in flat arrays. `action`, `reward`, `terminated`
and `truncated` have a row a step, from `episode_start` on; `frames` and `variables` have one
row more an episode, from `frame_start` on. An episode's frames begin on a chunk of their own,
so appending never rewrites a chunk that holds a finished episode.
"""

from pathlib import Path

import h5py
import numpy as np

from worldmodel.data.episodes import POLICY_NAME_BYTES, DatasetInfo, Episode
from worldmodel.errors import UserError

FRAMES_PER_CHUNK = 4
ROWS_PER_CHUNK = 1024

INDEX_DTYPE = np.dtype(
    [
        ("episode_id", "<i8"),
        ("episode_start", "<i8"),
        ("frame_start", "<i8"),
        ("episode_length", "<i8"),
        ("seed", "<i8"),
        ("policy", f"S{POLICY_NAME_BYTES}"),
    ]
)
FRAME_ARRAYS = ("frames", "variables")  # T+1 rows an episode; the others have T


def row_layout(info: DatasetInfo) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of one row of each array. Without variables there is no such array."""
    layout = {
        "frames": (np.dtype(np.uint8), info.frame_shape),
        "action": (np.dtype(info.actions.dtype), info.actions.shape),
        "reward": (np.dtype(np.float32), ()),
        "terminated": (np.dtype(bool), ()),
        "truncated": (np.dtype(bool), ()),
    }
    if info.variable_names:
        layout["variables"] = (np.dtype(np.float32), (len(info.variable_names),))
    return layout


def create_shard(path: Path, info: DatasetInfo) -> None:
    """Write an empty shard."""
    with h5py.File(path, "w") as file:
        for name, (dtype, shape) in row_layout(info).items():
            is_frames = name == "frames"
            file.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                dtype=dtype,
                chunks=(FRAMES_PER_CHUNK if is_frames else ROWS_PER_CHUNK, *shape),
                # Only frames are packed: an unpacked chunk is rewritten in its place.
                compression="gzip" if is_frames else None,
                compression_opts=1 if is_frames else None,
            )
        file.create_dataset("index", (0,), INDEX_DTYPE, maxshape=(None,), chunks=(64,))


def open_shard(path: Path, mode: str = "r") -> h5py.File:
    """Open a shard. Raises UserError when it is damaged, or when another process writes it."""
    try:
        return h5py.File(path, mode)
    except BlockingIOError:
        raise UserError(
            f"{path} is being written by another process: wait until that is done"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except PermissionError:
        raise UserError(f"{path} may not be opened: its permissions forbid it") from None
    except OSError as error:
        raise UserError(
            f"{path} is damaged or truncated ({error}). Copy it again from where it came, or "
            "delete it and record its episodes again with the same command"
        ) from None


def array_of(file: h5py.File, name: str) -> h5py.Dataset:
    """An array of a shard whose layout was checked, or that was made here."""
    array = file[name]
    assert isinstance(array, h5py.Dataset)
    return array


def read_index(file: h5py.File, info: DatasetInfo) -> np.ndarray:
    """The index of a shard, after its layout was checked against `info`.

    Returns:
        INDEX_DTYPE (num_episodes,). Rows were not checked yet: see `row_problem`.

    Raises:
        UserError: an array is missing, or of another type or shape than `info` says.
    """
    for name, (dtype, shape) in row_layout(info).items():
        array = _own_array(file, name)
        if array.dtype != dtype or array.shape[1:] != shape:
            raise UserError(
                f"{file.filename}: rows of {name!r} are {array.dtype} {array.shape[1:]}, but "
                f"meta.json says {dtype} {shape}: this shard belongs to another data set"
            )
    index = _own_array(file, "index")
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise UserError(
            f"{file.filename}: the index has other columns than "
            f"{', '.join(INDEX_DTYPE.fields or ())}"
        )
    return _read(file, "index", 0, len(index))


def row_problem(file: h5py.File, info: DatasetInfo, row: np.void) -> str | None:
    """Why an index row cannot be used, or None."""
    if row["episode_length"] < 1 or min(row["episode_start"], row["frame_start"]) < 0:
        return "its index row is empty or negative"
    for name in row_layout(info):
        _, stop = rows_of(row, name)
        if stop > len(array_of(file, name)):
            return f"its index row points behind the end of {name!r}"
    return None


def read_checked_index(file: h5py.File, info: DatasetInfo) -> np.ndarray:
    """`read_index`, and every row can be used. Raises UserError."""
    index = read_index(file, info)
    for row in index:
        problem = row_problem(file, info, row)
        if problem:
            raise UserError(
                f"{file.filename}: episode {row['episode_id']}: {problem}. Copy the file again, "
                "or delete it and record its episodes again with the same command"
            )
    return index


def rows_of(row: np.void, name: str) -> tuple[int, int]:
    """First and one-past-last row of an episode in the array `name`."""
    length = int(row["episode_length"])
    if name in FRAME_ARRAYS:
        start = int(row["frame_start"])
        return start, start + length + 1
    start = int(row["episode_start"])
    return start, start + length


def read_rows(file: h5py.File, row: np.void, name: str) -> np.ndarray:
    """An episode's rows of the array `name`. Raises UserError when they can't be unpacked."""
    return _read(file, name, *rows_of(row, name))


def read_frames(file: h5py.File, row: np.void, start: int, stop: int) -> np.ndarray:
    """Frames start..stop of an episode, uint8 (stop - start, H, W, C). Raises UserError."""
    first = int(row["frame_start"])
    return _read(file, "frames", first + start, first + stop)


def read_episode(file: h5py.File, info: DatasetInfo, row: np.void) -> Episode:
    """A whole episode. Raises UserError when it can't be unpacked."""
    arrays = {name: read_rows(file, row, name) for name in row_layout(info)}
    num_frames = int(row["episode_length"]) + 1
    arrays.setdefault("variables", np.zeros((num_frames, 0), np.float32))
    return Episode(
        episode_id=int(row["episode_id"]),
        seed=int(row["seed"]),
        policy=row["policy"].decode(errors="replace"),
        **arrays,
    )


def _own_array(file: h5py.File, name: str) -> h5py.Dataset:
    """A plain array that lies in this very file: nothing linked, virtual or pickled."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise UserError(f"{file.filename}: the array {name!r} is missing: not a whole shard")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.ndim < 1:
        raise UserError(f"{file.filename}: {name!r} is not an array")
    if array.dtype.hasobject or array.is_virtual or array.external:
        raise UserError(
            f"{file.filename}: {name!r} holds objects or points to other files, not numbers: "
            "do not use this file"
        )
    return array


def _read(file: h5py.File, name: str, start: int, stop: int) -> np.ndarray:
    try:
        return array_of(file, name)[start:stop]
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file.filename}: {name!r} cannot be read: {error}") from None
