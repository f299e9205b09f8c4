"""Training does what it says: learns, goes on to the bit after a kill, refuses what doesn't fit."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import write_toy_data
from data_samples import INFO, array_of, sample_episode
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worldmodel.checkpoint import Checkpoint, load_checkpoint, read_lineage, save_checkpoint
from worldmodel.command import duration, python_command
from worldmodel.configs.presets import PRESETS
from worldmodel.data import EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.storage.files import locked
from worldmodel.train import Train, train
from worldmodel.training.curves import Board, Curves
from worldmodel.training.muon import Muon
from worldmodel.training.options import AUTO, AUTO_SMALL, DREAM_PRESETS, PUBLISHED_PRESETS
from worldmodel.training.run import make_fabric
from worldmodel.training.state import Progress
from worldmodel.training.trainer import Clock, Pace, Timing, learning_rate, make_optimizers
from worldmodel.videogpt.configs import PUBLISHED

COMMAND = [sys.executable, "-m", "worldmodel.train", "tiny"]
COMMAND += ["--device", "cpu", "--precision", "fp32"]


def states(out: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for stage in ("tokenizer", "prior"):
        state = load_file(out / "training" / f"{stage}.state.safetensors")
        tensors |= {f"{stage}.{name}": tensor for name, tensor in state.items()}
    return tensors


def numbers(out: Path, stage: str) -> list[dict]:
    lines = (out / "training" / f"{stage}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_leaves_checkpoint_curves_and_pictures(tiny_run: Path):
    assert {"config.json", "weights.safetensors", "starts.safetensors", "README.md"} <= {
        path.name for path in tiny_run.iterdir()
    }
    names = {path.name for path in (tiny_run / "training").iterdir()}
    assert {"tokenizer.jsonl", "prior.jsonl", "tensorboard"} <= names
    assert any(name.startswith("prior-") and name.endswith(".png") for name in names)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_toy_world_is_learned(precision, toy_data: Path, tmp_path: Path):
    out = tmp_path / "run"
    train(
        Train(
            preset="tiny",
            data=toy_data,
            out=out,
            device="cpu",
            precision=precision,
            tokenizer_steps=150,
            prior_steps=250,
            learning_rate=3e-3,
        )
    )
    last = numbers(out, "tokenizer")[-1]
    assert last["validation/psnr"] > 20  # a grey frame would give 17
    first, last = numbers(out, "prior")[0], numbers(out, "prior")[-1]
    assert last["validation/nats_a_token"] < 0.5 * first["nats_a_token"]
    # The reward is the action: nothing is left to guess.
    assert last["validation/reward_nats"] < 0.2


def test_data_that_show_nothing_are_refused(tmp_path: Path):
    info = replace(INFO, frame_shape=(64, 64, 3))
    with EpisodeWriter(tmp_path / "data", info) as writer:
        for i in range(20):
            episode = sample_episode(i, info=info)
            writer.append(replace(episode, frames=np.full_like(episode.frames, 7)))
    with pytest.raises(UserError, match="has the same value"):
        train(Train(preset="tiny", data=tmp_path / "data", out=tmp_path / "run", device="cpu"))


def test_a_killed_run_resumes_to_the_bit(posed_data: Path, tmp_path: Path):
    options = ["--data", str(posed_data), "--tokenizer-steps", "30", "--prior-steps", "30"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*COMMAND, *options, "--out", whole], check=True, capture_output=True)
    saved_often = [*COMMAND, *options, "--out", killed, "--save-minutes", "0"]
    for stage in ("tokenizer", "place", "prior"):
        process = subprocess.Popen(
            saved_often, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        state = killed / "training" / f"{stage}.state.safetensors"
        while not state.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(saved_often, check=True, capture_output=True)
    expected, actual = states(whole), states(killed)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name
    steps = [line["step"] for line in numbers(killed, "prior") if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_run_that_can_t_be_written_is_refused(toy_data: Path, tmp_path: Path):
    (tmp_path / "file").write_text("here before")
    options = Train(preset="tiny", data=toy_data, out=tmp_path / "file" / "run", device="cpu")
    with pytest.raises(UserError, match="can't be written to"):
        train(options)
    assert (tmp_path / "file").read_text() == "here before"


def test_it_begins_from_a_checkpoint(toy_data: Path, tiny_run: Path, tmp_path: Path):
    options = Train(preset="tiny", data=toy_data, device="cpu", precision="fp32", prior_steps=1)
    options = replace(options, stage="prior", init=str(tiny_run), learning_rate=1e-9)
    train(replace(options, out=tmp_path / "run"))
    before, after = (load_file(f / "weights.safetensors") for f in (tiny_run, tmp_path / "run"))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6, msg=name)
    lineage = read_lineage(tmp_path / "run")
    assert lineage is not None
    digest = hashlib.sha256((tiny_run / "weights.safetensors").read_bytes()).hexdigest()
    start = {"name": tiny_run.name, "part": "all", "weights_sha256": digest}
    assert lineage["started_from"] == start
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"training started from: {tiny_run.name}" in card
    with pytest.raises(UserError, match="its tokenizer, prior, sharp_frames differ from"):
        train(replace(options, preset="dream-doom", out=tmp_path / "other"))


def test_places_are_learned_before_the_prior_and_only_once(
    posed_data: Path, posed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, last = (numbers(posed_run, "place")[i] for i in (0, -1))
    assert last["validation/sketch_error"] < first["sketch_error"]
    options = Train(preset="tiny", data=posed_data, device="cpu", precision="fp32", prior_steps=1)
    options = replace(options, stage="prior", init=str(posed_run), learning_rate=1e-9)
    train(replace(options, out=tmp_path / "run"))
    assert "training the prior (1 steps) into" in capsys.readouterr().err
    assert not (tmp_path / "run" / "training" / "place.state.safetensors").exists()
    before, after = (load_file(f / "weights.safetensors") for f in (posed_run, tmp_path / "run"))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_and_says_so(toy_data: Path, tmp_path: Path, number):
    out = tmp_path / "run"
    command = [*COMMAND, "--data", str(toy_data), "--out", out, "--tokenizer-steps", "1000000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (out / "training" / "tokenizer.jsonl").exists() or not numbers(out, "tokenizer"):
        time.sleep(0.05)
    process.send_signal(number)
    if number == signal.SIGTERM:  # a cluster's and torchrun's
        process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    shown = python_command("worldmodel.train", *map(str, command[3:]))
    assert f"to resume from the last saved state: {shown}" in errors
    assert "Traceback" not in errors
    assert (out / "training" / "tokenizer.state.safetensors").exists()


@pytest.mark.slow
def test_two_processes_train_as_one(posed_data: Path, tmp_path: Path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    options = ["--data", str(posed_data), "--tokenizer-steps", "8", "--prior-steps", "8"]
    subprocess.run([*COMMAND, *options, "--out", alone], check=True, capture_output=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(
        [*torchrun, *COMMAND[1:], *options, "--out", together],
        check=True,
        capture_output=True,
        env=environment,
    )
    for stage in ("tokenizer", "place", "prior"):
        one, two = numbers(alone, stage), numbers(together, stage)
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            for name in set(a) - {"seconds"}:
                assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (stage, name)


def test_missing_data_says_which_command_makes_it(tmp_path: Path):
    result = subprocess.run(
        [*COMMAND, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "python -m collect.vizdoom" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_preset_lists_the_known_ones(toy_data: Path):
    with pytest.raises(UserError, match="dream-doom"):
        train(Train(preset="doom", data=toy_data))


def test_a_folder_of_another_world_is_left_alone(toy_data: Path, tiny_run: Path):
    before = (tiny_run / "weights.safetensors").read_bytes()
    with pytest.raises(UserError, match="choose another --out"):
        train(
            Train(preset="dream-doom", data=toy_data, out=tiny_run, device="cpu", precision="fp32")
        )
    assert (tiny_run / "weights.safetensors").read_bytes() == before


def test_a_damaged_state_is_named(toy_data: Path, tmp_path: Path):
    out = tmp_path / "run"
    state = out / "training" / "tokenizer.state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(UserError, match="is damaged"):
        train(Train(preset="tiny", data=toy_data, out=out, device="cpu", precision="fp32"))


def test_a_full_disk_keeps_the_state_saved_before(toy_data: Path, full_disk):
    out = full_disk(2**22) / "run"
    command = [*COMMAND, "--data", str(toy_data), "--out", str(out), "--stage", "tokenizer"]
    subprocess.run(command, check=True, capture_output=True)
    state = out / "training" / "tokenizer.state.safetensors"
    before = state.read_bytes()
    fill = out.parent / "fill"
    fill.write_bytes(bytes(shutil.disk_usage(out).free - len(before) // 2))
    result = subprocess.run(
        [*command, "--tokenizer-steps", "40"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    error = result.stderr.splitlines()[-1]
    assert "No space left on device" in error
    assert "free some space, then run the same command again" in error
    assert "Traceback" not in result.stderr
    assert state.read_bytes() == before
    fill.unlink()
    subprocess.run([*command, "--tokenizer-steps", "40"], check=True, capture_output=True)


@pytest.mark.parametrize("room", [0, 5000])
def test_curves_on_a_full_disk_end_in_a_line(full_disk, room: int):
    folder = full_disk(2**19)
    free = shutil.disk_usage(folder).free - room // 4096 * 4096
    (folder / "fill").write_bytes(bytes(free))

    def write_on() -> None:
        with Curves(folder / "run", "prior", 0, shown=True) as curves:
            for step in range(10_000):
                curves.write(Progress(step=step), {"loss": 1.0})

    with pytest.raises(OSError, match="No space left") as error:
        write_on()
    assert str(error.value.filename).startswith(str(folder))


def test_tensorboard_reads_the_curves(tiny_run: Path, tmp_path: Path):
    read = EventAccumulator(str(tiny_run / "training" / "tensorboard")).Reload()
    expected = [line for line in numbers(tiny_run, "prior") if "loss" in line]
    actual = read.Scalars("prior/loss")
    assert [event.step for event in actual] == [line["step"] for line in expected]
    assert [event.value for event in actual] == pytest.approx([line["loss"] for line in expected])
    for step in (0, 10):  # a killed run wrote up to step 15, and resumes after step 10
        board = Board(tmp_path, step)
        for later in range(step + 1, step + 16):
            board.add({"loss": float(later + step)}, later)
        board.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    steps = {event.step: event.value for event in read.Scalars("loss")}
    assert steps == {n: float(n if n <= 10 else n + 10) for n in range(1, 26)}


def test_a_second_training_in_one_folder_is_refused(toy_data: Path, tmp_path: Path):
    out = tmp_path / "run"
    options = Train("tiny", data=toy_data, out=out, device="cpu", precision="fp32")
    refused = pytest.raises(UserError, match="is being written to by another process")
    with locked(out), refused as told:
        train(options)
    assert "free some space" not in str(told.value)
    assert not out.exists()


def test_what_a_checkpoint_was_made_from_stands_in_it(
    toy_data: Path, tiny_run: Path, tmp_path: Path, capsys
):
    """Not in the times of its files: copies keep what was calibrated, and clocks may be wrong."""
    out = tmp_path / "run"
    shutil.copytree(tiny_run, out)  # with new times, in any order
    options = Train("tiny", data=toy_data, out=out, device="cpu", precision="fp32")
    calibrated = load_checkpoint(str(out))
    with torch.no_grad():
        calibrated.model.prior.head.logits.bias.add_(1)
    save_checkpoint(out, calibrated, card="", compact=False)
    os.utime(out / "training" / "prior.state.safetensors")  # as cp -r may leave it: newer
    train(options)
    assert "its checkpoint is unchanged" in capsys.readouterr().err
    assert exported(out) == bias_of(calibrated)
    # Trained further, it is exported whatever the weights' date.
    os.utime(out / "weights.safetensors", (2**32, 2**32))
    train(replace(options, prior_steps=21))
    assert exported(out) == states(out)["prior.model.head.logits.bias"].tolist()


def test_an_older_checkpoint_is_never_replaced(toy_data: Path, tiny_run: Path, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(tiny_run, out)
    options = Train("tiny", data=toy_data, out=out, device="cpu", precision="fp32")
    calibrated = load_checkpoint(str(out))
    with torch.no_grad():
        calibrated.model.prior.head.logits.bias.add_(1)
    save_checkpoint(out, replace(calibrated, lineage={}), card="", compact=False)
    train(options)
    assert exported(out) == bias_of(calibrated)
    assert "move its config.json elsewhere" in capsys.readouterr().err
    shutil.move(out / "config.json", tmp_path)
    train(options)
    assert exported(out) == states(out)["prior.model.head.logits.bias"].tolist()


def test_a_save_that_was_killed_is_finished_by_the_next_training(
    toy_data: Path, tiny_run: Path, tmp_path: Path
):
    out = tmp_path / "run"
    shutil.copytree(tiny_run, out)
    (out / "unfinished.tmp").mkdir()  # as a kill between weights and config leaves it
    shutil.move(out / "config.json", out / "unfinished.tmp" / "config.json")
    train(Train("tiny", data=toy_data, out=out, device="cpu", precision="fp32"))
    assert exported(out) == exported(tiny_run)
    (out / "config.json").unlink()  # as older versions left it
    train(Train("tiny", data=toy_data, out=out, device="cpu", precision="fp32"))
    assert exported(out) == exported(tiny_run)


def bias_of(checkpoint: Checkpoint) -> list[float]:
    return checkpoint.model.prior.head.logits.bias.tolist()


def exported(out: Path) -> list[float]:
    return bias_of(load_checkpoint(str(out)))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("action", 2, "an action is outside"),
        ("reward", np.nan, "reward holds a value that is not finite"),
        ("variables", np.inf, "variables holds a value that is not finite"),
    ],
)
def test_values_that_verify_refuses_are_refused_before_training(
    toy_data: Path, tmp_path: Path, name: str, value: float, complaint: str
):
    data = tmp_path / "data"
    shutil.copytree(toy_data, data)
    with h5py.File(next(data.glob("shard-*.h5")), "r+") as file:
        array_of(file, name)[-1] = value  # of the last episode
    options = Train("tiny", data=data, out=tmp_path / "run", device="cpu", precision="fp32")
    with pytest.raises(UserError, match=complaint):
        train(options)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_stopped_by_the_clock_it_says_how_to_resume(toy_data: Path, tmp_path: Path, capsys):
    options = Train("tiny", data=toy_data, out=tmp_path / "run", device="cpu", precision="fp32")
    train(replace(options, max_minutes=1e-6), command="python -m worldmodel.train it")
    said = capsys.readouterr().err
    assert "To resume: python -m worldmodel.train it" in said
    train(options)
    said = capsys.readouterr().err
    assert f"play it: python -m play --env {tmp_path / 'run'}" in said
    assert said.count("curves: tensorboard --logdir") == 1
    assert "100 %" in said


def test_durations_are_for_people():
    assert duration(40) == "a minute"
    assert duration(12_600) == "3.5 hours"


def test_the_help_needs_no_torch():
    """It takes seconds to import."""
    modules = "worldmodel.train, worldmodel.videogpt.train"
    script = f"import sys, {modules}; sys.exit(len({{'torch', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert (AUTO, AUTO_SMALL, *PRESETS) == DREAM_PRESETS
    assert tuple(PUBLISHED) == PUBLISHED_PRESETS


def test_batches_that_cannot_be_shared_are_refused(toy_data: Path, tmp_path: Path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--data", str(toy_data), "--out", str(tmp_path / "run"), "--batch-size", "3"]
    result = subprocess.run(
        [*torchrun, *COMMAND[1:], *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert result.returncode != 0
    assert "a batch of 3 can't be divided evenly" in result.stderr


def test_a_prior_never_meets_another_tokenizer(toy_data: Path, tmp_path: Path):
    options = Train("tiny", data=toy_data, out=tmp_path / "run", device="cpu", precision="fp32")
    train(options)
    with pytest.raises(UserError, match="learned the codes of another tokenizer"):
        train(replace(options, tokenizer_steps=25))


def test_a_run_never_meets_other_data(toy_data: Path, tmp_path: Path):
    options = Train("tiny", data=toy_data, out=tmp_path / "run", device="cpu", precision="fp32")
    train(replace(options, max_minutes=1e-6))
    other = write_toy_data(tmp_path / "other", num_episodes=21)
    with pytest.raises(UserError, match="a run whose data differ"):
        train(replace(options, data=other))


def test_a_gradient_that_is_not_finite_stops_before_the_weights(toy_data: Path, tmp_path: Path):
    options = Train("tiny", data=toy_data, out=tmp_path / "run", device="cpu", precision="fp32")
    with pytest.raises(UserError, match="gradient is not finite"):
        train(replace(options, learning_rate=1e30, save_minutes=0))


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_steps": 0},
        {"batch_size": -1},
        {"batch_size": 10**20},
        {"learning_rate": float("nan")},
        {"max_minutes": float("inf")},
        {"seed": 10**30},
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict, toy_data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=f"--{next(iter(change)).replace('_', '-')} must be"):
        train(replace(Train("tiny", data=toy_data, out=tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_rises_then_falls_to_zero():
    recipe = PRESETS["tiny"].prior_recipe
    rates = [learning_rate(recipe, step, step / recipe.steps) for step in range(recipe.steps + 1)]
    assert rates[0] == pytest.approx(recipe.learning_rate / recipe.warmup, rel=0.05)
    assert max(rates) <= recipe.learning_rate
    assert rates[-1] == pytest.approx(0)
    assert rates[recipe.warmup :] == sorted(rates[recipe.warmup :], reverse=True)


def test_a_schedule_in_minutes_goes_by_the_time_trained():
    timing = Timing(schedule_minutes=2)
    assert timing.fraction(PRESETS["tiny"].prior_recipe, Progress(step=10**6, seconds=60)) == 0.5


def test_validation_is_no_training_time(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(Timing(max_minutes=5, validate_minutes=1))
    now = 90.0
    assert clock.read().validate
    assert not clock.read().stop
    with clock.validating():
        now = 390.0
    due = clock.read()
    assert due.seconds == 90
    assert not due.validate  # not at once again, however long it took
    assert due.stop  # five minutes on the wall


def test_minutes_that_are_too_few_are_noticed_once(capsys):
    stage, timing = "prior", Timing(schedule_minutes=10)
    pace, progress = Pace(), Progress(step=0, seconds=0.0)
    for _ in range(12):  # the first step takes a minute, the others two seconds
        progress.step += 1
        progress.seconds += 60 if progress.step == 1 else 2
        pace.count(progress)
    pace.warn_of_few_steps(stage, timing, progress)
    pace.warn_of_few_steps(stage, timing, progress)
    said = capsys.readouterr().err
    assert said.count("note:") == 1
    assert "in 10 minutes the prior stage takes about 271 steps" in said  # 12 and (600 - 82) / 2
    assert "more --prior-minutes" in said
    quick = Pace()
    for step in range(1, 13):
        quick.count(Progress(step=step, seconds=step / 2))
    quick.warn_of_few_steps(stage, timing, Progress(step=12, seconds=6.0))
    assert not capsys.readouterr().err
    ended = Pace()
    ended.count(Progress(step=1, seconds=601.0))
    ended.warn_of_few_steps(stage, timing, Progress(step=1, seconds=601.0))
    assert "takes about 1 steps" in capsys.readouterr().err
    ended.warn_of_few_steps(stage, Timing(), Progress(step=1, seconds=601.0))
    assert not capsys.readouterr().err


def test_too_little_data_is_said_before_training(tmp_path: Path):
    data = write_toy_data(tmp_path / "data", num_episodes=1)
    with pytest.raises(ValueError, match="record or import more"):
        train(Train(preset="tiny", data=data, out=tmp_path / "run", device="cpu", precision="fp32"))
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_stays_then_falls_along_a_line():
    recipe = replace(PRESETS["tiny"].prior_recipe, warmup=10, decay=0.25, learning_rate=1.0)
    rates = [learning_rate(recipe, 100, share) for share in (0.1, 0.75, 0.875, 1.0)]
    assert rates == pytest.approx([1, 1, 0.5, 0])
    assert learning_rate(recipe, 4, 0.0) == pytest.approx(0.5)


def test_a_schedule_of_few_steps_warms_up_in_a_tenth_of_it():
    recipe = replace(PRESETS["tiny"].prior_recipe, warmup=1000, decay=0.25, learning_rate=1.0)
    rates = [learning_rate(recipe, step, step / 100) for step in range(21)]
    assert rates[:11] == pytest.approx([0.001, *(step / 10 for step in range(1, 11))])
    assert rates[10:] == [1.0] * 11


@pytest.mark.parametrize(("dtype", "largest_error"), [("bfloat16", 0), ("float32", 1e-4)])
def test_muon_equals_torchs(dtype: str, largest_error: float):
    """Torch's computes in bf16 whatever the CPU can do."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(48, 32), (32, 48), (48, 32), (40, 40)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    optimizers = [
        Muon(ours, lr=1e-3, weight_decay=0.1, dtype=getattr(torch, dtype)),
        torch.optim.Muon(theirs, lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=rng)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=largest_error, rtol=0)


