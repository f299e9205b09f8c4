"""The files of a LeRobot data set, written from ours. Imports pyarrow, which is an extra.

Time: LeRobot has a row for each frame, we have one frame more than actions. So an episode of T
actions becomes T+1 rows. The last one holds the last frame; action and end are those of the row
before, the reward is 0, and `next.exists` is false.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.command import progress_bar
from worldmodel.data.episodes import DatasetInfo, Episode
from worldmodel.data.importers.lerobot_files import (
    ACTION,
    DATA_PATH,
    DONE,
    EPISODES_PATH,
    FILM_PATH,
    INFO_PATH,
    OUR_ID,
    OUR_INFO,
    OUR_POLICY,
    OUR_SEED,
    REWARD,
    STATE,
    STATS_PATH,
    TASKS_PATH,
    TRUNCATED,
    VERSION,
)
from worldmodel.data.reader import EpisodeReader
from worldmodel.media.film import coloured
from worldmodel.storage.files import write_json

CAMERA = "observation.images.camera"
EXISTS = "next.exists"
FILES_PER_CHUNK = 1000
MOST_DATA_MB, MOST_FILM_MB = 100, 200  # of a file, after which another is begun, as LeRobot does
# LeRobot compares times as float32, to 0.1 ms: above 1024 seconds some differ by more.
MOST_FILM_S = 1000.0
SAMPLED_FRAMES = 8  # or some more, of an episode, for the statistics of colours


class SetWriter:
    """Writes a data set's episodes, in order, to files that several share."""

    def __init__(self, folder: Path, info: DatasetInfo, task: str, *, lossless: bool) -> None:
        self._folder = folder
        self._info = info
        self._task = task
        self._lossless = lossless
        # As a fraction, so that times in films are exact.
        self._rate = Fraction(info.fps).limit_denominator(1000)
        self._features = _features(info)
        self._schema = _schema(self._features)
        self._stats = {name: _Moments() for name in (*self._features, CAMERA)}
        self._index: dict[str, list[Any]] = {}  # columns about episodes
        self._num_rows = 0

    def write(self, reader: EpisodeReader) -> None:
        """Raises OSError or FFmpegError where a file can't be written."""
        data, film = _DataFile(self._folder, self._schema), self._new_film(0)
        try:
            with progress_bar() as bar:
                for i in bar.track(range(len(reader)), description="exporting"):
                    episode = reader.episode(i)
                    if data.is_full:
                        data.close()
                        data = _DataFile(self._folder, self._schema, data.number + 1)
                    if not film.has_room(len(episode.frames)):
                        film.close()
                        film = self._new_film(film.number + 1)
                    self._append(i, episode, data, film)
        finally:
            data.close()
            film.close()
        self._write_meta(film)

    def _new_film(self, number: int) -> "_FilmFile":
        return _FilmFile(
            self._folder, self._info.frame_shape, self._rate, number, lossless=self._lossless
        )

    def _append(self, i: int, episode: Episode, data: "_DataFile", film: "_FilmFile") -> None:
        columns = _rows(episode, i, self._num_rows, float(self._rate))
        for name in self._features:
            self._stats[name].add(columns[name].reshape(len(episode.frames), -1))
        sampled = coloured(episode.frames[:: max(1, len(episode.frames) // SAMPLED_FRAMES)])
        self._stats[CAMERA].add(sampled.reshape(-1, 3) / 255)
        begin, end = self._num_rows, self._num_rows + len(episode.frames)
        begin_s, end_s = film.append(coloured(episode.frames))
        data.append(columns)
        self._num_rows = end
        about = {
            "episode_index": i,
            "tasks": [self._task],
            "length": end - begin,
            "dataset_from_index": begin,
            "dataset_to_index": end,
            **_place("data", data.number),
            **_place(f"videos/{CAMERA}", film.number),
            f"videos/{CAMERA}/from_timestamp": begin_s,
            f"videos/{CAMERA}/to_timestamp": end_s,
            **_place("meta/episodes", 0),
            OUR_ID: episode.episode_id,
            OUR_SEED: episode.seed,
            OUR_POLICY: episode.policy,
        }
        for name, value in about.items():
            self._index.setdefault(name, []).append(value)

    def _write_meta(self, film: "_FilmFile") -> None:
        _write_parquet(_path(self._folder, EPISODES_PATH, 0), pa.table(self._index))
        _write_parquet(self._folder / TASKS_PATH, _tasks(self._task))
        shaped = {name: moments.to_json() for name, moments in self._stats.items()}
        camera = shaped[CAMERA]  # LeRobot wants (3, 1, 1)
        for name in ("min", "max", "mean", "std"):
            camera[name] = [[[value]] for value in camera[name]]
        camera["count"] = [self._num_rows]  # frames, not pixels
        write_json(self._folder / STATS_PATH, shaped)
        num_episodes = len(self._index["episode_index"])
        fps = float(self._rate)
        described = {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": num_episodes,
            "total_frames": self._num_rows,
            "total_tasks": 1,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": MOST_DATA_MB,
            "video_files_size_in_mb": MOST_FILM_MB,
            "fps": int(fps) if fps.is_integer() else fps,
            "splits": {"train": f"0:{num_episodes}"},
            "data_path": DATA_PATH,
            "video_path": FILM_PATH,
            "features": {CAMERA: film.feature, **self._features},
            OUR_INFO: self._info.to_json(),
        }
        write_json(self._folder / INFO_PATH, described, indent=4)


def _features(info: DatasetInfo) -> dict[str, dict[str, Any]]:
    """The columns of numbers, as info.json describes them."""

    def feature(dtype: str, names: list[str] | None = None, size: int = 1) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [size], "names": names}

    components = [component.name for component in info.actions.components]
    state = [*info.variable_names, *info.pose.names]
    action = feature(np.dtype(info.actions.dtype).name, components, len(components))
    return {
        **({STATE: feature("float32", state, len(state))} if state else {}),
        ACTION: action,
        REWARD: feature("float32"),
        DONE: feature("bool"),
        TRUNCATED: feature("bool"),
        EXISTS: feature("bool"),
        "timestamp": feature("float32"),
        **{name: feature("int64") for name in ("frame_index", "episode_index", "index")},
        "task_index": feature("int64"),
    }


def _rows(episode: Episode, number: int, first_index: int, fps: float) -> dict[str, np.ndarray]:
    """The columns of numbers: T+1 rows, see above."""
    num_rows = len(episode.frames)
    frame_index = np.arange(num_rows)

    def with_last(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, values[-1:]])

    return {
        STATE: np.concatenate([episode.variables, episode.pose], 1),
        ACTION: with_last(episode.action),
        REWARD: np.append(episode.reward, np.float32(0)),
        DONE: with_last(episode.terminated),
        TRUNCATED: with_last(episode.truncated),
        EXISTS: frame_index < num_rows - 1,
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": np.full(num_rows, number),
        "index": first_index + frame_index,
        "task_index": np.zeros(num_rows, np.int64),
    }


def _schema(features: dict[str, dict[str, Any]]) -> Any:
    """The same in Parquet: LeRobot has no lists of one number."""
    kinds = {"bool": pa.bool_(), "float32": pa.float32(), "int64": pa.int64()}
    return pa.schema(
        (name, kinds[dtype] if size == 1 else pa.list_(kinds[dtype], size))
        for name, dtype, size in (
            (name, feature["dtype"], feature["shape"][0]) for name, feature in features.items()
        )
    )


def _tasks(task: str) -> Any:
    """The table of one task, with the note by which pandas takes its name for the row's."""
    index = "__index_level_0__"
    column = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    texts = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    note = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **column},
            {"name": None, "field_name": index, **texts},
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array([0], pa.int64()), index: [task]})
    return table.replace_schema_metadata({"pandas": json.dumps(note)})


