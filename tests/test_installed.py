"""What a wheel contains: one package, which a user's own `envs` and `play` don't touch."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from videogpt_dream.__main__ import COMMANDS, module_of

ROOT = Path(__file__).parents[1]
PACKAGES = ("worldmodel", "envs", "collect", "play")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of a wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "videogpt_dream"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", build, str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    assert wheel.stat().st_size < 95e6  # a package index takes 100 MB
    installed = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


def run_beside_own_modules(built: Path, folder: Path, *arguments: str) -> str:
    """Run Python where only the built package and the user's own `envs` and `play` are found."""
    for name in ("worldmodel", "envs", "collect", "play"):
        (folder / f"{name}.py").write_text("raise RuntimeError('a module of the user')")
    command = [sys.executable, *arguments]
    env = {"PYTHONPATH": str(built), "HOME": str(folder), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_is_inside_one_package(built: Path) -> None:
    names = sorted(path.name for path in built.iterdir())
    assert names[0] == "videogpt_dream"
    assert re.fullmatch(r"videogpt_dream-.*\.dist-info", names[1])
    assert len(names) == 2
    about = built / names[1]
    script = "videogpt-dream = videogpt_dream.__main__:main"
    assert script in (about / "entry_points.txt").read_text()
    assert not (about / "top_level.txt").exists()  # it would name `envs`
    assert (built / "videogpt_dream/py.typed").exists()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert (built / "videogpt_dream" / path.relative_to(ROOT)).exists()
    assert len(list(built.rglob("weights.safetensors"))) >= 3
    assert (built / "videogpt_dream/play/web/static/worker.js").exists()


def test_modules_import_only_each_other(built: Path) -> None:
    for path in built.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in PACKAGES, f"{path} imports {name}"
            # Names of functions in strings, for `guarded_call` and `gymnasium.register`.
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                assert not re.match(r"(worldmodel|envs|collect|play)[\w.]*:\w", text), (path, text)


def test_texts_name_commands_that_exist(built: Path) -> None:
    found = set()
    for path in built.rglob("*"):
        if path.suffix not in (".py", ".md", ".jinja", ".js", ".html"):
            continue
        text = re.sub(r'"\s+f?"', "", path.read_text())  # strings in several parts
        assert not re.search(r"python -m\s+(worldmodel|envs|collect|play)", text), path
        # Not the names of formats and of the library.
        text = re.sub(
            r"library_name: videogpt-dream|videogpt-dream (session|policy \d|COMMAND)", "", text
        )
        for first, second in re.findall(r"videogpt-dream\s+(\w+)(?:\s+(\w+))?", text):
            name = f"{first} {second}" if f"{first} {second}" in COMMANDS else first
            assert name in COMMANDS, f"{path}: {first} {second}"
            found.add(name)
    assert {"play", "train", "collect vizdoom", "videogpt train"} <= found


def test_it_works_beside_the_users_own_modules(built: Path, tmp_path: Path) -> None:
    code = """
import gymnasium, videogpt_dream
print(videogpt_dream.__version__, videogpt_dream.shipped_names())
env = gymnasium.make("RobotPushing-v0", obs_size=16)
env.reset(seed=0)
print(env.step(env.action_space.sample())[0].shape)
print(videogpt_dream.DreamEnv, videogpt_dream.DreamVecEnv, videogpt_dream.EpisodeReader)
"""
    said = run_beside_own_modules(built, tmp_path, "-c", code)
    assert "dream-doom" in said
    assert "(16, 16, 3)" in said
    assert "'videogpt_dream.envs.sb3.DreamVecEnv'" in said


@pytest.mark.slow  # the head is compiled for this copy of the code
def test_its_dreams_can_be_played(built: Path, tmp_path: Path) -> None:
    film = tmp_path / "walk.mp4"
    said = run_beside_own_modules(
        built,
        tmp_path,
        *("-m", "videogpt_dream", "play", "--headless", "--steps", "3", "--record", str(film)),
    )
    assert "replay: videogpt-dream play --replay" in said
    assert film.exists()


def test_every_command_is_listed() -> None:
    runnable = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if 'if __name__ == "__main__":' in path.read_text():
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                runnable.add(module.removesuffix(".__main__"))
    assert {module_of(name) for name in COMMANDS} == runnable - {"envs.engine_guard"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main(name: str) -> None:
    module = module_of(name)
    found = importlib.util.find_spec(module)
    assert found is not None
    if found.submodule_search_locations:
        module += ".__main__"
    assert callable(importlib.import_module(module).main)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [str(Path(sys.executable).parent / "videogpt-dream"), *arguments]
    return subprocess.run(program, capture_output=True, text=True)


def test_the_command_lists_runs_and_refuses() -> None:
    assert re.fullmatch(r"videogpt-dream \d+\.\d+\.\d+\n", command("--version").stdout)
    listed = command("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in listed
    data = command("data", "verify", "nowhere")
    assert data.returncode == 2
    assert data.stderr.startswith("error: ")
    unknown = command("fly")
    assert unknown.returncode == 2
    assert "there is no command 'fly'" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    half = command("collect", "everything")
    assert half.returncode == 2
    assert "there is no command 'collect everything'" in half.stderr
    assert "collect vizdoom" in half.stderr
    assert "calibrate" not in half.stderr
