"""What was pressed while a video was recorded, from a log beside it: CSV, JSON lines, or NumPy.

A row says what was pressed from one moment to the next. Rows belong to the video's frames one by
one, or to the seconds in their column `time`, from the video's first frame. In JSON lines, objects
inside a row become columns as in `mouse.dx`, and a list of names one column for each name, 1 while
it is listed:

    {"time": 0.35, "keys": ["w", "left shift"], "mouse": {"dx": -3.5}}

A NumPy array has a row for each frame: of an action's index, or of several numbers.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import UserError, one_line
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.controls import MOST_BINDINGS, is_key
from worldmodel.storage.files import parse_json, read_bytes

SUFFIXES = (".csv", ".jsonl", ".npy")
MOST_BYTES = 2**28  # of a log
MOST_CHOICES = 1000  # of a column of names or whole numbers
TIME, REWARD, TERMINATED = "time", "reward", "terminated"
ROUNDING_S = 1e-6

Value = float | str


@dataclass(frozen=True)
class Roles:
    """What columns are for. The others are the action's, or those of `actions`.

    Attributes:
        actions: the action's columns, in this order; empty: all that have no other role.
        summed: columns of an action that are added up when several rows fall on one step, such as
            a mouse's motion.
        variables: numbers to predict.
        pose: the player's pose.
    """

    actions: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    pose: tuple[str, ...] = ()


@dataclass(frozen=True)
class Log:
    """The rows of one log, in order of time.

    Attributes:
        path: of the file.
        columns: values of each column, one per row: float64, or names.
        times: seconds of each row; None: they belong to the frames one by one.
        listed: columns that stand for names in lists: 0 where a log has none.
    """

    path: Path
    columns: Mapping[str, np.ndarray]
    times: np.ndarray | None
    listed: frozenset[str] = frozenset()

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self, num_frames: int, *, rate: float, own_rate: float) -> "Rows":
        """Which rows belong to the frames of a video that are shown at 0, 1/rate, 2/rate, ...
        seconds.

        Args:
            own_rate: frames a second of the video itself, to which rows without times belong.
        """
        times, tolerance = self.times, ROUNDING_S
        if times is None:  # a frame's row is the one nearest to it
            times = np.arange(self.num_rows) / own_rate
            tolerance = 0.49 * min(1 / rate, 1 / own_rate)
        shown = np.arange(num_frames) / rate
        at = np.searchsorted(times, shown + tolerance, side="right") - 1
        return Rows(np.maximum(at, 0), np.searchsorted(times, shown - tolerance, side="left"))

    def check_times(self, video_s: float) -> None:
        """Raises UserError where rows with times are not of a video of so many seconds."""
        if self.times is None:
            return
        first, last = float(self.times[0]), float(self.times[-1])
        if first > video_s or last > 10 * video_s + 60:
            raise UserError(
                f"{self.path}: its times are from {first:g} to {last:g}, but the video lasts "
                f"{video_s:.1f} seconds: time must be in seconds from the video's first frame, not "
                "in milliseconds or by the clock"
            )

    def duration(self, own_rate: float) -> float:
        """Seconds to its last row."""
        return self.num_rows / own_rate if self.times is None else float(self.times[-1])


@dataclass(frozen=True)
class Rows:
    """A log's rows by the T+1 frames of a video.

    Attributes:
        at: (T+1,) the row that holds at each frame.
        first: (T+1,) the first row that begins at or after each frame.
    """

    at: np.ndarray
    first: np.ndarray

    def after(self, start: int) -> "Rows":
        """Those of the frames from number `start` on."""
        return Rows(self.at[start:], self.first[start:])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(T,) a column added up over each step."""
        total = np.concatenate([[0.0], np.cumsum(values)])
        return total[self.first[1:]] - total[self.first[:-1]]


