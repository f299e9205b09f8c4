"""What is wrong with a LeRobot data set, or a command, is said in one line."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import one_line_error
from data_samples import write_samples

if importlib.util.find_spec("pyarrow") is None:
    pytest.skip("pyarrow is an extra", allow_module_level=True)

import numpy as np
from lerobot_sets import TOP, WRIST, change_column, write_set

from worldmodel.data.__main__ import main
from worldmodel.data.importers.lerobot import ImportLeRobot
from worldmodel.data.lerobot_export import ExportLeRobot
from worldmodel.errors import UserError


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("theirs") / "pushing")


def change_json(name: str, **entries: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / f"meta/{name}.json"
        data = json.loads(path.read_text())
        for entry, value in entries.items():
            *above, last = entry.split("__")
            inner = data
            for key in above:
                inner = inner[key]
            inner[last] = value
        path.write_text(json.dumps(data))

    return changed


def cut(pattern: str, length: int = 100) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = next(iter(sorted(folder.glob(pattern))))
        path.write_bytes(path.read_bytes()[:length])

    return changed


def remove(pattern: str) -> Callable[[Path], None]:
    return lambda folder: next(iter(sorted(folder.glob(pattern)))).unlink()


MALFORMED: list[tuple[Callable[[Path], None], str]] = [
    (remove("meta/info.json"), "has no meta/info.json"),
    (cut("meta/info.json"), "is no valid JSON"),
    (change_json("info", codebase_version="v2.1"), "codebase_version is 'v2.1'; v3.0 is read"),
    (change_json("info", fps=0), "fps must be from"),
    (change_json("info", fps="fast"), "fps should be a valid number"),
    (change_json("info", total_episodes=5), "lists 4 episodes; meta/info.json says 5"),
    (change_json("info", data_path="{chunk_index.__class__}"), "its files must lie at"),
    (change_json("info", video_path="/etc/{video_key}"), "its files must lie at"),
    (change_json("info", features={"../x": {"dtype": "video", "shape": [1]}}), "has a slash"),
    (change_json("info", features={}), "has no camera"),
    (change_json("info", features__action__shape=[2, 2]), "not a row of numbers"),
    (change_json("info", features__action__shape=[3]), "has 2 and 2 limits, not 3"),
    (change_json("info", features__action__dtype="image"), "not a row of numbers"),
    (change_json("info", videogpt_dream={"format_version": 7}), "format version 7 is not 1"),
    (remove("meta/stats.json"), "stats.json does not exist"),
    (change_json("stats", action={"min": [0, 0]}), "it lacks max"),
    (change_json("stats", action={"min": [0, 0], "max": [-1, 0]}), "not an action space"),
    (remove("meta/episodes/*/*"), "0 files that list its episodes"),
    (cut("meta/episodes/*/*"), "is damaged, or no Parquet file"),
    (change_column("data/file_index", lambda c: c - 1), "is not from 0 to"),
    (change_column("data/file_index", lambda c: c / 2), "holds float64, not whole numbers"),
    (change_column("data/file_index", lambda c: ["x"] * len(c)), "numbers are needed"),
    (change_column("episode_index in episodes", lambda c: c[::-1]), "numbered from 0 in order"),
    (change_column("dataset_to_index", lambda c: c + 10**9), "does not have from 0 to"),
    (change_column("dataset_to_index", lambda c: c + 5), "should be episode 0, in order"),
    (change_column("dataset_to_index", lambda c: c + 99), "rows 0 to 104 are needed"),
    (change_column(f"videos/{TOP}/from_timestamp", lambda c: c + 99), "has no frame at 99.000"),
    (change_column(f"videos/{TOP}/from_timestamp", lambda c: c * np.nan), "is not from 0 to"),
    (remove("data/*/*"), "file-000.parquet does not exist"),
    (cut("data/*/*"), "is damaged, or no Parquet file"),
    (change_column("action", lambda c: [[1.0]] * len(c)), "rows that are not 2 numbers"),
    (change_column("action", lambda c: [1.0] * len(c)), "not 2 numbers a row"),
    (change_column("action", lambda c: [None] * len(c)), "not 2 numbers a row"),
    (change_column("action", lambda c: [[1.0, None]] * len(c)), "lacks a value"),
    (change_column("next.reward", lambda c: ["1"] * len(c)), "numbers are needed"),
    (change_column("frame_index", lambda c: c + 1), "should be episode 0, in order"),
    (change_column("timestamp", lambda c: c * 0), "timestamps of episode 0 don't rise"),
    (remove("videos/*/*/*"), "file-000.mp4 does not exist"),
    (cut("videos/*/*/*", 500), "is damaged"),
]


@pytest.mark.parametrize(("change", "said"), MALFORMED, ids=[said for _, said in MALFORMED])
def test_a_malformed_set_is_refused_in_one_line(
    change: Callable[[Path], None], said: str, tmp_path: Path
):
    source = write_set(tmp_path / "theirs")
    change(source)
    with pytest.raises(UserError, match=re.escape(said)):
        ImportLeRobot(source, tmp_path / "set", TOP, size=8).run()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is no PNG or JPEG, or damaged"),
        (None, "is not a picture"),
    ],
)
def test_a_damaged_picture_is_refused(content: bytes | None, said: str, tmp_path: Path):
    source = write_set(tmp_path / "theirs")
    change_column(WRIST, lambda c: [{"bytes": content, "path": "/etc/passwd"}] * len(c))(source)
    if content is None:
        change_column(WRIST, lambda c: [*c[:-1], {"bytes": b"", "path": ""}])(source)
    with pytest.raises(UserError, match=said):
        ImportLeRobot(source, tmp_path / "set", WRIST, size=8).run()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lerobot", "nowhere", "--out", "OUT"), "nowhere has no meta/info.json"),
        (("lerobot", "THEIRS", "--out", "OUT"), f"choose one with --camera: {TOP}, {WRIST}"),
        (("lerobot", "THEIRS", "--out", "OUT", "--camera", "top"), "there is no 'top'"),
        (
            ("lerobot", "THEIRS", "--out", "OUT", "--camera", TOP, "--variables", "z"),
            "observation.state has no 'z'; it has x, y, grip",
        ),
        (("lerobot", "THEIRS", "--out", "OUT", "--camera", TOP, "--sum", "w"), "it has dx, dy"),
        (("lerobot", "THEIRS", "--out", "OUT", "--every", "0"), "--every must be from 1"),
        (("lerobot", "OURS", "--out", "OUT", "--size", "32"), "leave --size out"),
        (("export-lerobot", "nowhere", "OUT"), "nowhere does not exist: no data set is there"),
        (("export-lerobot", "DATA", "OURS"), "already exists"),
        (("export-lerobot", "DATA", "/proc/x/y"), "cannot write to"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], said: str, theirs: Path, tmp_path: Path, monkeypatch
):
    data = write_samples(tmp_path / "data", range(3))
    ExportLeRobot(data, tmp_path / "ours").run()
    paths = {"THEIRS": theirs, "OURS": tmp_path / "ours", "OUT": tmp_path / "out", "DATA": data}
    line = [str(paths.get(argument, argument)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["worldmodel.data", *line])
    assert said in one_line_error(main)


@pytest.mark.parametrize("command", ["lerobot", "export-lerobot"])
def test_without_pyarrow_it_says_how_to_install_it(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = ["--out", str(tmp_path)] if command == "lerobot" else [str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["worldmodel.data", command, "x", *out])
    assert one_line_error(main).endswith("pip install pyarrow")
