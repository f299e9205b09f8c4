"""Several processes, parts of a batch and activations computed again: all train as one does."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy_training import Options, ToyStage, run

from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import PRESETS
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.training.devices import make_fabric
from worldmodel.training.schedule import Timing
from worldmodel.training.sharding import repeated_blocks
from worldmodel.training.trainer import train_stage
from worldmodel.vqvae.codebook import Codebook

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ROOT = Path(__file__).parents[1]
# Trained by two processes, in one start of them.
SHARED: dict[str, dict] = {
    "ddp": {"strategy": "ddp"},
    "ddp-accumulate": {"strategy": "ddp", "accumulate": 2},
    "fsdp": {"strategy": "fsdp"},
    "fsdp-accumulate": {"strategy": "fsdp", "accumulate": 2},
    "fsdp-checkpoint": {"strategy": "fsdp", "checkpoint_activations": True},
    "fsdp-bf16": {"strategy": "fsdp", "precision": "bf16"},
    "fsdp-killed": {"strategy": "fsdp", "killed_at": 6},
    "fsdp-goes-on": {"strategy": "fsdp"},  # where one process was killed
    "fsdp-dropout": {"strategy": "fsdp", "dropout": 0.3},
    "fsdp-dropout-killed": {"strategy": "fsdp", "dropout": 0.3, "killed_at": 6},
}
AS_ONE = ["ddp", "ddp-accumulate", "fsdp", "fsdp-accumulate", "fsdp-checkpoint", "fsdp-goes-on"]


def torchrun(arguments: list[str]) -> None:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*TORCHRUN, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


def train_together(options: list[Options]) -> None:
    torchrun([str(ROOT / "tests" / "toy_training.py"), json.dumps([asdict(o) for o in options])])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each training of `SHARED`, by two processes, and "alone", by one."""
    folder = tmp_path_factory.mktemp("distributed")
    run(Options(out=str(folder / "alone")))
    run(Options(out=str(folder / "fsdp-goes-on"), killed_at=6))
    shared = [Options(out=str(folder / name), **options) for name, options in SHARED.items()]
    again = [replace(o, killed_at=None) for o in shared if o.dropout and o.killed_at]
    train_together([*shared, *again])
    return folder


