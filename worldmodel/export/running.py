"""An exported dream, run by onnxruntime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnxruntime
from pydantic import Field

from worldmodel.errors import UserError
from worldmodel.export.folder import DESCRIPTION, FORMAT_VERSION, STARTS
from worldmodel.export.graphs import NEXT
from worldmodel.interface.sampling import Sampling
from worldmodel.storage.files import file_digest, read_json
from worldmodel.storage.parsed import parsed

MOST_BYTES = 2**26  # of JSON

MOMENTS = ("codes", "actions", "variables", "poses")
Size = Annotated[int, Field(ge=0, le=2**16)]

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Entry:
    """An input, an output or a part of the state."""

    name: str
    type: Literal["float32", "int64", "int16", "uint8", "bool"]
    shape: Annotated[list[Size], Field(max_length=8)]


@dataclass(frozen=True)
class _StateEntry(_Entry):
    fill: float


@dataclass(frozen=True)
class _Graph:
    file: str
    sha256: str
    inputs: list[_Entry]
    outputs: list[_Entry]


@dataclass(frozen=True)
class _Graphs:
    step: _Graph
    decode: _Graph
    encode: _Graph | None = None


@dataclass(frozen=True)
class _Described:
    """What is used here of dream.json, which may be a stranger's."""

    format_version: int
    checkpoint: str
    sha256: str
    num_uniforms: Size
    sampling: Sampling
    graphs: _Graphs
    state: list[_StateEntry]


class OnnxDream:
    """One dream on one CPU thread; states are passed in and returned.

    Raises:
        UserError: the folder holds no exported dream.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / DESCRIPTION).exists():
            raise UserError(
                f"{folder} holds no exported dream: make one with "
                f"python -m worldmodel.export CHECKPOINT --out {folder}"
            )
        self.description = read_json(folder / DESCRIPTION, most_bytes=MOST_BYTES)
        try:
            described = parsed(_Described, self.description)
        except UserError as error:
            raise UserError(f"{folder / DESCRIPTION} is damaged: {error}") from None
        if described.format_version != FORMAT_VERSION:
            raise UserError(f"{folder} was exported by another version: export it again")
        starts = read_json(folder / STARTS, most_bytes=MOST_BYTES)
        try:
            self.starts = {name: np.array(starts[name]) for name in MOMENTS}
        except (KeyError, TypeError, ValueError):  # a ragged list
            raise UserError(f"{folder / STARTS} is damaged: export it again") from None
        self._sessions = {}
        for name, graph in self.description["graphs"].items():
            path = folder / Path(graph["file"]).name
            if file_digest(path) != graph["sha256"]:
                raise UserError(f"{path} is not the file that was exported: export it again")
            self._sessions[name] = _session(path)
        self.state_names = [entry["name"] for entry in self.description["state"]]
        self._not_given = {
            entry["name"]: np.full(entry["shape"], -1 if entry["name"] == "given_codes" else np.nan)
            for entry in self.description["graphs"]["step"]["inputs"]
            if entry["name"].startswith("given_")
        }

    def start(self, number: int) -> State:
        """The state at one of the start moments."""
        codes, actions, variables, poses = (self.starts[name][number] for name in MOMENTS)
        return self.start_from(codes, actions, variables, poses)

    def start_from(
        self,
        codes: np.ndarray,
        actions: np.ndarray,
        variables: np.ndarray,
        poses: np.ndarray,
    ) -> State:
        """The state after T frames.

        Args:
            codes: int (T, h, w, q).
            actions: (T-1, ...), between the frames.
            variables: (T, V).
            poses: (T, P); NaN where they are unknown.
        """
        state = {
            entry["name"]: np.full(entry["shape"], entry["fill"], entry["type"])
            for entry in self.description["state"]
        }
        state["recent"][:] = codes[0]
        if "variables" in state:
            state["variables"][:] = variables[0]
        if "pose" in state and np.isfinite(poses[0]).all():
            state["pose"][:], state["known"] = poses[0], np.array(True)
        numbers = np.zeros(self.description["num_uniforms"], np.float32)
        for t, action in enumerate(actions):
            given = {"codes": codes[t + 1], "variables": variables[t + 1], "pose": poses[t + 1]}
            _, state = self.step(state, action, numbers, **given)
        return state

    def step(
        self, state: State, action: Any, uniforms: np.ndarray, **given: np.ndarray
    ) -> tuple[dict[str, np.ndarray], State]:
        """One step.

        Args:
            uniforms: float32 in [0, 1).
            given: `codes`, `variables` or `pose` of the next frame, where it is observed.

        Returns:
            The outputs (codes, reward, terminated, end_probability, nats: see
            `worldmodel.dream.Step`), and the next state, which has variables and pose.
        """
        inputs = self._not_given | {
            f"given_{name}": part for name, part in given.items() if part.size
        }
        inputs |= {"action": action, "uniforms": uniforms, **state}
        outputs = self._run("step", inputs)
        following = {name: outputs.pop(NEXT + name) for name in state}
        return outputs, following

    def frame(self, state: State) -> np.ndarray:
        """The newest frame, uint8 (H, W, C)."""
        return self._run("decode", {"recent": state["recent"]})["frame"]

    def encode(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """The codes (h, w, q) of a frame, uint8 (H, W, C), and the pose read off them."""
        return self._run("encode", {"frame": frame})

    def _run(self, graph: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        entries = self.description["graphs"][graph]
        feeds = {
            entry["name"]: np.asarray(inputs[entry["name"]], entry["type"])
            for entry in entries["inputs"]
        }
        outputs = self._sessions[graph].run(None, feeds)
        names = [entry["name"] for entry in entries["outputs"]]
        return dict(zip(names, map(np.asarray, outputs), strict=True))


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
