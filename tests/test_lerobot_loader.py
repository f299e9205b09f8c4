"""LeRobot's own loader reads what is exported, and what its writer writes is imported.

LeRobot and this project need different versions of the same packages, so it gets an environment of
its own: LEROBOT_VENV, or one in the user's cache, which is made by the first test.
"""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_samples import imported
from test_lerobot import ACTIONS, VARIETY, write

from worldmodel.data import EpisodeReader
from worldmodel.data.importers.lerobot import ImportLeRobot
from worldmodel.data.lerobot_export import ExportLeRobot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is an extra"),
]
SCRIPT = Path(__file__).with_name("lerobot_loader.py")
CACHE = Path.home() / ".cache" / "videogpt-dream" / "lerobot-venv"
# torchvision and torchcodec as they belong to this torch.
PACKAGES = ("lerobot-dataset==0.4.4", "torch==2.13.0")
BESIDE_TORCH = ("torchvision==0.28.0", "torchcodec==0.13.0")
CASES = {
    **{name: VARIETY[name] for name in (*ACTIONS, "grey", "odd sides", "no variables", "slow")},
    "larger": replace(VARIETY["choices"], frame_shape=(64, 48, 3), fps=12.5),
}


@pytest.fixture(scope="module")
def environment() -> Path:
    """An environment with LeRobot's loader."""
    folder = Path(os.environ.get("LEROBOT_VENV", CACHE))
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for packages in (PACKAGES, ("--no-deps", *BESIDE_TORCH)):
            pip = [str(folder / "bin/pip"), "install", "--quiet", *packages]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"LeRobot can't be installed here: {done.stderr[-500:]}")
        _link_ffmpeg(folder)
        (folder / "complete").touch()
    return folder


def _link_ffmpeg(environment: Path) -> None:
    """Give torchcodec the FFmpeg that PyAV brings, whose files have names of their own."""
    (libraries,) = environment.glob("lib/*/site-packages/av.libs")
    links = environment / "ffmpeg"
    links.mkdir()
    for path in libraries.iterdir():
        (links / path.name).symlink_to(path)
        if found := re.fullmatch(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+)\.[\d.]+", path.name):
            (links / "".join(found.groups())).symlink_to(path)


def run(environment: Path, *arguments: object) -> None:
    done = subprocess.run(
        [str(environment / "bin/python"), str(SCRIPT), *map(str, arguments)],
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "LD_LIBRARY_PATH": str(environment / "ffmpeg"),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(environment / "huggingface"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def read(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each case as recorded (NAME), and as LeRobot's loader read it (NAME.npz)."""
    folder = tmp_path_factory.mktemp("lerobot")
    arguments: list[Path] = []
    for name, info in CASES.items():
        data = write(folder / name, info)
        ExportLeRobot(data, folder / f"{name} exported", lossless=True, task="do it").run()
        arguments += [folder / f"{name} exported", folder / f"{name}.npz"]
    lossy = folder / "lossy"
    ExportLeRobot(folder / "larger", lossy).run()
    run(environment, "read", *arguments, lossy, folder / "lossy.npz")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_lerobot_reads_what_was_recorded(name: str, read: Path):
    reader = EpisodeReader(read / name)
    episodes = [reader.episode(i) for i in range(len(reader))]
    theirs = np.load(read / f"{name}.npz")
    assert theirs["lengths"].tolist() == [episode.length + 1 for episode in episodes]
    pixels = theirs["observation.images.camera"]  # float32 (rows, 3, H, W), 0 to 1
    frames = np.concatenate([episode.frames for episode in episodes])
    assert pixels.shape == (len(frames), 3, *reader.info.frame_shape[:2])
    seen = (pixels * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(seen, np.broadcast_to(frames, seen.shape))

    is_action = theirs["next.exists"]
    ours = {
        "action": np.concatenate([episode.action for episode in episodes]),
        "next.reward": np.concatenate([episode.reward for episode in episodes]),
        "next.done": np.concatenate([episode.terminated for episode in episodes]),
        "next.truncated": np.concatenate([episode.truncated for episode in episodes]),
    }
    for column, values in ours.items():
        stored = theirs[column][is_action]
        np.testing.assert_array_equal(stored.reshape(values.shape), values, err_msg=column)
        assert stored.dtype == values.dtype
    assert not theirs["next.reward"][~is_action].any()
    if reader.info.variable_names:
        variables = np.concatenate([episode.variables for episode in episodes])
        np.testing.assert_array_equal(theirs["observation.state"], variables)
    frame_index = np.concatenate([np.arange(episode.length + 1) for episode in episodes])
    np.testing.assert_array_equal(theirs["frame_index"], frame_index)
    np.testing.assert_allclose(theirs["timestamp"], frame_index / reader.info.fps, rtol=1e-6)
    assert set(theirs["tasks"]) == {"do it"}
    largest = ours["action"].reshape(len(ours["action"]), -1).max(0)
    np.testing.assert_array_equal(theirs["action_max"], largest)


def test_lerobot_reads_windows(read: Path):
    reader = EpisodeReader(read / "larger")
    first, theirs = reader.episode(0), np.load(read / "larger.npz")
    assert first.length == 4
    seen = (theirs["window_frames"] * 255).round().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(seen, first.frames[:2])
    np.testing.assert_array_equal(theirs["window_actions"].ravel(), first.action[1:4])


def test_lerobot_reads_films_that_are_not_exact(read: Path):
    exact, theirs = np.load(read / "larger.npz"), np.load(read / "lossy.npz")
    np.testing.assert_array_equal(theirs["action"], exact["action"])
    np.testing.assert_array_equal(theirs["timestamp"], exact["timestamp"])
    assert theirs["observation.images.camera"].shape == exact["observation.images.camera"].shape


@pytest.mark.parametrize(("camera", "tolerance"), [("top", 3), ("wrist", 0)])
def test_what_lerobot_writes_is_imported(
    environment: Path, tmp_path: Path, camera: str, tolerance: int
):
    """Films of the top camera are AV1; the wrist's frames are PNG."""
    run(environment, "write", tmp_path / "theirs")
    camera = f"observation.images.{camera}"
    imported(
        ImportLeRobot(
            tmp_path / "theirs", tmp_path / "set", camera, 32, variables=("grip",), pose=("x", "y")
        )
    )
    reader = EpisodeReader(tmp_path / "set")
    actions = np.random.default_rng(0).uniform(-1, 1, (19, 2)).astype(np.float32)
    first_row = 0
    for i, num_rows in enumerate((5, 8, 6)):
        episode, rows = reader.episode(i), np.arange(num_rows)
        assert episode.length == num_rows - 1
        greys = 60 * i + 10 * rows
        greys = greys if camera.endswith("top") else 255 - greys
        difference = episode.frames.astype(int) - greys[:, None, None, None]
        assert np.abs(difference).max() <= tolerance
        taken = actions[first_row : first_row + num_rows]
        np.testing.assert_array_equal(episode.action, taken[:-1])
        assert episode.reward.tolist() == [*rows[:-2], 2 * num_rows - 3]
        assert episode.terminated.tolist() == [False] * (num_rows - 2) + [True]
        np.testing.assert_array_equal(episode.variables[:, 0], rows / 2)
        np.testing.assert_array_equal(episode.pose, np.stack([rows, rows * 0 + i], 1))
        first_row += num_rows
    np.testing.assert_array_equal(reader.info.actions.low, actions.min(0))
    np.testing.assert_array_equal(reader.info.actions.high, actions.max(0))