def _write_parquet(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _place(of: str, number: int) -> dict[str, int]:
    """Chunk and file of a file's number."""
    chunk, file = divmod(number, FILES_PER_CHUNK)
    return {f"{of}/chunk_index": chunk, f"{of}/file_index": file}


def _path(folder: Path, pattern: str, number: int) -> Path:
    chunk, file = divmod(number, FILES_PER_CHUNK)
    path = folder / pattern.format(video_key=CAMERA, chunk_index=chunk, file_index=file)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class _DataFile:
    """A Parquet file of episodes, each a row group."""

    def __init__(self, folder: Path, schema: Any, number: int = 0) -> None:
        self.number = number
        self._schema = schema
        self._num_bytes = 0
        path = _path(folder, DATA_PATH, number)
        self._writer = pq.ParquetWriter(path, schema)

    @property
    def is_full(self) -> bool:
        return self._num_bytes >= MOST_DATA_MB * 2**20

    def append(self, columns: dict[str, np.ndarray]) -> None:
        arrays = []
        for field in self._schema:
            values = columns[field.name].reshape(-1)
            flat = pa.array(values)
            is_list = pa.types.is_fixed_size_list(field.type)
            size = field.type.list_size if is_list else 1
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, size) if is_list else flat)
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._num_bytes += table.nbytes
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class _FilmFile:
    """A film of episodes, one after another."""

    def __init__(
        self,
        folder: Path,
        frame_shape: tuple[int, int, int],
        rate: Fraction,
        number: int,
        *,
        lossless: bool,
    ) -> None:
        self.number = number
        self._rate = rate
        self._num_frames = 0
        self._num_bytes = 0
        path = _path(folder, FILM_PATH, number)
        self._container = av.open(str(path), "w", format="mp4")
        codec = "libx264rgb" if lossless else "libx264"
        # A key frame in two, as LeRobot does: frames are read in any order.
        options = {"g": "2", "bf": "0", **({"qp": "0"} if lossless else {"crf": "16"})}
        stream = self._container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frame_shape[:2]
        is_even = stream.height % 2 == stream.width % 2 == 0
        stream.pix_fmt = "rgb24" if lossless else "yuv420p" if is_even else "yuv444p"
        stream.codec_context.thread_count = 1
        self._stream = stream

    @property
    def feature(self) -> dict[str, Any]:
        """As info.json describes it."""
        height, width = self._stream.height, self._stream.width
        return {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "gbrp"
                if self._stream.pix_fmt == "rgb24"
                else self._stream.pix_fmt,
                "video.is_depth_map": False,
                "video.fps": float(self._rate),
                "video.channels": 3,
                "has_audio": False,
            },
        }

    def has_room(self, num_frames: int) -> bool:
        """Whether so many frames fit; into an empty film any number does."""
        is_long = (self._num_frames + num_frames) / self._rate > MOST_FILM_S
        is_large = self._num_bytes >= MOST_FILM_MB * 2**20
        return self._num_frames == 0 or not (is_long or is_large)

    def append(self, frames: np.ndarray) -> tuple[float, float]:
        """When the frames (T, H, W, 3) begin and end, in seconds."""
        begin_s = float(self._num_frames / self._rate)
        for frame in frames:
            self._encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
        self._num_frames += len(frames)
        return begin_s, float(self._num_frames / self._rate)

    def _encode(self, frame: av.VideoFrame | None) -> None:
        packets = self._stream.encode(frame)
        self._num_bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)

    def close(self) -> None:
        self._encode(None)
        self._container.close()


