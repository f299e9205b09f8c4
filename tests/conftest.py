"""Shapes in signatures are checked while tests run, and only then."""

import contextlib
import io
import os
import subprocess

# One thread: what is compared to the bit must not depend on how a sum was shared out.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# Before shapes are checked: what is imported meanwhile is compiled anew in every process.
import lightning_fabric  # noqa: F401
import shape_checks

ROOT = Path(__file__).parents[1]
# The compiled kernels have no shapes in their signatures, and numba can't compile checks.
UNCHECKED = "worldmodel.prior.kernels"
modules = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "worldmodel").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
]
shape_checks.install([name for name in modules if name != UNCHECKED])

import numpy as np
import pytest

from worldmodel.command import FAILED
from worldmodel.data import DatasetInfo, Episode, EpisodeWriter
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec

if TYPE_CHECKING:
    from worldmodel.evaluate import Evaluate


@pytest.fixture(scope="module", autouse=True)
def shapes_are_checked_again() -> None:
    shape_checks.begin_anew()


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Files of mode 0 can't be read in here, not even by root: it becomes nobody, who is let
    into the folder."""
    if os.geteuid() != 0:
        yield
        return
    # pytest makes its folders for one user alone.
    closed = [path for path in (folder, *folder.parents) if not path.stat().st_mode & 0o005]
    for path in closed:
        path.chmod(path.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path in closed:
            path.chmod(path.stat().st_mode & ~0o055)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes disks of so many bytes, to be filled: file systems in memory, which only root may
    mount."""
    mounted: list[Path] = []

    def make(num_bytes: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("may not mount a file system here")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def toy_episode(episode_id: int, num_actions: int = 24) -> Episode:
    """A bright square that action 1 moves to the right by 4 pixels and action 0 leaves there.

    Its column is the game variable, reaching the far side ends the episode.
    """
    rng = np.random.default_rng(episode_id)
    column, row = 0, int(rng.integers(0, 40))
    frames, columns, actions, rewards, ends = [], [], [], [], []

    def draw() -> None:
        frame = np.full((64, 64, 3), 40, np.uint8)
        frame[row : row + 16, column : column + 16] = (250, 200, 90)
        frames.append(frame)
        columns.append([float(column)])

    draw()
    for _ in range(num_actions):
        action = int(rng.random() < 0.6)
        column = min(column + 4 * action, 48)
        draw()
        actions.append(action)
        rewards.append(float(action))
        ends.append(column == 48)
        if ends[-1]:
            break
    truncated = np.zeros(len(actions), bool)
    truncated[-1] = not ends[-1]
    return Episode(
        episode_id=episode_id,
        seed=episode_id,
        policy="toy",
        frames=np.stack(frames),
        action=np.asarray(actions, np.int64),
        reward=np.asarray(rewards, np.float32),
        terminated=np.asarray(ends, bool),
        truncated=truncated,
        variables=np.asarray(columns, np.float32),
    )


def write_toy_data(folder: Path, *, num_episodes: int = 20, posed: bool = False) -> Path:
    """A data set of the moving square; posed, it says where the square is, and which way it looks:
    ever more to the left."""
    info = DatasetInfo(
        env_id="MovingSquare",
        env_kwargs={},
        frame_shape=(64, 64, 3),
        actions=ActionSpec("discrete", (2,), meanings=("stay", "right")),
        variable_names=("column",),
        fps=10.0,
        frame_skip=1,
        pose=PoseSpec(("x", "y"), "angle") if posed else NO_POSE,
    )
    with EpisodeWriter(folder, info) as writer:
        for episode_id in range(num_episodes):
            episode = toy_episode(episode_id)
            if posed:
                column = episode.variables[:, 0]
                time = np.arange(len(column), dtype=np.float32)
                pose = np.stack([column, 64 - column / 2, 20 * time % 360], 1)
                episode = replace(episode, pose=pose.astype(np.float32))
            writer.append(episode)
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 20 short episodes, in all three splits."""
    return write_toy_data(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture(scope="session")
def posed_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`toy_data` that tell poses."""
    return write_toy_data(tmp_path_factory.mktemp("posed") / "data", posed=True)


@pytest.fixture(scope="session")
def posed_run(posed_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_run` of a world that tells poses."""
    from worldmodel.train import Train, train

    out = tmp_path_factory.mktemp("runs") / "posed"
    train(Train(preset="tiny", data=posed_data, out=out, device="cpu", precision="fp32"))
    return out


@pytest.fixture(scope="session")
def tiny_run(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny world model, trained for seconds on the toy data."""
    from worldmodel.train import Train, train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(Train(preset="tiny", data=toy_data, out=out, device="cpu", precision="fp32"))
    return out


@pytest.fixture(scope="session")
def evaluated(
    tiny_run: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple["Evaluate", dict]:
    """How the tiny model was measured, and its whole report."""
    from worldmodel.evaluate import Evaluate, evaluate

    options = Evaluate(
        checkpoint=str(tiny_run),
        data=toy_data,
        out=tmp_path_factory.mktemp("evaluated") / "report",
        clips=8,
        samples=3,
        horizon=6,
        frames=32,
        inverse_dynamics_steps=2,
        stability_steps=24,
    )
    return options, evaluate(options, command="the <b>command</b> & more")


def one_line_error(main: Callable[[], None]) -> str:
    """What a command says on stderr of a user's mistake: its last line, without a traceback."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == FAILED
    said = stderr.getvalue()
    assert "Traceback" not in said
    message = said.splitlines()[-1]
    assert message.startswith("error: ")
    return message
