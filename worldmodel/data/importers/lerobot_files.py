"""The files of a LeRobot data set, version 3: their names, what they describe, where episodes lie.

Time: a row holds what is seen, the action taken then, and the reward and the end that follow. Many
episodes share a Parquet file, and a film of each camera.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.episodes import MOST_NAMES, DatasetInfo
from worldmodel.errors import UserError
from worldmodel.interface.world import MAX_FPS, MIN_FPS, check_names
from worldmodel.storage.files import read_json
from worldmodel.storage.guarded import guarded_call
from worldmodel.storage.parsed import parsed

VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{FILE}.parquet"
FILM_PATH = f"videos/{{video_key}}/{FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{FILE}.parquet"
# Names of features.
ACTION = "action"
STATE = "observation.state"
REWARD = "next.reward"
DONE = "next.done"
TRUNCATED = "next.truncated"
# Of sets that were exported from here: the key of our meta.json in info.json, and columns of the
# episodes that only we have.
OUR_INFO = "videogpt_dream"
OUR_ID, OUR_SEED, OUR_POLICY = (f"{OUR_INFO}/{name}" for name in ("episode_id", "seed", "policy"))

MOST_JSON_BYTES = 2**26
MOST_EPISODES = 10**6
MOST_FILES = 10**5  # that list episodes
MOST_INDEX = 10**6  # of a chunk or a file
MOST_ROWS = 10**7  # of an episode
MOST_START_S = 10**7  # in a film
PATIENCE_S = 300.0  # for an episode, which may be hundreds of pictures
MOST_MEMORY = 2**30
# Called in another process. Built of the name, because that module needs pyarrow.
_PARQUET = f"{__name__.rpartition('.')[0]}.parquet"
READ_NUMBERS = f"{_PARQUET}:read_numbers"
READ_TEXTS = f"{_PARQUET}:read_texts"
READ_PICTURES = f"{_PARQUET}:read_pictures"


@dataclass(frozen=True)
class Feature:
    """What info.json says about a column, or about a camera.

    Attributes:
        dtype: of a number; "video" or "image" for a camera.
        shape: of a row's value.
        names: of the numbers: a list, a list in an object, an object whose keys they are, or
            nothing. LeRobot has no rule.
    """

    dtype: str
    shape: tuple[int, ...]
    names: Any = None

    @property
    def is_camera(self) -> bool:
        return self.dtype in ("video", "image")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the numbers; () where there is not one for each."""
        names = self.names
        if isinstance(names, dict):
            (first, *_) = [*names.values(), None]
            names = first if isinstance(first, list) else list(names)
        is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return tuple(names) if is_list and self.shape == (len(names),) else ()


@dataclass(frozen=True)
class Description:
    """What info.json says.

    Raises:
        UserError: it is another version, or lies elsewhere, or its numbers make no sense.
    """

    codebase_version: str
    fps: float
    total_episodes: int
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    videogpt_dream: Any = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"v3(\.\d{1,3}){1,2}", self.codebase_version):
            raise UserError(
                f"codebase_version is {self.codebase_version!r}; v3.0 is read here: LeRobot's "
                "convert_dataset_v21_to_v30 converts older sets"
            )
        if not MIN_FPS <= self.fps <= MAX_FPS:
            raise UserError(f"fps must be from {MIN_FPS} to {MAX_FPS}, not {self.fps}")
        if not 1 <= self.total_episodes <= MOST_EPISODES:
            raise UserError(
                f"total_episodes must be from 1 to {MOST_EPISODES}, not {self.total_episodes}"
            )
        # They are never formatted: only the usual ones are read.
        if self.data_path != DATA_PATH or self.video_path not in (FILM_PATH, None):
            raise UserError(f"its files must lie at {DATA_PATH} and {FILM_PATH}, as LeRobot's do")
        check_names("features", list(self.features))
        for name, feature in self.features.items():
            if re.search(r"[/\\]|^\.", name):  # a camera's name is that of a folder
                raise UserError(f"features: {name!r} has a slash or begins with a dot")
            if not all(1 <= size <= MOST_NAMES for size in feature.shape):
                raise UserError(f"features: {name!r} has the shape {feature.shape}")

    @property
    def cameras(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.is_camera]

    def size_of(self, name: str) -> int:
        """How many numbers a row has of a feature. Raises UserError where it has none."""
        feature = self.features.get(name)
        if feature is None:
            raise UserError(f"it has no feature {name!r}, only {', '.join(self.features)}")
        if feature.is_camera or len(feature.shape) != 1:
            raise UserError(f"{name!r} is {feature.dtype} {feature.shape}, not a row of numbers")
        return feature.shape[0]

    @property
    def ours(self) -> DatasetInfo | None:
        """The description of the data set that was exported from here. Raises UserError."""
        return None if self.videogpt_dream is None else DatasetInfo.from_json(self.videogpt_dream)


@dataclass(frozen=True)
class _Limits:
    """Of the actions, in stats.json."""

    min: tuple[float, ...]
    max: tuple[float, ...]


@dataclass(frozen=True)
class StoredEpisode:
    """Where an episode lies.

    Attributes:
        number: its index.
        data: the Parquet file.
        start, num_rows: its first row there, and how many.
        film, film_start_s: where its frames are, and when they begin; None: they are in `data`.
        episode_id, seed, policy: of a set that was exported from here; None: it wasn't.
    """

    number: int
    data: Path
    start: int
    num_rows: int
    film: Path | None = None
    film_start_s: float = 0.0
    episode_id: int | None = None
    seed: int | None = None
    policy: str | None = None


