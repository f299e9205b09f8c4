"""Pushing to the Hugging Face Hub and fetching from it, with its real client and a stand-in Hub."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import huggingface_hub
import numpy as np
import pytest
from conftest import ROOT, one_line_error
from hub_stand_in import READ_TOKEN, TOKEN, Hub, Repo, running_hub
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub import constants as hub_settings

import envs  # noqa: F401  registers the dreams
from worldmodel.checkpoint import FILES, POLICY_FILE, load_checkpoint
from worldmodel.data import EpisodeReader
from worldmodel.data.__main__ import main as data_main
from worldmodel.data.card import size_category
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.ship import Ship, ship
from worldmodel.ship import main as ship_main

# The Hub's client calls its own HTTP library in an old way when it uploads through Git LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
MODEL_FILES = {*FILES, "README.md"}
DATA_FILES = {"meta.json", "shard-00000.h5", "contact-sheet.png", "README.md"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that this process's client talks to, logged in."""
    with running_hub() as hub:
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(hub_settings, "ENDPOINT", hub.address)
        monkeypatch.setattr(hub_settings, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_settings, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hub_settings, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hub_settings, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def square_data(toy_data: Path, tmp_path: Path) -> Path:
    """A copy of `toy_data`: pushing draws into it."""
    return shutil.copytree(toy_data, tmp_path / "square")


def settings_of_client(hub: Hub, folder: Path) -> dict[str, str]:
    """Environment variables of another process that talks to the stand-in."""
    return {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "home"),
        "PATH": "",
    }


def error_of(monkeypatch, main, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    return one_line_error(main)


def test_a_dream_is_pushed_fetched_and_the_same(hub: Hub, tiny_run: Path, tmp_path: Path):
    out = tmp_path / "small"
    out.mkdir()
    (out / "secret.txt").write_text("not for the Hub")
    ship(Ship(str(tiny_run), out, push="ann/square", license="cc-by-4.0"))
    repo = hub.repos["model", "ann/square"]
    assert set(repo.files) == MODEL_FILES
    assert not repo.private
    assert repo.num_commits == 1
    for name in MODEL_FILES:
        assert repo.files[name] == (out / name).read_bytes()
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.to_dict()["license"] == "cc-by-4.0"
    assert "checkpoint='ann/square'" in card.text
    dreams = [
        gymnasium.make("VideoGPTDream-v0", checkpoint=name) for name in (str(out), "ann/square")
    ]
    for dream in dreams:
        dream.reset(seed=3)
    for action in (1, 0, 1):
        ours, theirs = (dream.step(action) for dream in dreams)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:3] == theirs[1:3]


def test_the_command_pushes_without_a_folder(hub: Hub, tiny_run: Path, tmp_path: Path):
    """As a user runs it: the client takes the address and the token from the environment."""
    (tmp_path / "temporary").mkdir()
    settings = settings_of_client(hub, tmp_path) | {
        "TMPDIR": str(tmp_path / "temporary"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    words = ["-m", "worldmodel.ship", str(tiny_run), "--push", "ann/square", "--private"]
    done = subprocess.run(
        [sys.executable, *words], env=settings, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "ann/square: " in done.stdout
    assert f"pushed to {hub.address}/ann/square" in done.stdout
    assert hub.repos["model", "ann/square"].private
    assert not list((tmp_path / "temporary").glob("*"))
    assert load_checkpoint("ann/square").lineage["shipped_from"]


def test_a_repository_is_replaced_only_where_allowed(hub: Hub, tiny_run: Path, monkeypatch):
    ship(Ship(str(tiny_run), push="ann/square"))
    repo = hub.repos["model", "ann/square"]
    assert "exists already" in error_of(monkeypatch, ship_main, tiny_run, "--push", "ann/square")
    repo.files |= {POLICY_FILE: b"of an earlier dream", "film.gif": b"the user's own"}
    before = repo.files["weights.safetensors"]
    ship(Ship(str(tiny_run), push="ann/square", overwrite=True, temperature=0.5))
    assert set(repo.files) == MODEL_FILES | {"film.gif"}
    assert repo.files["weights.safetensors"] == before
    assert load_checkpoint("ann/square").world.sampling.temperature == 0.5
    with pytest.raises(UserError, match="is public"):
        ship(Ship(str(tiny_run), push="ann/square", overwrite=True, private=True))
    hub.repos["model", "ann/bert"] = Repo(False, {"config.json": b"{}", "vocab.txt": b"a"})
    with pytest.raises(UserError, match=r"holds no checkpoint but config.json, vocab.txt"):
        ship(Ship(str(tiny_run), push="ann/bert", overwrite=True))
    hub.repos["model", "ann/new"] = Repo(False, {".gitattributes": b""})
    ship(Ship(str(tiny_run), push="ann/new"))
    assert set(hub.repos["model", "ann/new"].files) == MODEL_FILES | {".gitattributes"}


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        (None, "ann/square", "nobody is logged in to the Hugging Face Hub: .*hf auth login"),
        ("hf_old", "ann/square", "rejects your token: .*hf auth login"),
        (READ_TOKEN, "ann/square", "you may not write to ann/square: .*hf auth login"),
        (TOKEN, "bob/square", "you may not write to bob/square: choose a name of your own"),
        (TOKEN, "square", "'square' should be user/name"),
        (TOKEN, "ann/a/b", "can't be a repository's name"),
        (TOKEN, "ann/so bad", "can't be a repository's name"),
    ],
)
def test_mistakes_are_told_in_a_line(hub, tiny_run: Path, monkeypatch, token, name, message):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message):
        ship(Ship(str(tiny_run), push=name))
    assert not hub.repos


