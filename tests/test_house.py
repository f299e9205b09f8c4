"""Which package may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# package -> what it must not import
FORBIDDEN = {
    "worldmodel": {
        "envs",
        "collect",
        "play",
        "gymnasium",
        "mujoco",
        "pygame",
        "stable_baselines3",
        "vizdoom",
    },
    "envs": {"collect", "play"},
    "collect": {"play"},
    "play": {"collect", "worldmodel"},
}
# What is below all packages: nothing of it knows a model.
FOUNDATION = ("command", "errors", "interface", "randomness", "storage")


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "worldmodel":
            modules |= {f"worldmodel.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, the foundation left out."""
    foundation = tuple(f"worldmodel.{name}" for name in FOUNDATION)
    return {
        name.split(".")[0] for name in imported_modules(path) if not name.startswith(foundation)
    }


def test_the_foundation_imports_nothing_above_it():
    for name in FOUNDATION:
        room = ROOT / "worldmodel" / name
        for path in room.rglob("*.py") if room.is_dir() else [room.with_suffix(".py")]:
            assert "worldmodel" not in imported_packages(path), path


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_only_what_it_may(package: str):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = imported_packages(path) & FORBIDDEN[package]
        assert not wrong, f"{path} imports {wrong}"


def test_collect_knows_no_model():
    """It reads and writes data, and reports numbers; a dream reaches it as an environment."""
    known = {"data", "metrics", "parallel", *FOUNDATION}
    for path in (ROOT / "collect").rglob("*.py"):
        for module in imported_modules(path):
            if module.startswith("worldmodel"):
                assert module.split(".")[1] in known, f"{path} imports {module}"


def test_the_dream_knows_nothing_of_videogpt_as_published():
    for path in (ROOT / "worldmodel").rglob("*.py"):
        if "videogpt" not in path.relative_to(ROOT).parts:
            wrong = {m for m in imported_modules(path) if m.startswith("worldmodel.videogpt")}
            assert not wrong, f"{path} imports {wrong}"


def test_pixels_change_type_in_one_place_only():
    for path in (ROOT / "worldmodel").rglob("*.py"):
        if path.name not in ("frames.py", "metrics.py"):
            assert "/ 255 -" not in path.read_text(), f"{path} converts pixels itself"
