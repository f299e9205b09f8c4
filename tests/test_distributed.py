"""Several processes, and parts of a batch: all train as one process does."""

import json
import os
import signal
import socket
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
from toy_training import Options, run

from worldmodel.errors import UserError
from worldmodel.vqvae.codebook import Codebook

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ROOT = Path(__file__).parents[1]
# Trained by two processes, in one start of them.
SHARED: dict[str, dict] = {
    "ddp": {},
    "accumulate": {"accumulate": 2},
    "bf16": {"precision": "bf16"},
    "killed": {"killed_at": 6},
    "resumes": {},  # where one process was killed
    "dropout": {"dropout": 0.3},
    "dropout-killed": {"dropout": 0.3, "killed_at": 6},
}


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
    run(Options(out=str(folder / "resumes"), killed_at=6))
    shared = [Options(out=str(folder / name), **options) for name, options in SHARED.items()]
    again = [replace(o, killed_at=None) for o in shared if o.dropout and o.killed_at]
    train_together([*shared, *again])
    return folder


def curves(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "toy.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def state(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "toy.state.safetensors")


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


@pytest.mark.parametrize("name", ["ddp", "accumulate", "resumes"])
def test_two_processes_train_as_one(name: str, folder: Path):
    assert_as_one(folder / "alone", folder / name)


def test_parts_of_a_batch_change_nothing(folder: Path, tmp_path: Path):
    run(Options(out=str(tmp_path), accumulate=4))
    assert_as_one(folder / "alone", tmp_path)


def test_two_processes_in_bf16_train_as_one(folder: Path, tmp_path: Path):
    run(Options(out=str(tmp_path), precision="bf16"))
    for a, b in zip(curves(tmp_path), curves(folder / "bf16"), strict=True):
        assert b == pytest.approx(a, rel=0.05, abs=0.02)
    tensors = state(folder / "bf16")
    assert {v.dtype for v in tensors.values()} == {torch.float32, torch.int64}


def test_two_machines_train_as_one_and_one_resumes(folder: Path, tmp_path: Path):
    """Two starts of torchrun, as on two machines, of one process each; both see one folder."""
    two, killed = tmp_path / "two", tmp_path / "killed"
    trainings = [Options(out=str(two)), Options(out=str(killed), killed_at=6)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    script = [str(ROOT / "tests" / "toy_training.py"), json.dumps([asdict(o) for o in trainings])]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    machines = [
        subprocess.Popen([*command, f"--node-rank={rank}", *script], env=environment)
        for rank in range(2)
    ]
    assert [machine.wait() for machine in machines] == [0, 0]
    assert_as_one(folder / "alone", two)
    run(Options(out=str(killed)))
    assert_as_one(folder / "alone", killed)


@pytest.mark.parametrize("name", ["ddp", "accumulate"])
def test_every_process_is_left_with_the_weights(name: str, folder: Path):
    saved = state(folder / name)
    for rank in range(2):
        left = torch.load(folder / name / f"left-{rank}.pt", weights_only=True)
        for key, tensor in left.items():
            assert torch.equal(tensor, saved[f"model.{key}"]), key


def test_one_process_resumes_where_two_were_killed(folder: Path):
    killed = folder / "killed"
    assert curves(killed)[-1]["step"] == 5
    run(Options(out=str(killed)))
    assert_as_one(folder / "alone", killed)


def test_two_killed_processes_resume_to_the_bit(folder: Path):
    whole, killed = folder / "dropout", folder / "dropout-killed"
    assert curves(whole) == curves(killed)
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(killed)[name]), name
    assert curves(whole) != curves(folder / "ddp")  # there was dropout


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


def test_what_cannot_be_shared_is_said_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="a batch of 8 can't be divided evenly into 3 parts"):
        run(Options(out=str(tmp_path), accumulate=3))


@pytest.mark.slow
def test_compiled_they_train_as_one(folder: Path, tmp_path: Path):
    train_together([Options(str(tmp_path), compiled=True)])
    assert_as_one(folder / "alone", tmp_path)


@pytest.mark.slow
def test_a_killed_world_model_resumes_in_two_processes(toy_data: Path, tmp_path: Path):
    command = ["-m", "worldmodel.train", "tiny", "--device", "cpu", "--precision", "fp32"]
    command += ["--data", str(toy_data), "--tokenizer-steps", "12", "--prior-steps", "12"]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    subprocess.run([sys.executable, *command, "--out", str(alone)], check=True, cwd=ROOT)
    command += ["--out", str(killed), "--save-minutes", "0"]
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
