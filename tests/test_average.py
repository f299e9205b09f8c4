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
from worldmodel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from worldmodel.errors import UserError
from worldmodel.prior.frame_gpt import FrameGPT


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
        average(Average(names, tmp_path / "mean", shares, overwrite=True))
        first, mean = load_checkpoint(str(tiny_run)), load_checkpoint(str(tmp_path / "mean"))
        moved(first, moves)
        for name, weights in first.model.state_dict().items():
            torch.testing.assert_close(mean.model.state_dict()[name], weights)
        assert mean.world == first.world
        np.testing.assert_array_equal(mean.starts.frames, first.starts.frames)


def trained_on(tiny_run: Path, changes: list[float], mean: float) -> FrameGPT:
    """The prior as if trained on from there, where its variable changed by these and was `mean`."""
    prior = load_checkpoint(str(tiny_run)).model.prior
    prior.outcome.set_bins([np.array([0.0, 1.0]), np.array(changes)])
    prior.standardise_by(torch.tensor([mean]), torch.tensor([mean / 2]))
    return prior


def chances(prior: FrameGPT) -> tuple[dict[float, float], torch.Tensor]:
    """Of each change of the variable, once its change is known or none is before it, and of codes,
    on two fixed clips."""
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(prior.num_codes, (2, 4, *prior.grid, prior.num_codebooks), generator=rng)
    actions = torch.eye(2)[torch.tensor([[0, 1, 1], [1, 1, 0]])]
    variables = torch.tensor([[0.0, 4, 4, 8], [8, 8, 12, 12]])[..., None]
    with torch.no_grad():
        told = prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], variables[:, 1:])
    shares = told.outcomes.values[..., 1, :].softmax(-1).mean((0, 1))
    used = int(prior.outcome.num_used[1])
    return dict(zip(prior.outcome.bins[1, :used].tolist(), shares.tolist(), strict=False)), (
        told.logits.softmax(-1)
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_who_learned_of_other_data_says_the_same_in_a_mean(tiny_run: Path, swapped: bool):
    """Of one lineage, and alike but for what the data of each held: their mean is as they are."""
    priors = [trained_on(tiny_run, [0, 4], 20.0), trained_on(tiny_run, [0, 4, 12], 30.0)]
    # A change that the one doesn't know is rare to the other.
    logits = priors[1].outcome.logits
    with torch.no_grad():
        logits.weight[priors[1].outcome.num_bins + 2] = 0
        logits.bias[priors[1].outcome.num_bins + 2] = -6
    if swapped:
        priors.reverse()
    before = [chances(prior) for prior in priors]
    mean_prior(priors, (1.0, 1.0))
    shares, codes = chances(priors[0])
    torch.testing.assert_close(codes, before[0][1], atol=1e-4, rtol=1e-3)
    for change in (0.0, 4.0):
        for others, _ in before:
            assert shares[change] == pytest.approx(others[change], abs=0.01)


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
        with pytest.raises(UserError, match=problem):
            average(Average(names, out, shares))
    assert not out.exists()
    for other, problem in (
        (tiny_run, "holds the checkpoint to start from"),
        (tmp_path / "elsewhere" / ".." / "tokenizer", "holds the checkpoint to start from"),
        (tmp_path / "running", "belongs to a training run"),
    ):
        (tmp_path / "running" / "training").mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match=problem):
            average(Average((run, str(tmp_path / "tokenizer")), other))


def test_it_ends_in_one_line(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = ["average", str(tiny_run), "--out", str(tmp_path / "mean")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert "two checkpoints or more" in one_line_error(command.main)
