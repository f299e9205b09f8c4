"""VideoGPT's tables, ablated: their rows, what is trained for them, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import one_line_error

from worldmodel import ablate as ablate_command
from worldmodel.ablate import Ablate, ablate
from worldmodel.evaluation.ablation import ABLATIONS
from worldmodel.presets import PUBLISHED
from worldmodel.vqvae import VideoVQVAE


def test_ablations_keep_the_paper_s_latents():
    base = PUBLISHED["bair"]
    for row in ABLATIONS["table5"].rows:
        grid = row.change(base).tokenizer.grid
        assert "x".join(map(str, grid)) == row.name
    for row in ABLATIONS["table7"].rows:
        shape = row.change(base).tokenizer.latent_shape
        assert "x".join(map(str, shape)) == row.name
        assert math.prod(shape) == 8192
    plain, attentive = (row.change(base) for row in ABLATIONS["table3"].rows)
    with torch.device("meta"):
        models = [VideoVQVAE(preset.tokenizer) for preset in (plain, attentive)]
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


def test_a_table_without_priors_has_no_column_of_theirs(toy_data: Path, tmp_path: Path):
    options = Ablate(
        table="table6",
        data=toy_data,
        out=tmp_path,
        steps=1,
        size="miniature",
        preset="tiny-videogpt",
        stage="tokenizer",
        clips=4,
        device="cpu",
        precision="fp32",
    )
    text = ablate(options)
    assert "by our NMSE" in text
    assert "a token" not in text
    assert not list(tmp_path.glob("runs/*/training/prior*"))


def test_a_table_is_ablated_and_goes_on_where_it_was(toy_data: Path, tmp_path: Path):
    options = Ablate(
        table="table4",
        data=toy_data,
        out=tmp_path,
        steps=2,
        size="miniature",
        preset="tiny-videogpt",
        clips=4,
        device="cpu",
        precision="fp32",
    )
    text = ablate(options)
    assert "paper's bits/dim" in text
    for row in ABLATIONS["table4"].rows:
        assert f"| {row.name} |" in text
    assert (tmp_path / "table4.png").stat().st_size > 0
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 4
    # One tokenizer for all: they differ in the prior alone.
    kept = {(run / "training" / "tokenizer.state.safetensors").read_bytes() for run in runs}
    assert len(kept) == 1
    before = {run: (run / "training" / "prior.state.safetensors").stat().st_mtime for run in runs}
    assert ablate(options) == text
    assert before == {
        run: (run / "training" / "prior.state.safetensors").stat().st_mtime for run in runs
    }


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"preset": "nowhere"}, "unknown preset 'nowhere'"),
        ({"max_minutes": 0.0}, "--max-minutes must be above 0"),
        ({"data": Path("nowhere")}, "nowhere does not exist"),
    ],
)
def test_bad_ablations_get_one_clear_line(toy_data: Path, changes, complaint, monkeypatch):
    options = replace(Ablate(table="table3", data=toy_data), **changes)
    monkeypatch.setattr(ablate_command.tyro, "cli", lambda *_, **__: options)
    assert complaint in one_line_error(ablate_command.main)
