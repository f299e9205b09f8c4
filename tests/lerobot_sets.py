"""LeRobot data sets, version 3, written by hand for tests: two cameras, two chunks."""

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS = 10
LENGTHS = (5, 8, 6, 4)  # rows of the episodes
FILES = ((0, 0), (0, 0), (0, 1), (1, 0))  # chunk and file of each
TOP, WRIST = "observation.images.top", "observation.images.wrist"
HEIGHT, WIDTH = 16, 24


def level(episode: int, row: int) -> int:
    """The grey of the top camera's frame; the wrist's is 255 less."""
    return 40 * episode + 5 * row


def columns_of(episode: int, first_index: int) -> dict[str, np.ndarray]:
    rows = np.arange(LENGTHS[episode])
    rng = np.random.default_rng(episode)
    return {
        "observation.state": np.stack([rows, rows * 0 + episode, -rows / 2], 1).astype(np.float32),
        "action": rng.uniform(-1, 1, (len(rows), 2)).astype(np.float32),
        "next.reward": (rows + 1).astype(np.float32),
        "next.done": rows == len(rows) - 1,
        "timestamp": (rows / FPS).astype(np.float32),
        "frame_index": rows,
        "episode_index": np.full(len(rows), episode),
        "index": first_index + rows,
        "task_index": np.zeros(len(rows), np.int64),
    }


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return file.getvalue()


def write_film(path: Path, levels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", Fraction(FPS), options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgb24"
        for grey in levels:
            frame = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_set(folder: Path, *, fewer: tuple[str, ...] = ()) -> Path:
    """A set whose top camera is films and whose wrist camera is pictures in Parquet.

    Args:
        fewer: columns to leave out.
    """
    index: list[dict[str, Any]] = []
    tables: dict[tuple[int, int], list[pa.Table]] = {}
    films: dict[tuple[int, int], list[int]] = {}
    first_index = 0
    for episode, file in enumerate(FILES):
        columns = columns_of(episode, first_index)
        films.setdefault(file, [])
        chunk, number = file
        index.append(
            {
                "episode_index": episode,
                "tasks": ["push"],
                "length": LENGTHS[episode],
                "dataset_from_index": first_index,
                "dataset_to_index": first_index + LENGTHS[episode],
                "data/chunk_index": chunk,
                "data/file_index": number,
                f"videos/{TOP}/chunk_index": chunk,
                f"videos/{TOP}/file_index": number,
                f"videos/{TOP}/from_timestamp": len(films[file]) / FPS,
                f"videos/{TOP}/to_timestamp": (len(films[file]) + LENGTHS[episode]) / FPS,
            }
        )
        first_index += LENGTHS[episode]
        greys = [level(episode, row) for row in range(LENGTHS[episode])]
        films[file] += greys
        pictures = [np.full((HEIGHT, WIDTH, 3), 255 - grey, np.uint8) for grey in greys]
        arrays = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            if values.ndim == 2
            else pa.array(values)
            for name, values in columns.items()
            if name not in fewer
        }
        stored = [{"bytes": png(picture), "path": "frame.png"} for picture in pictures]
        tables.setdefault(file, []).append(pa.table({WRIST: stored, **arrays}))
    for (chunk, number), parts in tables.items():
        path = folder / f"data/chunk-{chunk:03d}/file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(parts), path, row_group_size=3)
        write_film(
            folder / f"videos/{TOP}/chunk-{chunk:03d}/file-{number:03d}.mp4", films[chunk, number]
        )
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(index), path)
    (folder / "meta/info.json").write_text(json.dumps(described(first_index, fewer)))
    (folder / "meta/stats.json").write_text(json.dumps(statistics()))
    return folder


def described(num_rows: int, fewer: tuple[str, ...]) -> dict[str, Any]:
    def feature(dtype: str, *shape: int, names: Any = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "names": names}

    features = {
        TOP: feature("video", HEIGHT, WIDTH, 3, names=["height", "width", "channels"]),
        WRIST: feature("image", HEIGHT, WIDTH, 3, names=["height", "width", "channels"]),
        "observation.state": feature("float32", 3, names=["x", "y", "grip"]),
        "action": feature("float32", 2, names={"motors": ["dx", "dy"]}),
        "next.reward": feature("float32", 1),
        "next.done": feature("bool", 1),
        "timestamp": feature("float32", 1),
        "frame_index": feature("int64", 1),
        "episode_index": feature("int64", 1),
        "index": feature("int64", 1),
        "task_index": feature("int64", 1),
    }
    return {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(LENGTHS),
        "total_frames": num_rows,
        "fps": FPS,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {name: value for name, value in features.items() if name not in fewer},
    }


def statistics() -> dict[str, Any]:
    actions = np.concatenate([columns_of(episode, 0)["action"] for episode in range(len(LENGTHS))])
    ends = {"min": actions.min(0).tolist(), "max": actions.max(0).tolist()}
    return {"action": {**ends, "mean": [0, 0]}, "next.done": {"min": [False], "max": [True]}}


def change_column(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """Changes a column of the first file of rows or, where the name has a slash, of episodes."""

    def changed(folder: Path) -> None:
        is_index = "/" in name or name.startswith(("dataset", "episode_index in"))
        of = "meta/episodes" if is_index else "data"
        path = folder / of / "chunk-000/file-000.parquet"
        table, column = pq.read_table(path), name.removesuffix(" in episodes")
        values = table.column(column).to_pylist()
        place = table.schema.names.index(column)
        new = change(np.array(values, object) if column == WRIST else np.array(values))
        new = new.tolist() if isinstance(new, np.ndarray) else new
        pq.write_table(table.set_column(place, column, pa.array(new)), path)

    return changed
