"""The three graphs of an exported dream, as modules that torch can export to ONNX.

    encode   frame                                -> its codes, and the pose read off them
    step     action, random numbers, state, given -> the next frame's codes, and the next state
    decode   codes of the newest frames           -> the newest frame

Nothing has a batch dimension: an exported dream is a single one. Sizes and sampling settings are
fixed.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.dream import Dream, WorldModel
from worldmodel.export.token_scan import sample_by_scan
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.prior import stepping
from worldmodel.prior.head import Undirected
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import Here, Keyframes, Memory, empty_memory

STEP_OUTPUTS = ("codes", "reward", "terminated", "end_probability", "nats")
NEXT = "next."  # before the name of a state tensor, as an output


class Graph(nn.Module):
    """A part of a dream with named inputs and outputs.

    Attributes:
        inputs: an example of each; those that are empty in this world are left out.
        outputs: their names.
    """

    def __init__(
        self, model: WorldModel, inputs: dict[str, Tensor], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs
        self.inputs = {name: example for name, example in inputs.items() if example.numel()}

    def run(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        raise NotImplementedError

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        outputs = self.run(dict(zip(self.inputs, given, strict=True)))
        return tuple(outputs[name] for name in self.outputs)


class Encode(Graph):
    """Codes of a frame and, in worlds with a pose, the pose read off them."""

    def __init__(self, model: WorldModel) -> None:
        frame = torch.zeros(model.config.tokenizer.frame_shape, dtype=torch.uint8)
        located = ["pose"] if model.config.used_pose else []
        super().__init__(model, {"frame": frame}, ["codes", *located])

    def run(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        codes, prior = self.model.encode(given["frame"][None]), self.model.prior
        located = {} if prior.place is None else {"pose": prior.locate(codes)[0]}
        return {"codes": codes[0], **located}


class Decode(Graph):
    """The newest of R consecutive frames, from their codes, as a dream shows it."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model, {"recent": used_state(model)["recent"]}, ["frame"])

    def run(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"frame": self.model.draw_newest(given["recent"][None])[0]}


class DreamStep(Graph):
    """One step of a dream: dreamed, or observed where its codes are given.

    Inputs:
        action: as stored on disk.
        uniforms: as in `WorldModel.step`.
        given_codes: (h, w, q) of the next frame, where it is observed; -1: sampled.
        given_variables: (V,) of the next frame; NaN where they are sampled.
        given_pose: (P,) of the next frame; NaN where it is predicted.
        Then the tensors of `used_state`.

    Outputs are those of `worldmodel.dream.Step`, without the frame; then the tensors of the next
    state, each called "next." and its name. Variables, pose and whether it is known are part of it.

    Args:
        model: the world model.
        sampling: how the dream is sampled; its pose temperature must be 0.
    """

    def __init__(self, model: WorldModel, sampling: Sampling) -> None:
        config, self.state = model.config, used_state(model)
        inputs = {
            "action": an_action(config.actions),
            "uniforms": torch.full((model.num_uniforms,), 0.5),
            "given_codes": torch.full_like(self.state["recent"][0], -1),
            "given_variables": torch.full((len(config.variable_names),), torch.nan),
            "given_pose": torch.full((len(config.used_pose),), torch.nan),
        }
        following = [NEXT + name for name in self.state]
        super().__init__(model, inputs | self.state, [*STEP_OUTPUTS, *following])
        self.sampling = sampling

    def run(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        model, prior = self.model, self.model.prior
        nothing = torch.zeros(0)
        dream = _dream_of(model, {name: given[name].clone() for name in self.state})
        uniforms, codes = given["uniforms"], given["given_codes"].flatten()
        variables, pose = (given.get(f"given_{n}", nothing) for n in ("variables", "pose"))

        def sample_tokens(
            context: Tensor,
            actions: Tensor,
            numbers: Tensor,
            sampling: Sampling,
            undirected: Undirected | None,
        ) -> tuple[Tensor, Tensor]:
            return sample_by_scan(
                prior.head, context, actions, numbers, sampling, undirected, codes
            )

        outcome, memory = stepping.step(
            prior,
            dream.memory,
            dream.codes,
            encode_actions(model.config.actions, given["action"][None]),
            dream.variables,
            uniforms[None, :-1],
            self.sampling,
            Here(dream.pose, dream.known),
            given=stepping.Given(variables[None], pose[None], sample_tokens),
        )
        known = dream.known
        if model.config.used_pose:
            known = known | pose.isfinite().all()
        after = Dream(
            torch.cat([dream.recent[:, 1:], outcome.codes[:, None]], 1),
            outcome.variables,
            outcome.pose,
            known,
            memory,
        )
        following = state_of(after)
        return {
            "codes": outcome.codes[0],
            "reward": outcome.reward[0],
            "terminated": uniforms[-1] < outcome.terminated[0],
            "end_probability": outcome.terminated[0],
            "nats": outcome.nats[0],
            **{NEXT + name: following[name] for name in self.state},
        }


def an_action(actions: ActionSpec) -> Tensor:
    """An example of an action, as stored on disk."""
    return torch.from_numpy(np.array(actions.idle, actions.dtype))


def used_state(model: WorldModel) -> dict[str, Tensor]:
    """The state before the first frame, by name; without what is empty in this world."""
    config = model.config
    nothing = torch.zeros(1, max(1, config.sharp_frames), *config.tokenizer.grid, 1).long()
    codes = nothing.repeat(1, 1, 1, 1, config.tokenizer.num_codebooks)
    memory = empty_memory(config, 1, codes.device)
    no = torch.zeros(1, dtype=torch.bool)
    variables = torch.zeros(1, len(config.variable_names))
    pose = torch.zeros(1, len(config.used_pose))
    dream = Dream(codes, variables, pose, no, memory)
    return {name: part for name, part in state_of(dream).items() if part.numel()}


def state_of(dream: Dream) -> dict[str, Tensor]:
    """The tensors of the first dream of a batch, by name: "memory.keyframes.codes"."""
    return {name: value[0] for name, value in _leaves(dream, "")}


def _leaves(part: Any, prefix: str) -> list[tuple[str, Tensor]]:
    if not is_dataclass(part):
        return [(prefix.removesuffix("."), part)]
    return [
        leaf
        for field in fields(part)
        for leaf in _leaves(getattr(part, field.name), f"{prefix}{field.name}.")
    ]


def _dream_of(model: WorldModel, state: dict[str, Tensor]) -> Dream:
    """A batch of the one dream with this state."""
    empty = empty_memory(model.config, 1, next(model.parameters()).device)
    nothing = state["recent"].new_zeros(1, 0, dtype=torch.float32)
    every = {**dict(_leaves(empty, "memory.")), "variables": nothing, "pose": nothing}
    every |= {name: part[None] for name, part in state.items()}

    def parts(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): part
            for name, part in every.items()
            if name.startswith(prefix) and "." not in name.removeprefix(prefix)
        }

    keyframes = Keyframes(**parts("memory.keyframes."))
    return Dream(**parts(""), memory=Memory(**parts("memory."), keyframes=keyframes))
