"""VideoGPT's tables, ablated: their rows, what is trained for them, and what is refused."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import one_line_error

from worldmodel.errors import UserError
from worldmodel.evaluation.tables import to_text
from worldmodel.videogpt import ablate as ablate_command
from worldmodel.videogpt.ablate import Ablate, ablate
from worldmodel.videogpt.ablation import ABLATIONS
from worldmodel.videogpt.configs import PUBLISHED
from worldmodel.videogpt.training import train_preset
from worldmodel.videogpt.vqvae import VideoVQVAE

TINY = Ablate(
    table="table4",
    data=Path("toy"),
    steps=2,
    preset="tiny-videogpt",
    clips=4,
    device="cpu",
    precision="fp32",
)


@pytest.fixture
def two_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 4 with two rows only, for speed."""
    table = ABLATIONS["table4"]
    monkeypatch.setitem(ABLATIONS, "table4", replace(table, rows=table.rows[:2]))


def saved(out: Path) -> dict[Path, int]:
    """When each training state was written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("runs/*/training/prior.state*")}


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
    options = replace(
        TINY,
        table="table6",
        data=toy_data,
        out=tmp_path,
        size="miniature",
        stage="tokenizer",
        steps=1,
    )
    text = to_text(ablate(options))
    assert "Our NMSE orders" in text
    assert "a token" not in text
    assert not list(tmp_path.glob("runs/*/training/prior*"))


@pytest.mark.slow
def test_a_table_is_ablated(toy_data: Path, tmp_path: Path):
    text = to_text(ablate(replace(TINY, data=toy_data, out=tmp_path)))
    assert "paper's bits/dim" in text
    markdown = (tmp_path / "table4.md").read_text()
    for row in ABLATIONS["table4"].rows:
        assert f"\n{row.name} " in text
        assert f"| {row.name} |" in markdown
    assert (tmp_path / "table4.png").stat().st_size > 0
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 4
    # One tokenizer for all: they differ in the prior alone.
    kept = {(run / "training" / "tokenizer.state.safetensors").read_bytes() for run in runs}
    assert len(kept) == 1


def test_files_of_others_are_not_replaced(toy_data: Path, tmp_path: Path, capsys):
    (tmp_path / "table4.md").write_text("mine")
    with pytest.raises(UserError, match="written by another program"):
        ablate(replace(TINY, data=toy_data, out=tmp_path))
    assert (tmp_path / "table4.md").read_text() == "mine"
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("two_priors")
@pytest.mark.slow
def test_runs_are_used_again_for_the_same_training_alone(toy_data: Path, tmp_path: Path):
    options = replace(TINY, data=toy_data, out=tmp_path)
    text = ablate(options)
    trained = saved(tmp_path)
    assert len(trained) == 2
    assert ablate(options) == text
    assert saved(tmp_path) == trained
    for changes in ({"seed": 1}, {"steps": 3}, {"batch_size": 2}, {"precision": "bf16"}):
        ablate(replace(options, **changes))
        now = saved(tmp_path)
        assert len(now) == len(trained) + 2, changes
        assert trained.items() <= now.items()
        trained = now
        report = json.loads((tmp_path / "table4.json").read_text())
        for row in report["rows"].values():
            assert row["steps"] == dict.fromkeys(("tokenizer", "prior"), changes.get("steps", 2))
    assert len(list((tmp_path / "tokenizers").iterdir())) == 5


@pytest.mark.usefixtures("two_priors")
def test_only_finished_tokenizers_are_shared(toy_data: Path, tmp_path: Path, monkeypatch):
    options = replace(TINY, data=toy_data, out=tmp_path)

    def stopped(preset, training):
        train_preset(preset, replace(training, max_minutes=1e-9))  # one step of two
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ablate_command, "train_preset", stopped)
        with pytest.raises(KeyboardInterrupt):
            ablate(options)
    rows = ABLATIONS["table4"].rows
    monkeypatch.setitem(ABLATIONS, "table4", replace(ABLATIONS["table4"], rows=rows[::-1]))
    ablate(options)
    report = json.loads((tmp_path / "table4.json").read_text())
    assert [row["steps"]["tokenizer"] for row in report["rows"].values()] == [2, 2]
    states = tmp_path.glob("runs/*/training/tokenizer.state.safetensors")
    assert len({path.read_bytes() for path in states}) == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"preset": "nowhere"}, "unknown preset 'nowhere'"),
        ({"max_minutes": 0.0}, "--max-minutes must be above 0"),
        ({"data": Path("nowhere")}, "nowhere does not exist"),
        ({"table": "table4", "stage": "tokenizer"}, "table4 is about priors"),
        ({"preset": "moving-mnist"}, 'row "no attention".*no attention to compare with'),
        ({"table": "table5"}, r'row "1x64x64".*divide the clip\'s \(4, 64, 64\), not \(16'),
        ({"table": "table5", "preset": "ucf101"}, r'row "1x64x64".*not \(32, 1, 1\)'),
    ],
)
def test_bad_ablations_get_one_clear_line_before_any_training(
    toy_data: Path, tmp_path: Path, changes, complaint, monkeypatch
):
    options = replace(
        TINY, **{"table": "table3", "data": toy_data, "out": tmp_path / "out", **changes}
    )
    monkeypatch.setattr(ablate_command.tyro, "cli", lambda *_, **__: options)
    assert re.search(complaint, one_line_error(ablate_command.main))
    assert not (tmp_path / "out").exists()
