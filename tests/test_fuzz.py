"""Files of every kind that is read, damaged in thousands of ways: refused in one line, or accepted
and finite. Never a traceback, a hang, a crash, or more than 1 GiB."""

import shutil
from pathlib import Path

import fuzzing
import pytest
from fuzzing import KINDS, Kind, changed_bytes, changed_json, damaged

from worldmodel.errors import UserError
from worldmodel.storage.guarded import guarded_call

MOST_MEMORY = 2**30
PATIENCE_S = 30.0
CHECKPOINT_FILES = {
    "config.json": changed_json,
    "weights.safetensors": changed_bytes,
    "starts.safetensors": changed_bytes,
}


def _check(kind: Kind, sound: Path, folder: Path, seeds: range) -> None:
    """Raises AssertionError, naming the seed, for what is neither refused nor read."""
    num_refused = 0
    for seed in seeds:
        damaged(kind, sound, folder, seed)
        try:
            guarded_call(
                "fuzzing:read",
                kind.read,
                str(folder),
                subject=f"seed {seed}",
                most_memory=MOST_MEMORY,
                patience_s=PATIENCE_S,
            )
        except UserError as error:
            said = str(error)
        except RuntimeError as error:
            raise AssertionError(f"seed {seed}: {error}") from None
        else:
            continue
        num_refused += 1
        assert said.isprintable(), f"seed {seed}"
        assert "malicious: reading it" not in said, said
        assert "that is not done after" not in said, said
    if kind.is_read:
        assert num_refused > 0, "nothing was refused: are the files changed at all?"


def _sound(kind: Kind, folder: Path) -> Path:
    folder.mkdir()
    kind.make(folder)
    copy = folder.with_name("read")
    shutil.copytree(folder, copy)
    guarded_call("fuzzing:read", kind.read, str(copy), subject="sound", most_memory=MOST_MEMORY)
    return folder


# How many of each kind, from which seed on.
FEW = pytest.param(range(100), id="few")
MANY = pytest.param(
    range(10_000, 10_400), id="many", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]
)


@pytest.mark.parametrize("seeds", [FEW, MANY])
@pytest.mark.parametrize("name", KINDS)
def test_no_file_does_harm(name: str, seeds: range, tmp_path: Path):
    kind = KINDS[name]
    _check(kind, _sound(kind, tmp_path / "sound"), tmp_path / "damaged", seeds)


@pytest.mark.parametrize("seeds", [FEW, MANY])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "gif", "webm"])
def test_no_video_does_harm(suffix: str, seeds: range, tmp_path: Path):
    def make(folder: Path) -> None:
        fuzzing.make_videos(folder)
        for other in folder.iterdir():
            if other.name != suffix:
                shutil.rmtree(other)

    kind = Kind(make, "*/a.*", "read_videos")
    folder = _sound(kind, tmp_path / "sound")
    _check(kind, folder, tmp_path / "damaged", seeds[: len(seeds) // 2])


@pytest.mark.parametrize("seeds", [FEW, MANY])
@pytest.mark.parametrize("file", CHECKPOINT_FILES)
def test_no_checkpoint_does_harm(file: str, seeds: range, tiny_run: Path, tmp_path: Path):
    def make(folder: Path) -> None:
        for name in CHECKPOINT_FILES:
            (folder / "checkpoint").mkdir(exist_ok=True)
            shutil.copy(tiny_run / name, folder / "checkpoint" / name)

    kind = Kind(make, f"checkpoint/{file}", "read_checkpoint", CHECKPOINT_FILES[file])
    folder = _sound(kind, tmp_path / "sound")
    _check(kind, folder, tmp_path / "damaged", seeds)
