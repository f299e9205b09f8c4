"""The mean of checkpoints."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line_error

from worldmodel import average as command
from worldmodel.average import Average, average, mean_prior
from worldmodel.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint


def moved(checkpoint: Checkpoint, by: float) -> None:
    """Move every weight of the prior."""
    with torch.no_grad():
        for weights in checkpoint.model.prior.parameters():
            weights += by


def test_weights_are_the_mean_and_all_else_is_the_first_ones(tiny_run: Path, tmp_path: Path):
    other = load_checkpoint(str(tiny_run))
    moved(other, 1.0)
    save_checkpoint(tmp_path / "other", other, card="", compact=False)
    names = (str(tiny_run), str(tmp_path / "other"))
    for shares, moves in (((), 0.5), ((3.0, 1.0), 0.25)):
        average(Average(names, tmp_path / "mean", shares))
        first, mean = load_checkpoint(str(tiny_run)), load_checkpoint(str(tmp_path / "mean"))
        moved(first, moves)
        for name, weights in first.model.state_dict().items():
            torch.testing.assert_close(mean.model.state_dict()[name], weights)
        assert mean.world == first.world
        np.testing.assert_array_equal(mean.starts.frames, first.starts.frames)


def test_a_change_keeps_its_chance_where_the_other_lists_more_changes(tiny_run: Path):
    first, other = (load_checkpoint(str(tiny_run)).model.prior for _ in range(2))
    outcome = first.outcome
    values = [
        bins[:used].numpy() for bins, used in zip(outcome.bins, outcome.num_used, strict=True)
    ]
    other.outcome.set_bins([np.concatenate([[row.min() - 1], row]) for row in values])
    features = torch.randn(2, 3, 4, outcome.each_position.in_features)
    recent = torch.zeros(2, 3, outcome.recent.in_features)
    before = outcome(features, recent)
    mean_prior([first, other], (1.0, 1.0))
    torch.testing.assert_close(outcome(features, recent), before)


def test_refusals(tiny_run: Path, tmp_path: Path):
    other = load_checkpoint(str(tiny_run))
    with torch.no_grad():
        next(other.model.tokenizer.parameters()).add_(1)
    save_checkpoint(tmp_path / "tokenizer", other, card="", compact=False)
    elsewhere = load_checkpoint(str(tiny_run))
    elsewhere = replace(elsewhere, world=replace(elsewhere.world, env_id="Elsewhere-v0"))
    save_checkpoint(tmp_path / "elsewhere", elsewhere, card="", compact=False)
    run, out = str(tiny_run), tmp_path / "mean"
    for names, shares, problem in (
        ((run,), (), "two checkpoints or more, not 1"),
        ((run, run), (1.0,), "1 are given for 2"),
        ((run, run), (1.0, 0.0), "above 0, not 1.0 0.0"),
        ((run, run), (1.0, float("nan")), "above 0, not 1.0 nan"),
        ((run, str(tmp_path / "tokenizer")), (), "another tokenizer than"),
        ((run, str(tmp_path / "elsewhere")), (), "another environment than"),
        ((run, "dream-doom"), (), "dream-doom has another model than"),
        ((run, str(tmp_path / "nowhere")), (), "nowhere"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            average(Average(names, out, shares))
    assert not out.exists()


def test_it_ends_in_one_line(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = ["average", str(tiny_run), "--out", str(tmp_path / "mean")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert "two checkpoints or more" in one_line_error(command.main)