def test_muon_moves_matrices_orthogonally_and_as_far_as_adamw():
    """Its step of the first gradient: singular values nearly alike, their root mean square 0.2 of
    the learning rate, as AdamW's is about."""
    recipe = replace(PRESETS["tiny"].prior_recipe, optimizer="muon", weight_decay=0.0)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = torch.nn.Linear(48, 32)

        def hidden_matrices(self) -> list[torch.nn.Parameter]:
            return list(self.hidden.parameters())[:1]

    torch.manual_seed(0)
    module = Module()
    before = module.hidden.weight.detach().clone()
    optimizers = make_optimizers(module, recipe, torch.float32)
    assert sum(len(g["params"]) for o in optimizers for g in o.param_groups) == 2
    module.hidden(torch.randn(64, 48)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    moved = (module.hidden.weight.detach() - before) / recipe.learning_rate
    singular = torch.linalg.svdvals(moved)
    assert singular.max() / singular.min() < 2.5
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


def test_bf16_rounds_products_but_not_what_a_module_is_given():
    fabric = make_fabric(device="cpu", precision="bf16")
    pose = torch.tensor([[1234.5678]])
    assert torch.equal(fabric.setup_module(torch.nn.Flatten())(pose), pose)
    product = fabric.setup_module(torch.nn.Linear(1, 8))(pose)
    assert torch.equal(product, product.bfloat16().float())