def curves(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "toy.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def state(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "toy.state.safetensors")


def held(out: Path) -> dict[str, float]:
    """What the second process had in memory; it never validates."""
    return json.loads((out / "held-1.json").read_text())


def assert_as_one(one: Path, other: Path) -> None:
    """The same losses at every step, the same weights and moments in the end."""
    assert len(curves(one)) > 12
    for a, b in zip(curves(one), curves(other), strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
    expected, actual = state(one), state(other)
    # Of a parameter without numbers the optimiser may know or not how often it moved.
    empty = {name.rpartition(".")[0] for name, value in expected.items() if not value.numel()}
    names = {name for name in {*expected, *actual} if name.rpartition(".")[0] not in empty}
    for name in names:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", AS_ONE)
def test_two_processes_train_as_one(name: str, folder: Path):
    assert_as_one(folder / "alone", folder / name)


@pytest.mark.parametrize("change", [{"accumulate": 4}, {"checkpoint_activations": True}])
def test_parts_and_second_passes_change_nothing(change: dict, folder: Path, tmp_path: Path):
    stage = run(Options(out=str(tmp_path), **change))
    assert_as_one(folder / "alone", tmp_path)
    assert stage.held["passes"] > (1.9 if "checkpoint_activations" in change else 0)


def test_sliced_training_in_bf16_is_that_of_one_process(folder: Path, tmp_path: Path):
    run(Options(out=str(tmp_path), precision="bf16"))
    for a, b in zip(curves(tmp_path), curves(folder / "fsdp-bf16"), strict=True):
        assert b == pytest.approx(a, rel=0.05, abs=0.02)
    tensors = state(folder / "fsdp-bf16")
    assert {v.dtype for v in tensors.values()} == {torch.float32, torch.int64}


def test_slices_leave_no_process_the_whole(folder: Path):
    whole, slices = held(folder / "ddp"), held(folder / "fsdp")
    assert slices["trained"] < 0.5 * whole["trained"]
    assert slices["aside"] == 0
    assert held(folder / "fsdp-checkpoint")["passes"] > 1.9 * slices["passes"]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp-accumulate"])
def test_every_process_is_left_with_the_weights(name: str, folder: Path):
    saved = state(folder / name)
    for rank in range(2):
        left = torch.load(folder / name / f"left-{rank}.pt", weights_only=True)
        for key, tensor in left.items():
            assert torch.equal(tensor, saved[f"model.{key}"]), key


def test_one_process_goes_on_where_slices_were_killed(folder: Path):
    killed = folder / "fsdp-killed"
    assert curves(killed)[-1]["step"] == 5
    run(Options(out=str(killed)))
    assert_as_one(folder / "alone", killed)


def test_killed_slices_go_on_to_the_bit(folder: Path):
    whole, killed = folder / "fsdp-dropout", folder / "fsdp-dropout-killed"
    assert curves(whole) == curves(killed)
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(killed)[name]), name
    assert curves(whole) != curves(folder / "fsdp")  # there was dropout


@settings(max_examples=20, deadline=None)
@given(num_parts=st.integers(1, 4), size=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_codebook_moves_once_for_all_parts_of_a_batch(num_parts: int, size: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(num_parts * size, 3, generator=generator) for _ in range(3)]
    whole, in_parts = Codebook(4, 3), Codebook(4, 3)
    whole(batches[0])
    in_parts(batches[0])  # the first batch gives the codes
    in_parts.num_parts = num_parts
    for batch in batches[1:]:
        _, codes, _ = whole(batch)
        parts = [in_parts(part)[1] for part in batch.split(size)]
        assert torch.equal(torch.cat(parts), codes)
    for name, buffer in whole.state_dict().items():
        assert torch.equal(in_parts.state_dict()[name], buffer), name


def test_blocks_are_the_layers_of_the_models():
    preset = PRESETS["dream-doom"]
    actions = ActionSpec("discrete", (2,), meanings=("stay", "right"))
    with torch.device("meta"):
        prior = replace(preset.prior, head_layers=2)
        model = WorldModel(WorldModelConfig(actions, ("column",), preset.tokenizer, prior))
    layers = [*model.prior.blocks, *model.prior.head.blocks]
    assert len(layers) == prior.layers + 2
    assert repeated_blocks(model.prior) == layers
    blocks = repeated_blocks(model.tokenizer)
    assert {type(block).__name__ for block in blocks} == {"ResidualBlock"}
    assert len(blocks) == 2 * preset.tokenizer.residual_layers


def test_what_cannot_be_shared_is_said_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="--strategy fsdp shares the work of several"):
        make_fabric(device="cpu", precision="fp32", strategy="fsdp")
    with pytest.raises(UserError, match="unknown strategy 'tp': auto, ddp or fsdp"):
        make_fabric(device="cpu", precision="fp32", strategy="tp")
    with pytest.raises(UserError, match="a batch of 8 can't be cut evenly into 3 parts"):
        run(Options(out=str(tmp_path), accumulate=3))


def test_a_module_that_cannot_compute_again_is_named(tmp_path: Path):
    stage = ToyStage(Options(out=""))
    del stage.module.checkpoint_activations
    fabric = make_fabric(device="cpu", precision="fp32", strategy="auto")
    with pytest.raises(UserError, match="leave --checkpoint-activations out"):
        train_stage(stage, fabric, tmp_path, Timing(), seed=0, checkpoint_activations=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_compiled_they_train_as_one(folder: Path, tmp_path: Path):
    names = ("ddp", "fsdp")
    train_together([Options(str(tmp_path / n), strategy=n, compiled=True) for n in names])
    for name in names:
        assert_as_one(folder / "alone", tmp_path / name)


@pytest.mark.slow
def test_a_killed_world_model_goes_on_in_slices(toy_data: Path, tmp_path: Path):
    command = ["-m", "worldmodel.train", "tiny", "--device", "cpu", "--precision", "fp32"]
    command += ["--data", str(toy_data), "--tokenizer-steps", "12", "--prior-steps", "12"]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    subprocess.run([sys.executable, *command, "--out", str(alone)], check=True, cwd=ROOT)
    command += ["--out", str(killed), "--strategy", "fsdp", "--save-minutes", "0"]
    for stage in ("tokenizer", "prior"):
        kill_when(killed / "training" / f"{stage}.state.safetensors", command)
    torchrun(command)
    expected, actual = (load_file(f / "weights.safetensors") for f in (alone, killed))
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def kill_when(exists: Path, command: list[str]) -> None:
    """Kill torchrun and its processes as soon as a file is there."""
    process = subprocess.Popen(
        [*TORCHRUN, *command],
        cwd=ROOT,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not exists.exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None
    # torchrun gives each process a session of its own: they are found as its children.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [*children, process.pid]:
        os.kill(int(pid), signal.SIGKILL)
    process.wait()
