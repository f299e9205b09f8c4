"""Calibration: dreams hold each code as often as the data do."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line_error

from worldmodel import calibrate as command
from worldmodel.calibrate import Calibrate, Dreams, calibrate, measure_drift, move_biases
from worldmodel.checkpoint import load_checkpoint
from worldmodel.checkpoint.card import with_note
from worldmodel.data import ClipSampler, EpisodeReader, EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.interface.sampling import Sampling
from worldmodel.storage.files import locked
from worldmodel.train import Train, train


@pytest.fixture
def options(tiny_run: Path, toy_data: Path, tmp_path: Path) -> Calibrate:
    return Calibrate(
        checkpoint=str(tiny_run),
        data=toy_data,
        out=tmp_path / "calibrated",
        rounds=2,
        dreams=6,
        steps=4,
        device="cpu",
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_prior_without_context_learns_the_shares_of_the_data(
    temperature: float, tiny_run: Path, toy_data: Path
):
    # Where a token hangs on the bias alone, the answer is known: the log of each code's share.
    model = load_checkpoint(str(tiny_run)).model
    torch.nn.init.zeros_(model.prior.head.logits.weight)
    torch.nn.init.zeros_(model.prior.head.logits.bias)
    window, num_codes = model.config.prior.window, model.config.tokenizer.num_codes
    clips = ClipSampler(EpisodeReader(toy_data), "train", window + 4)
    rng = np.random.default_rng(0)
    dreams = Dreams(Sampling(temperature))
    move_biases(model, clips, dreams, rounds=24, num_dreams=16, rng=rng)
    rows = clips.draw(np.random.default_rng(1), 256)
    codes = model.encode(torch.from_numpy(clips.read(rows).frames[:, window:]))
    shares = torch.bincount(codes.flatten(), minlength=num_codes) / codes.numel()
    found = (model.prior.head.logits.bias / temperature).softmax(0)
    common = shares > 0.01
    assert common.sum() > 1
    torch.testing.assert_close(found[common], shares[common], rtol=0.2, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_was_lost_comes_back(temperature: float, tiny_run: Path, toy_data: Path):
    dreams = Dreams(Sampling(temperature))
    model = load_checkpoint(str(tiny_run)).model
    clips = ClipSampler(EpisodeReader(toy_data), "validation", model.config.prior.window + 4)
    rows = clips.draw(np.random.default_rng(0), 16)
    with torch.no_grad():  # every other code is dreamed too seldom
        model.prior.head.logits.bias[::2] -= 2
    before = measure_drift(model, clips, rows, dreams, seed=0)
    train = ClipSampler(EpisodeReader(toy_data), "train", model.config.prior.window + 4)
    rng = np.random.default_rng(0)
    move_biases(model, train, dreams, rounds=10, num_dreams=16, rng=rng)
    after = measure_drift(model, clips, rows, dreams, seed=0)
    assert after.apart < before.apart / 2
    assert after.nats < before.nats


def test_only_the_biases_of_the_codes_change(options: Calibrate, tiny_run: Path, capsys):
    calibrate(options)
    told = capsys.readouterr().out
    assert (
        "is calibrated for temperature 1 and guidance 0: on 6 validation clips, 4 steps ahead"
        in told
    )
    before, after = load_checkpoint(str(tiny_run)), load_checkpoint(str(options.out))
    weights = after.model.state_dict()
    changed = [
        name
        for name, weight in before.model.state_dict().items()
        if not torch.equal(weight, weights[name])
    ]
    assert changed == ["prior.head.logits.bias"]
    assert after.world == replace(before.world, sampling=Sampling(1.0))
    np.testing.assert_equal(vars(after.starts), vars(before.starts))


@pytest.mark.parametrize("other", [{"temperature": 0.7}, {"guidance": 1e4}], ids=str)
def test_dreams_are_drawn_as_they_were_calibrated_for(options: Calibrate, other: dict):
    calibrate(options)
    plain = load_checkpoint(str(options.out))
    calibrate(replace(options, **other, overwrite=True))
    changed = load_checkpoint(str(options.out))
    assert plain.world.sampling == Sampling()
    assert changed.world.sampling == replace(Sampling(), **other)
    biases = [each.model.prior.head.logits.bias for each in (plain, changed)]
    assert not torch.equal(*biases)


def test_the_same_seed_gives_the_same_checkpoint(options: Calibrate, tmp_path: Path):
    again = replace(options, out=tmp_path / "again")
    for each in (options, again):
        calibrate(each)
    first, second = (load_checkpoint(str(each.out)).model for each in (options, again))
    assert torch.equal(first.prior.head.logits.bias, second.prior.head.logits.bias)


def test_a_run_is_calibrated_in_its_own_folder(options: Calibrate, tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    few = ["--rounds", "1", "--dreams", "4", "--steps", "4"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["calibrate", str(run), "--data", str(options.data), *few])
        command.main()
    before, after = (load_checkpoint(str(folder)).model for folder in (tiny_run, run))
    assert not torch.equal(before.prior.head.logits.bias, after.prior.head.logits.bias)
    card = (run / "README.md").read_text()
    assert card == with_note((tiny_run / "README.md").read_text(), command.NOTE)
    assert card.count(command.NOTE) == 1
    calibrated = load_checkpoint(str(run)).lineage["calibrated"]
    assert calibrated["temperature"] == 1.0
    assert calibrated["data_sha256"] == EpisodeReader(options.data).digest()


def test_training_leaves_a_calibrated_run_as_it_is(options: Calibrate, tiny_run, tmp_path, capsys):
    run, begun = tmp_path / "run", tmp_path / "begun"
    shutil.copytree(tiny_run, run)
    calibrate(replace(options, checkpoint=str(run), out=run, temperature=0.7, guidance=0.2))
    weights = (run / "weights.safetensors").read_bytes()
    again = Train(preset="tiny", data=options.data, out=run, device="cpu", precision="fp32")
    train(again)
    assert "was already trained to the end" in capsys.readouterr().err
    assert (run / "weights.safetensors").read_bytes() == weights
    # What begins from it is drawn as it is.
    train(replace(again, init=str(run), out=begun, stage="prior"))
    assert load_checkpoint(str(begun)).world.sampling == Sampling(0.7, guidance=0.2)


def test_a_stop_leaves_the_run_as_it_was(options: Calibrate, tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    steps = iter(range(9))

    def stop_in_the_second_round(*_):
        if next(steps) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr("rich.progress.Progress.advance", stop_in_the_second_round)
    monkeypatch.setattr(
        sys, "argv", ["calibrate", str(run), "--data", str(options.data), "--steps", "4"]
    )
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 130
    for path in tiny_run.iterdir():
        if path.is_file():
            assert (run / path.name).read_bytes() == path.read_bytes()


def test_a_shipped_name_is_not_written_over(options: Calibrate, tiny_run, tmp_path, monkeypatch):
    # A shipped name goes before a folder that happens to be called alike.
    shutil.copytree(tiny_run, tmp_path / "dream-doom")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="can't be overwritten: give --out"):
        calibrate(replace(options, checkpoint="dream-doom", out=None))


def test_what_can_not_be_done_is_said(options: Calibrate, toy_data: Path, tmp_path: Path):
    with pytest.raises(UserError, match="--rounds must be from 1"):
        calibrate(replace(options, rounds=0))
    with pytest.raises(UserError, match="--temperature must be above 0"):
        calibrate(replace(options, temperature=0.0))
    with pytest.raises(UserError, match="guidance must be from 0"):
        calibrate(replace(options, guidance=-0.5))
    with pytest.raises(UserError, match="take shorter clips"):
        calibrate(replace(options, steps=1000))
    reader = EpisodeReader(toy_data)
    other = replace(reader.info, variable_names=("row",))
    with EpisodeWriter(tmp_path / "other", other) as writer:
        writer.append(reader.episode(0))
    with pytest.raises(UserError, match="have different variables"):
        calibrate(replace(options, data=tmp_path / "other"))
    elsewhere = replace(reader.info, env_kwargs={"frame_skip": 2})
    with EpisodeWriter(tmp_path / "elsewhere", elsewhere) as writer:
        writer.append(reader.episode(0))
    with pytest.raises(UserError, match="have different environment"):
        calibrate(replace(options, data=tmp_path / "elsewhere"))
    assert options.out is not None
    assert not options.out.exists()


def test_the_command_fails_in_one_line(monkeypatch, toy_data: Path, tmp_path: Path):
    arguments = ["calibrate", str(tmp_path / "nothing"), "--data", str(toy_data)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert "nothing" in one_line_error(command.main)


def test_another_checkpoint_is_not_replaced_unasked(options: Calibrate, tiny_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other, ignore=shutil.ignore_patterns("training"))
    before = (other / "weights.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"exists already: .*--overwrite"):
        calibrate(replace(options, out=other))
    with locked(other), pytest.raises(UserError, match="is being written to by another process"):
        calibrate(replace(options, checkpoint=str(other), out=None))
    assert (other / "weights.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="belongs to a training run"):
        calibrate(replace(options, checkpoint=str(other), out=tiny_run, overwrite=True))
    calibrate(replace(options, out=other, overwrite=True))
    assert (other / "weights.safetensors").read_bytes() != before