def log_beside(video: Path) -> Path | None:
    """The log with a video's name; None: there is none.

    Raises:
        UserError: there are several.
    """
    found = [path for suffix in SUFFIXES if (path := video.with_suffix(suffix)).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{video} has several logs of actions: {names}")
    return found[0] if found else None


def read_log(path: Path) -> Log:
    """Read a log.

    Raises:
        UserError: it can't be read, has no rows, or its rows lack values, go back in time, or hold
            what is neither a finite number nor a name.
    """
    listed: set[str] = set()
    try:
        if path.suffix == ".npy":
            columns = _array_columns(path)
        else:
            content = read_bytes(path, most_bytes=MOST_BYTES).decode("utf-8-sig")
            if path.suffix == ".csv":
                columns = _csv_columns(content)
            else:
                columns = _json_columns(content, listed)
        times = columns.pop(TIME, None)
        if times is not None and (times.dtype.kind != "f" or (np.diff(times) < 0).any()):
            raise ValueError("column time must hold seconds, which don't go back")
        if not columns:
            raise ValueError("it has no row of actions")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is no log of actions: {one_line(error)}") from None
    return Log(path, columns, times, frozenset(listed))


def _csv_columns(content: str) -> dict[str, np.ndarray]:
    if not content.strip():
        raise ValueError("it is empty")
    names, *rows = csv.reader(io.StringIO(content), strict=True)
    names = [name.strip() for name in names]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("its first line must name the columns, each differently")
    if all(isinstance(_value(name), float) for name in names):
        raise ValueError("its first line must name the columns, not hold numbers")
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        raise ValueError("its columns must be separated by commas")
    for number, row in enumerate(rows, 2):
        if len(row) != len(names) or "" in row:
            raise ValueError(f"line {number} must have a value for each of the {len(names)} names")
    values = ([_value(text.strip()) for text in column] for column in zip(*rows, strict=True))
    return {name: _array(name, column) for name, column in zip(names, values, strict=bool(rows))}


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        return float(text)
    except ValueError:
        return text


def _json_columns(content: str, listed: set[str]) -> dict[str, np.ndarray]:
    """The columns; adds those of names in lists to `listed`."""
    rows: list[dict[str, Value]] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = parse_json(line) if line.strip() else {}
        except ValueError as error:
            raise ValueError(f"line {number} is no valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
        if row:
            rows.append(dict(_flat(row, "", listed)))
    names = dict.fromkeys(name for row in rows for name in row)
    for name in names.keys() - listed:
        if not all(name in row for row in rows):
            raise ValueError(f"{name!r} is missing from some lines")
    return {name: _array(name, [row.get(name, 0.0) for row in rows]) for name in names}


def _flat(row: Mapping[str, Any], prefix: str, listed: set[str]) -> Iterator[tuple[str, Value]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.", listed)
        elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            # With shift, loggers write capitals: it is the same key.
            keys = [entry.lower() if len(entry) == 1 else entry for entry in value]
            listed.update(keys)
            yield from ((key, 1.0) for key in keys)
        elif isinstance(value, bool | int | float):
            yield prefix + name, float(value)
        elif isinstance(value, str) and name in ("keys", "buttons"):
            raise ValueError(f"{prefix}{name} must be a list of the keys that are down")
        elif isinstance(value, str):
            yield prefix + name, value
        else:
            raise ValueError(f"{prefix}{name} must be a number, a name or a list of names")


def _array_columns(path: Path) -> dict[str, np.ndarray]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parser raises many kinds
        raise ValueError(one_line(error)) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError("an array of numbers is needed")
    if array.ndim not in (1, 2) or array.nbytes > MOST_BYTES:
        raise ValueError(f"an array (T,) or (T, A) is needed, not {array.shape}")
    if array.ndim == 1:
        return {"action": _numbers("action", array)} if len(array) else {}
    names = [f"action {i}" for i in range(array.shape[1])]
    return {name: _numbers(name, column) for name, column in zip(names, array.T, strict=True)}


def _array(name: str, values: Sequence[Value]) -> np.ndarray:
    texts = [number for number, value in enumerate(values, 1) if isinstance(value, str)]
    if 0 < len(texts) < len(values):
        raise ValueError(
            f"column {name} holds numbers, but {values[texts[0] - 1]!r} in its row {texts[0]}"
        )
    if texts:
        return np.asarray(values)
    return _numbers(name, values)


def _numbers(name: str, values: Sequence[Value] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"column {name} holds numbers that are not finite")
    return array


class ActionLogs:
    """How the logs of a data set become actions, which all of them share.

    Args:
        logs: all of them, each with the frames a second of its video.
        roles: what columns are for.
        rate: steps a second of the data set.

    Attributes:
        spec: of the actions: one column of names or of whole numbers is discrete, several of them
            are multi-discrete, and with a real number or a sum among them all are a box.
        controls: keys for people who play, where columns have the names of keys, as JSON.
        columns: the action's.
        choices: the names in a column, in order.
        ranges: of a column of numbers: its lowest and highest in a step, and whether all are whole.

    Raises:
        UserError: a log lacks a column, or the action's columns can't be one action.
    """

    def __init__(self, logs: Iterable[tuple[Log, float]], roles: Roles, *, rate: float) -> None:
        self.roles, self.rate = roles, rate
        named: dict[str, set[str]] = {}
        self.ranges: dict[str, tuple[float, float, bool]] = {}
        columns_of: dict[Path, set[str]] = {}
        listed: set[str] = set()
        for log, own_rate in logs:
            columns_of[log.path] = set(log.columns)
            listed |= log.listed
            for name, values in log.columns.items():
                if values.dtype.kind == "U":
                    named.setdefault(name, set()).update(values.tolist())
                    continue
                if name in roles.summed:
                    num_frames = int(log.duration(own_rate) * rate) + 2
                    values = log.rows(num_frames, rate=rate, own_rate=own_rate).sums(values)
                self.ranges[name] = _wider(self.ranges.get(name), values)
        if mixed := sorted(set(named) & set(self.ranges)):
            raise UserError(f"column {mixed[0]} holds names in some logs and numbers in others")
        numbers = {REWARD, TERMINATED, *roles.variables, *roles.pose}
        if wrong := sorted(numbers & set(named)):
            raise UserError(f"column {wrong[0]} must hold numbers, not {min(named[wrong[0]])!r}")
        self.columns = roles.actions or tuple(
            name for name in (*self.ranges, *named) if name not in numbers
        )
        if not self.columns:
            raise UserError("the logs have no column of actions")
        for path, columns in columns_of.items():
            wanted = {*self.columns, *roles.summed, *roles.variables, *roles.pose}
            if lacking := sorted(wanted - columns - listed):
                others = sum(lacking[0] in own for own in columns_of.values())
                raise UserError(
                    f"{path} has no column {lacking[0]!r}; it has: {', '.join(sorted(columns))}. "
                    f"{others} of {len(columns_of)} logs have {lacking[0]!r}"
                )
        self.choices = {name: tuple(sorted(named[name])) for name in self.columns if name in named}
        self.spec = self._spec()
        self.controls = self._controls()

    def _spec(self) -> ActionSpec:
        ranges = {name: self.ranges[name] for name in self.columns if name in self.ranges}
        reals = [
            name
            for name, (low, _, is_whole) in ranges.items()
            if low < 0 or not is_whole or name in self.roles.summed
        ]
        if reals and self.choices:
            names, real = next(iter(self.choices)), reals[0]
            raise UserError(
                f"column {names} holds names and {real} real numbers: choose among them with "
                "--action-columns"
            )
        if reals:
            ends = [low_high[:2] for low_high in ranges.values()]
            return ActionSpec(
                "box",
                low=tuple(low if low < high else low - 1 for low, high in ends),
                high=tuple(high if low < high else high + 1 for low, high in ends),
                meanings=self.columns,
            )
        sizes = []
        for name in self.columns:
            size = len(self.choices.get(name, ())) or int(ranges[name][1]) + 1
            if size > MOST_CHOICES:
                raise UserError(f"column {name} has {size} values, more than {MOST_CHOICES}")
            sizes.append(size if len(self.columns) == 1 else max(size, 2))
        if len(sizes) == 1:
            (name,) = self.columns
            is_button = name in ranges and sizes[0] == 2
            names = ("nothing", name) if is_button else self.choices.get(name, ())
            return ActionSpec("discrete", tuple(sizes), meanings=names)
        choices = tuple(self.choices.get(name, ()) for name in self.columns)
        return ActionSpec(
            "multi_discrete",
            tuple(sizes),
            meanings=self.columns,
            choices=choices if any(choices) else (),
        )

    def _controls(self) -> dict[str, Any]:
        """Each column that has a key's name is that key."""
        spec = self.spec
        if spec.kind == "discrete" and self.columns[0] in self.choices:
            return {}
        bindings = [
            {"keys": [name], "sets": {str(i): 1}}
            for i, name in enumerate(self.columns)
            if is_key(name) and self.ranges.get(name, (0.0, 0.0, True))[:2] == (0.0, 1.0)
        ]
        idle: Any = [0] * len(spec.sizes) or np.clip(0.0, spec.low, spec.high).tolist()
        if spec.kind == "discrete":
            idle = 0
        return {"idle": idle, "keys": bindings[:MOST_BINDINGS]} if bindings else {}

    def actions(self, log: Log, rows: Rows) -> np.ndarray:
        """(T, *shape) of a log: keys that were down at any time of a step; numbers and names as at
        its beginning, except numbers that are summed."""
        columns = np.stack([self._column(log, name, rows) for name in self.columns], 1)
        if self.spec.kind == "discrete":
            return columns[:, 0].astype(self.spec.dtype)
        if self.spec.kind == "box":
            columns = np.clip(columns, self.spec.low, self.spec.high)
        return columns.astype(self.spec.dtype)

    def _column(self, log: Log, name: str, rows: Rows) -> np.ndarray:
        values = log.columns.get(name)
        if values is None:  # a key that was never pressed here
            return np.zeros(len(rows.at) - 1)
        held = values[rows.at[:-1]]
        if name in self.choices:
            return np.searchsorted(self.choices[name], held).astype(np.float64)
        if name in self.roles.summed:
            return rows.sums(values)
        if self.ranges[name] == (0.0, 1.0, True):  # a tap between two frames counts
            return np.maximum(held, rows.sums(values) > 0)
        return held


def _wider(
    known: tuple[float, float, bool] | None, values: np.ndarray
) -> tuple[float, float, bool]:
    low, high = float(values.min()), float(values.max())
    is_whole = bool((values == np.rint(values)).all())
    if known is None:
        return low, high, is_whole
    return min(low, known[0]), max(high, known[1]), is_whole and known[2]