class _Moments:
    """Smallest, largest, mean and deviation of columns, added a few rows at a time. Unknown values,
    NaN, don't count."""

    def __init__(self) -> None:
        self._num_rows = 0
        self._parts: list[np.ndarray] = []  # of each addition (5, columns)

    def add(self, values: np.ndarray) -> None:
        """Rows (N, columns)."""
        known = np.isfinite(values)
        numbers = np.where(known, values, 0).astype(float)
        count = known.sum(0)
        mean = numbers.sum(0) / count.clip(1)
        squares = np.where(known, numbers - mean, 0) ** 2
        low, high = (np.where(known, numbers, end) for end in (np.inf, -np.inf))
        self._parts.append(np.stack([count, mean, squares.sum(0), low.min(0), high.max(0)]))
        self._num_rows += len(values)

    def to_json(self) -> dict[str, Any]:
        """As stats.json has them; 0 for a column without a known value."""
        count, mean, squares, low, high = np.stack(self._parts, 1)
        total = count.sum(0).clip(1)
        whole_mean = (count * mean).sum(0) / total
        # Within the additions, and between them.
        variance = (squares + count * (mean - whole_mean) ** 2).sum(0) / total
        is_known = count.sum(0) > 0
        return {
            "min": np.where(is_known, low.min(0), 0).tolist(),
            "max": np.where(is_known, high.max(0), 0).tolist(),
            "mean": whole_mean.tolist(),
            "std": np.sqrt(variance).tolist(),
            "count": [self._num_rows],
        }
