"""Exported dreams: the same dream in onnxruntime as in PyTorch."""

import json
import shutil
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import one_line_error
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from worldmodel.checkpoint import load_checkpoint
from worldmodel.errors import UserError
from worldmodel.export.__main__ import Export, export, main
from worldmodel.export.check import compare
from worldmodel.export.compact import LEAST_SIZE, compact
from worldmodel.export.running import OnnxDream
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.prior.layers import encode_actions

GUIDED = SamplingOptions(temperature=0.9, guidance=0.5)


@pytest.fixture(scope="module")
def exported(posed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dream with pose, memory and guidance."""
    out = tmp_path_factory.mktemp("exported") / "posed"
    with pytest.MonkeyPatch.context() as patched:
        # The checks of shapes are no code that torch can trace.
        patched.setattr(jaxtyping.config, "jaxtyping_disable", True)
        export(Export(str(posed_run), out, sampling=GUIDED))
    return out


def test_a_dream_is_the_same_in_onnxruntime(posed_run, exported):
    checkpoint, dream = load_checkpoint(str(posed_run)), OnnxDream(exported)
    sampling = GUIDED.applied_to(checkpoint.world.sampling)
    # Longer than the window, so that older frames are looked back at.
    found = compare(checkpoint, dream, sampling, steps=60)
    assert found.is_same
    assert found.equal > 0.99
    assert export(Export(check=exported, steps=5)) == 0
    other = compare(
        checkpoint, dream, Sampling(temperature=0.5), steps=10
    )  # not what it was exported for
    assert not other.is_same


def test_given_frames_are_observed_with_their_exact_likelihood(posed_run, exported):
    checkpoint, dream = load_checkpoint(str(posed_run)), OnnxDream(exported)
    model, starts = checkpoint.model, checkpoint.starts
    codes = model.encode(torch.from_numpy(starts.frames[:1]))
    actions = encode_actions(model.config.actions, torch.from_numpy(starts.actions[:1]))
    variables, poses = (torch.from_numpy(part[:1]) for part in (starts.variables, starts.poses))
    past = model.prior.whole_past(codes[:, :-1], poses)
    with torch.no_grad():
        predicted = model.prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=past)
        nats = torch.nn.functional.cross_entropy(
            predicted.logits[0].mT, codes[0, 1:].flatten(1), reduction="none"
        ).mean(1)
    # All but the last transition, then the last one.
    state = dream.start_from(
        codes[0, :-1].numpy(),
        starts.actions[0, :-1],
        starts.variables[0, :-1],
        starts.poses[0, :-1],
    )
    outputs, state = dream.step(
        state,
        starts.actions[0, -1],
        np.zeros(model.num_uniforms, np.float32),
        codes=codes[0, -1].numpy(),
        variables=starts.variables[0, -1],
        pose=starts.poses[0, -1],
    )
    np.testing.assert_array_equal(outputs["codes"], codes[0, -1])
    assert float(outputs["nats"]) == pytest.approx(float(nats[-1]), rel=1e-4)
    np.testing.assert_array_equal(state["pose"], starts.poses[0, -1])
    begun = dream.start(0)
    for name in state:
        np.testing.assert_array_equal(state[name], begun[name])


def test_a_start_from_frames_alone_is_located_as_in_pytorch(posed_run, exported):
    checkpoint, dream = load_checkpoint(str(posed_run)), OnnxDream(exported)
    starts = checkpoint.starts
    seen = dream.encode(starts.frames[0, -1])
    unknown = np.full(starts.poses[0].shape, np.nan, np.float32)
    unknown[-1] = seen["pose"]
    codes = np.stack([dream.encode(frame)["codes"] for frame in starts.frames[0]])
    state = dream.start_from(codes, starts.actions[0], starts.variables[0], unknown)
    frames, actions, variables = (
        torch.from_numpy(part[:1]) for part in (starts.frames, starts.actions, starts.variables)
    )
    wanted = checkpoint.model.start(frames, actions, variables)
    np.testing.assert_allclose(state["pose"], wanted.pose[0], rtol=1e-4)
    assert state["known"]
    np.testing.assert_allclose(
        state["memory.keys_values"], wanted.memory.keys_values[0], atol=1e-4, rtol=1e-4
    )
    frame = checkpoint.model.newest_frames(wanted)[0].numpy()
    assert np.abs(dream.frame(state).astype(int) - frame).max() <= 1


def test_exports_name_their_checkpoint(tiny_run, posed_run, exported, tmp_path):
    moved = shutil.copytree(exported, tmp_path / "moved")
    description = json.loads((moved / "dream.json").read_text())
    (moved / "dream.json").write_text(json.dumps({**description, "sha256": "0" * 64}))
    with pytest.raises(UserError, match="was exported from another checkpoint than"):
        export(Export(check=moved))
    with pytest.raises(UserError, match="was exported from another checkpoint than"):
        export(Export(str(tiny_run), check=exported))
    elsewhere = {**description, "checkpoint": "somebody/dream"}
    (moved / "dream.json").write_text(json.dumps(elsewhere))
    with pytest.raises(UserError, match="'somebody/dream', which is not on this machine"):
        export(Export(check=moved))
    content = (moved / "decode.onnx").read_bytes()
    (moved / "decode.onnx").write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match=r"decode\.onnx is not the file that was exported"):
        OnnxDream(moved)
    for entry, value in (("graphs", {}), ("state", [{"name": "recent"}]), ("num_uniforms", -1)):
        (moved / "dream.json").write_text(json.dumps({**description, entry: value}))
        with pytest.raises(UserError, match=r"dream\.json is damaged: ") as refused:
            OnnxDream(moved)
        assert entry in str(refused.value)
    (moved / "dream.json").write_text(json.dumps({**description, "format_version": 99}))
    with pytest.raises(UserError, match="was exported by another version: export it again"):
        OnnxDream(moved)


def test_the_loop_in_the_documentation_runs(exported, posed_run, capsys):
    page = (Path(__file__).parents[1] / "docs/export.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    replaced = code.replace("exported/dream-doom", str(exported)).replace("action=3", "action=1")
    assert replaced.count(str(exported)) == 1
    found: dict = {}
    exec(compile(replaced, "export.md", "exec"), found)
    assert len(capsys.readouterr().out.splitlines()) == 100
    dream = OnnxDream(exported)
    state, rng = dream.start(0), np.random.default_rng(0)
    for _ in range(100):
        uniforms = rng.random(dream.description["num_uniforms"], np.float32)
        _, state = dream.step(state, np.array(1), uniforms)
    for name in state:
        np.testing.assert_array_equal(found["state"][name], state[name])
    np.testing.assert_array_equal(found["frame"], dream.frame(state))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "give a checkpoint and --out FOLDER, or --check FOLDER"),
        (["dream-doom"], "give a checkpoint and --out FOLDER, or --check FOLDER"),
        (["dream-doom", "--out", "x", "--pose-temperature", "1"], "only the likeliest pose"),
        (["--check", "nowhere"], "nowhere holds no exported dream: make one with"),
    ],
)
def test_mistakes_are_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["export", *arguments])
    assert message in one_line_error(main)


def _graph_of(values: np.ndarray) -> onnx.ModelProto:
    given, taken = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape) for name in "xy"
    )
    weights = [numpy_helper.from_array(values, "w"), numpy_helper.from_array(values, "unused")]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "sum", [given], [taken], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["rows", "columns", "half", "whole", "mask", "zeros"]),
    magnitude=st.integers(-12, 3),
)
def test_compact_weights_are_the_same_numbers(seed, kind, magnitude):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((40, 50)) * 10.0**magnitude).astype(np.float32)
    if kind in ("rows", "columns"):
        axis = 1 if kind == "rows" else 0
        scale = np.abs(values).max(axis, keepdims=True) / np.float32(127)
        values = (values / scale).round().astype(np.int8) * scale
    elif kind == "half":
        values = values.astype(np.float16).astype(np.float32)
    elif kind == "mask":
        values = np.where(values > 0, -np.inf, 0).astype(np.float32)
    elif kind == "zeros":
        values[:7] = 0
    assert values.size > LEAST_SIZE
    model = _graph_of(values)
    compact(model)
    onnx.checker.check_model(model)
    stored = sum(numpy_helper.to_array(each).nbytes for each in model.graph.initializer)
    if kind in ("rows", "columns", "half", "mask"):
        assert stored < 0.51 * values.nbytes
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": np.zeros_like(values)})
    np.testing.assert_array_equal(found, values)
