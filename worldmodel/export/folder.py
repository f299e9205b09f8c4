"""The folder of an exported dream: ONNX graphs, moments to start from, and what goes where.

dream.json           inputs and outputs of the graphs, the state, actions, names, pose, sampling
step.onnx            one step; see `worldmodel.export.graphs`
decode.onnx          the newest frame of a state
encode.onnx          the codes of a frame, to start from frames of one's own
starts.json          codes, actions, variables and poses of the checkpoint's start moments
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch

from worldmodel.checkpoint import Checkpoint, checkpoint_digest
from worldmodel.command import track
from worldmodel.export.compact import compact
from worldmodel.export.graphs import Decode, DreamStep, Encode, Graph
from worldmodel.interface.sampling import Sampling
from worldmodel.storage.files import file_digest, write_json, written_whole

FORMAT_VERSION = 1
OPSET = 20
DESCRIPTION, STARTS = "dream.json", "starts.json"


def write_export(
    checkpoint: Checkpoint,
    name: str,
    folder: Path,
    sampling: Sampling,
    out: Path,
    graphs: Sequence[str],
) -> None:
    """Write the graphs of a dream and all that is needed to run them.

    Args:
        name: of the checkpoint, as the user gave it.
        folder: where it is.
        sampling: how the dream is sampled; its pose temperature must be 0.
        graphs: which of `worldmodel.export.GRAPHS`.

    Raises:
        OSError: the folder can't be written to.
    """
    model = checkpoint.model.requires_grad_(False)
    step = DreamStep(model, sampling)
    modules = {"step": step, "decode": Decode(model), "encode": Encode(model)}
    (out / DESCRIPTION).unlink(missing_ok=True)  # until all files are of this export
    described = {}
    for graph in track(graphs, "exporting"):
        described[graph] = _write_graph(modules[graph].eval(), out / f"{graph}.onnx")
    starts = checkpoint.starts
    moments = {
        "codes": model.encode(torch.from_numpy(starts.frames)),
        "actions": starts.actions,
        "variables": starts.variables,
        "poses": starts.poses[..., : len(model.config.used_pose)],
    }
    write_json(out / STARTS, {name: part.tolist() for name, part in moments.items()}, indent=None)
    world, config, outcome = checkpoint.world, model.config, model.prior.outcome
    state = [
        {**entry, "fill": step.state[entry["name"]].flatten()[0].item()}
        for entry in described["step"]["inputs"]
        if entry["name"] in step.state
    ]
    space = model.prior.place and model.prior.place.space
    pose_range = None
    if space is not None and not space.spec.new_levels:
        pose_range = [space.low.tolist(), space.high.tolist()]
    write_json(
        out / DESCRIPTION,
        {
            "format_version": FORMAT_VERSION,
            "made_by": f"videogpt-dream {version('videogpt-dream')}",
            "name": Path(name).name,
            "checkpoint": name,
            "sha256": checkpoint_digest(folder),
            "frame_shape": config.tokenizer.frame_shape,
            "fps": world.fps,
            "actions": asdict(config.actions),
            "controls": world.controls,
            "variables": [
                {"name": variable, "low": low, "high": high}
                for variable, low, high in zip(
                    config.variable_names,
                    outcome.variable_low.tolist(),
                    outcome.variable_high.tolist(),
                    strict=True,
                )
            ],
            "pose": asdict(config.used_pose),
            "pose_range": pose_range,
            "sampling": asdict(sampling),
            "num_uniforms": model.num_uniforms,
            "num_starts": len(starts),
            "graphs": described,
            "state": state,
        },
    )


def _write_graph(graph: Graph, path: Path) -> dict[str, Any]:
    examples = tuple(graph.inputs.values())
    torch.compiler.reset()  # sizes that differ from those of an earlier export would not be fixed
    with torch.no_grad(), _without_the_exporters_remarks():
        program = torch.onnx.export(
            graph,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    compact(model)
    onnx.checker.check_model(model)
    with written_whole(path) as unfinished:
        onnx.save(model, unfinished)
    return {
        "file": path.name,
        "sha256": file_digest(path),
        "inputs": [_described(entry) for entry in model.graph.input],
        "outputs": [_described(entry) for entry in model.graph.output],
    }


def _described(entry: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = entry.type.tensor_type
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = [size.dim_value for size in tensor.shape.dim]
    return {"name": entry.name, "type": str(kind), "shape": shape}


@contextmanager
def _without_the_exporters_remarks() -> Iterator[None]:
    """torch's exporter logs what it misses (torchvision) and warns of its own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
