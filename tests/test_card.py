"""Model cards could go on a hub as they are: front matter, no local paths, no empty lists."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from worldmodel.average import Average, average
from worldmodel.checkpoint import POLICY_FILE, load_checkpoint
from worldmodel.checkpoint.card import numbers_of, with_note
from worldmodel.errors import UserError
from worldmodel.pretrained import PRETRAINED, shipped_names
from worldmodel.ship import Ship, ship


def check_card(folder: Path, *, license: str | None = None) -> str:
    """The text of a card that a hub takes."""
    card = ModelCard.load(folder / "README.md")
    front = card.data.to_dict()
    assert front.get("license") == license
    assert front["pipeline_tag"] == "reinforcement-learning"
    assert front["library_name"] == "videogpt-dream"
    assert "world-model" in front["tags"]
    text = card.text
    assert not re.search(r"/tmp/|/home/|/work/", text)
    assert not re.search(r"(variables|actions|by)\s*[,:.]?\s*$", text, re.MULTILINE)
    assert "recorded moments" in text
    return text


def test_a_runs_card(tiny_run: Path):
    text = check_card(tiny_run)
    assert text.startswith("\n# A dream of MovingSquare") or text.startswith("# A dream of")
    assert f"python -m play --env {tiny_run.name}" in text
    assert "20 episodes by toy" in text
    assert "The licence of what they show is not known here" in text
    assert "- game variables: column" in text


def test_a_shipped_card_holds_the_numbers_and_no_folders(tiny_run: Path, tmp_path: Path):
    report = tmp_path / "report.md"
    report.write_text(
        "# /work/runs/tiny: MovingSquare\n\n## Tokenizer\n\n| a | b |\n\nclips 8; some CPU, commit "
        "abc; `python -m worldmodel.evaluate /home/me/runs/tiny`, 3 s\n"
    )
    ship(Ship(str(tiny_run), tmp_path / "small", report=report))
    text = check_card(tmp_path / "small")
    assert "### Tokenizer\n\n| a | b |\n\nclips 8; some CPU, commit abc, 3 s" in text
    assert "20 episodes by toy" in text
    with pytest.raises(UserError, match=r"exists already: .*--overwrite"):
        ship(Ship(str(tiny_run), tmp_path / "small"))
    policy = tmp_path / "small" / POLICY_FILE
    policy.write_bytes(b"a policy")
    ship(Ship(str(tiny_run), tmp_path / "small", overwrite=True))
    assert "Not measured yet" in check_card(tmp_path / "small")
    assert policy.read_bytes() == b"a policy"  # of the same world
    config = tmp_path / "small" / "config.json"
    described = json.loads(config.read_text())
    described["world"]["env_id"] = "Other-v0"
    config.write_text(json.dumps(described))
    ship(Ship(str(tiny_run), tmp_path / "small", overwrite=True))
    assert not policy.exists()
    lineage = load_checkpoint(str(tmp_path / "small")).lineage
    assert set(lineage) == {"trained", "data", "shipped_from"}
    with pytest.raises(UserError, match="holds the checkpoint to start from"):
        ship(Ship(str(tiny_run), tiny_run, overwrite=True))
    with pytest.raises(UserError, match="belongs to a training run"):
        ship(Ship("dream-doom", tiny_run, overwrite=True))
    with pytest.raises(FileNotFoundError):
        numbers_of(tmp_path / "nothing.md")


def test_a_means_card_names_its_parts(tiny_run: Path, tmp_path: Path):
    shutil.copytree(tiny_run, tmp_path / "small")
    options = Average((str(tiny_run), str(tmp_path / "small")), tmp_path / "mean", (1.0, 3.0))
    average(options)
    assert "The mean of 0.25 of tiny, 0.75 of small" in check_card(tmp_path / "mean")
    parts = load_checkpoint(str(tmp_path / "mean")).lineage["averaged_from"]
    assert [part["share"] for part in parts] == [0.25, 0.75]
    with pytest.raises(UserError, match=r"exists already: .*--overwrite"):
        average(options)
    average(replace(options, overwrite=True))


def test_a_note_stands_behind_the_front_matter_once():
    card = "---\nlicense: mit\n---\n# A dream\n"
    noted = with_note(with_note(card, "A note."), "A note.")
    assert noted == "---\nlicense: mit\n---\nA note.\n\n# A dream\n"
    assert with_note("# Old", "A note.") == "A note.\n\n# Old"


@pytest.mark.parametrize("name", shipped_names())
def test_the_cards_that_ship(name: str):
    assert "Freedoom" in check_card(PRETRAINED / name, license="mit") or name == "dream-pushing"