def test_no_network_is_told_in_a_line(hub: Hub, toy_data: Path, monkeypatch):
    monkeypatch.setattr(hub_settings, "ENDPOINT", "http://127.0.0.1:9")
    said = error_of(monkeypatch, data_main, "push", toy_data, "ann/square")
    assert "the Hugging Face Hub can't be reached (ConnectError: " in said
    assert "push again" in said


def test_a_push_that_failed_is_repeated(hub: Hub, tiny_run: Path):
    hub.is_full = True
    with pytest.raises(
        UserError, match=r"the Hugging Face Hub refuses ann/square: Insufficient storage"
    ):
        ship(Ship(str(tiny_run), push="ann/square"))
    assert not hub.repos["model", "ann/square"].files
    hub.is_full = False
    ship(Ship(str(tiny_run), push="ann/square"))
    assert set(hub.repos["model", "ann/square"].files) == MODEL_FILES


def test_options_that_do_nothing_are_refused(tiny_run: Path, tmp_path: Path, monkeypatch):
    assert "give OUT" in error_of(monkeypatch, ship_main, tiny_run)
    said = error_of(monkeypatch, ship_main, tiny_run, tmp_path / "small", "--private")
    assert "--private is for --push" in said
    with pytest.raises(UserError, match="--license takes a name like mit"):
        ship(Ship(str(tiny_run), tmp_path / "small", license="mine\nlibrary_name: x"))


def push_data(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "push", *map(str, arguments)])
    data_main()


def test_a_data_set_is_pushed_fetched_and_the_same(
    hub: Hub, posed_data: Path, tmp_path: Path, monkeypatch, capsys
):
    folder = shutil.copytree(posed_data, tmp_path / "posed")
    (folder / "diary.txt").write_text("not for the Hub")
    push_data(monkeypatch, folder, "ann/square", "--private")
    assert f"pushed to {hub.address}/datasets/ann/square" in capsys.readouterr().out
    repo = hub.repos["dataset", "ann/square"]
    assert repo.private
    assert set(repo.files) == DATA_FILES | {"floor-plan.png"}
    download = re.search(r"^hf (download .*)$", repo.files["README.md"].decode(), re.MULTILINE)
    assert download is not None
    program = Path(sys.executable).parent / "hf"
    settings = settings_of_client(hub, tmp_path)
    subprocess.run([program, *download[1].split()], env=settings, cwd=tmp_path, check=True)
    fetched = tmp_path / "data" / "square"
    assert not verify(fetched).problems
    assert EpisodeReader(fetched).digest() == EpisodeReader(posed_data).digest()
    push_data(monkeypatch, fetched, "ann/square", "--overwrite")
    assert set(repo.files) == DATA_FILES | {"floor-plan.png"}


def test_a_data_card_says_what_is_in_the_set(hub: Hub, square_data: Path, monkeypatch):
    push_data(monkeypatch, square_data, "ann/square", "--license", "cc0-1.0")
    card = DatasetCard(hub.repos["dataset", "ann/square"].files["README.md"].decode())
    assert card.data.to_dict() == {
        "license": "cc0-1.0",
        "pretty_name": "Episodes of MovingSquare",
        "viewer": False,
        "task_categories": ["reinforcement-learning"],
        "tags": ["world-model", "gymnasium", "video", "hdf5"],
        "size_categories": ["n<1K"],
    }
    for expected in (
        "# Episodes of MovingSquare",
        "20 episodes, ",
        "![contact-sheet.png](contact-sheet.png)",
        "episodes     20: ",
        " validation, ",
        "policy       toy: 20 episodes",
        "action       stay ",
        "variable     column: 0 to 48",
        "hf download ann/square --repo-type dataset --local-dir data/square",
    ):
        assert expected in card.text
    assert str(square_data) not in card.text


def test_only_a_sound_data_set_is_pushed(hub: Hub, square_data: Path, monkeypatch):
    (square_data / "shard-00000.h5").write_bytes(b"no shard")
    said = error_of(monkeypatch, data_main, "push", square_data, "ann/square")
    assert "Nothing was pushed" in said
    assert not hub.repos


def test_sizes_are_the_hubs():
    sizes = {7: "n<1K", 999: "n<1K", 1_000: "1K<n<10K", 99_999: "10K<n<100K", 10**9: "100M<n<1B"}
    assert {n: size_category(n) for n in sizes} == sizes