def require_pyarrow() -> None:
    """Raises UserError where pyarrow, an extra, is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError("LeRobot's files need pyarrow, which is not installed: pip install pyarrow")


def read_description(folder: Path) -> Description:
    """What info.json says. Raises UserError, which names the file."""
    path = folder / INFO_PATH
    if not path.exists():
        raise UserError(f"{folder} has no {INFO_PATH}: give the folder of a LeRobot data set")
    data = read_json(path, most_bytes=MOST_JSON_BYTES)
    try:
        return parsed(Description, data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def action_limits(folder: Path, size: int) -> np.ndarray:
    """The smallest and the largest action ever taken, float64 (2, size).

    Raises:
        UserError: stats.json doesn't say them.
    """
    path = folder / STATS_PATH
    data = read_json(path, most_bytes=MOST_JSON_BYTES)
    try:
        limits = parsed(_Limits, data.get(ACTION) if isinstance(data, dict) else None)
        if (len(limits.min), len(limits.max)) != (size, size):
            raise UserError(f"it has {len(limits.min)} and {len(limits.max)} limits, not {size}")
    except UserError as error:
        raise UserError(f"{path}: min and max of {ACTION!r}: {error}") from None
    return np.array([limits.min, limits.max])


def stored_episodes(folder: Path, camera: str, description: Description) -> list[StoredEpisode]:
    """All episodes, in order.

    Raises:
        UserError: the files that list them are missing or damaged, or list other ones.
    """
    is_ours = description.videogpt_dream is not None
    in_film = description.features[camera].dtype == "video"
    film_columns = [
        f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")
    ]
    columns = ["episode_index", "dataset_from_index", "dataset_to_index"]
    columns += ["data/chunk_index", "data/file_index"]
    columns += film_columns * in_film + [OUR_ID, OUR_SEED] * is_ours
    table, policies = _index(folder, columns, description.total_episodes, with_policies=is_ours)
    _check_table(folder, table, description.total_episodes)
    bounds = table["dataset_from_index"].astype(int), table["dataset_to_index"].astype(int)
    data_files = [DATA_PATH.format(**names) for names in _indices(table, "data")]
    film_files = [
        FILM_PATH.format(video_key=camera, **names)
        for names in (_indices(table, f"videos/{camera}") if in_film else ())
    ]
    first_row: dict[str, int] = {}
    for file, start in zip(data_files, bounds[0].tolist(), strict=True):
        first_row[file] = min(start, first_row.get(file, start))
    return [
        StoredEpisode(
            number=i,
            data=folder / file,
            start=int(bounds[0][i]) - first_row[file],
            num_rows=int(bounds[1][i] - bounds[0][i]),
            film=folder / film_files[i] if in_film else None,
            film_start_s=float(table[film_columns[2]][i]) if in_film else 0.0,
            episode_id=int(table[OUR_ID][i]) if is_ours else None,
            seed=int(table[OUR_SEED][i]) if is_ours else None,
            policy=policies[i] if is_ours else None,
        )
        for i, file in enumerate(data_files)
    ]


def _index(
    folder: Path, columns: list[str], most: int, *, with_policies: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Columns of numbers about at most so many episodes and some more, and our own policies."""
    paths = sorted(folder.glob("meta/episodes/chunk-*/file-*.parquet"))
    if not 1 <= len(paths) <= MOST_FILES:
        raise UserError(f"{folder} has {len(paths)} files that list its episodes: {EPISODES_PATH}")
    parts: list[dict[str, np.ndarray]] = []
    policies: list[str] = []
    for path in paths:
        if sum(len(part[columns[0]]) for part in parts) > most:
            break
        sizes = dict.fromkeys(columns, 1)
        parts.append(guarded_call(READ_NUMBERS, path, sizes, 0, None, subject=path))
        if with_policies:
            policies += guarded_call(READ_TEXTS, path, OUR_POLICY, subject=path)
    return {
        name: np.concatenate([part[name] for part in parts])[:, 0] for name in columns
    }, policies


def _indices(table: dict[str, np.ndarray], of: str) -> list[dict[str, int]]:
    """The chunk and the file of each episode."""
    names = ("chunk_index", "file_index")
    pairs = zip(*(table[f"{of}/{name}"].astype(int).tolist() for name in names), strict=True)
    return [dict(zip(names, pair, strict=True)) for pair in pairs]


def _check_table(folder: Path, table: dict[str, np.ndarray], total: int) -> None:
    """Raises UserError unless the columns about episodes hold whole numbers within bounds, and all
    episodes are there in order."""
    where = f"{folder}/meta/episodes"
    for name, column in table.items():
        if name.endswith("/from_timestamp"):
            if not ((column >= 0) & (column <= MOST_START_S)).all():  # NaN neither
                raise UserError(f"{where}: {name!r} is not from 0 to {MOST_START_S} seconds")
        elif column.dtype.kind not in "iu":
            raise UserError(f"{where}: {name!r} holds {column.dtype}, not whole numbers")
        elif name.endswith("_index") and "/" in name and not _within(column, MOST_INDEX):
            raise UserError(f"{where}: {name!r} is not from 0 to {MOST_INDEX}")
    numbers = table["episode_index"]
    if len(numbers) != total or (numbers != np.arange(len(numbers))).any():
        raise UserError(
            f"{where} lists {len(numbers)} episodes; {INFO_PATH} says {total}, which must be "
            "numbered from 0 in order"
        )
    starts, stops = table["dataset_from_index"], table["dataset_to_index"]
    if not (
        _within(starts, 2**60) and _within(stops, 2**60) and _within(stops - starts, MOST_ROWS)
    ):
        raise UserError(f"{where}: an episode does not have from 0 to {MOST_ROWS} rows")


def _within(column: np.ndarray, most: int) -> bool:
    return bool(((column >= 0) & (column <= most)).all())
