"""The world model: a tokenizer and a prior that together dream, one step at a time.

    dream = model.start(frames, actions, variables)          # prefill: B given moments
    step, dream = model.step(dream, action, uniforms, sampling)

A dream's state is an argument: it is passed in and passed on, never kept on the module.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.action_vectors import encode_actions
from worldmodel.configs import WorldModelConfig
from worldmodel.frames import to_float, to_uint8
from worldmodel.prior import FrameGPT
from worldmodel.prior.frame_gpt import Memory
from worldmodel.prior.sampling import Sampling
from worldmodel.vqvae import VQVAE

FRAMES_AT_ONCE = 256  # encoded or decoded: activations of one frame take a few MB
OUTCOME_WEIGHT = 0.5  # of the nats a frame of reward, end and variables, beside nats a token


@dataclass(frozen=True)
class Dream:
    """The state of B dreams: the newest frame, and the memory of those before it."""

    codes: Int[Tensor, "B h w q"]
    variables: Float[Tensor, "B V"]
    memory: Memory

    def clone(self) -> "Dream":
        """A copy that shares no storage: a saved moment, or a branch."""
        return Dream(self.codes.clone(), self.variables.clone(), self.memory.clone())

    def repeated(self, times: int) -> "Dream":
        """One dream as a batch of so many alike, each with storage of its own."""
        return Dream(
            self.codes.repeat(times, 1, 1, 1),
            self.variables.repeat(times, 1),
            self.memory.repeated(times),
        )

    def write(self, rows: Int[Tensor, " R"], others: "Dream") -> None:
        """Put R other dreams in the place of those at `rows`."""
        self.codes[rows] = others.codes
        self.variables[rows] = others.variables
        self.memory.write(rows, others.memory)


class Step(NamedTuple):
    """What one action brought in each of B dreams."""

    frames: UInt8[Tensor, "B H W C"]
    codes: Int[Tensor, "B h w q"]  # of the frames
    reward: Float[Tensor, " B"]  # expected
    terminated: Bool[Tensor, " B"]  # drawn
    end_probability: Float[Tensor, " B"]
    variables: Float[Tensor, "B V"]  # drawn
    nats: Float[Tensor, " B"]  # a token: how unexpected the frame was to the model itself


class PriorLosses(NamedTuple):
    """Means over a batch; `loss` is what training minimises."""

    loss: Float[Tensor, ""]
    token_nats: Float[Tensor, ""]  # a token
    value_nats: Float[Tensor, " rows"]  # a frame, of the reward and each variable's change
    end_nats: Float[Tensor, ""]  # a frame


class WorldModel(nn.Module):
    """A learned simulator.

    Args:
        config: sizes, and the world's actions and variables.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = VQVAE(config.tokenizer)
        self.prior = FrameGPT(config)

    @property
    def num_uniforms(self) -> int:
        """Random numbers that one step takes: a token each, a variable each, one for the end."""
        return self.prior.head.num_tokens + len(self.config.variable_names) + 1

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "*batch H W C"]) -> Int[Tensor, "*batch h w q"]:
        parts = frames.reshape(-1, *frames.shape[-3:]).split(FRAMES_AT_ONCE)
        codes = torch.cat([self.tokenizer.encode(to_float(part)) for part in parts])
        return codes.unflatten(0, frames.shape[:-3])

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "*batch h w q"]) -> UInt8[Tensor, "*batch H W C"]:
        parts = codes.reshape(-1, *codes.shape[-3:]).split(FRAMES_AT_ONCE)
        frames = torch.cat([to_uint8(self.tokenizer.decode(part)) for part in parts])
        return frames.unflatten(0, codes.shape[:-3])

    @torch.no_grad()
    def start(
        self,
        frames: UInt8[Tensor, "B T H W C"],
        actions: Shaped[Tensor, "B T-1 *shape"],
        variables: Float[Tensor, "B T V"],
    ) -> Dream:
        """Begin to dream after T >= 1 given frames and the T - 1 actions between them."""
        codes = self.encode(frames)
        encoded = encode_actions(self.config.actions, actions)
        memory = self.prior.prefill(codes[:, :-1], encoded, variables[:, :-1])
        return Dream(codes[:, -1], variables[:, -1], memory)

    @torch.no_grad()
    def step(
        self,
        dream: Dream,
        actions: Shaped[Tensor, " B *shape"],
        uniforms: Float[Tensor, "B {self.num_uniforms}"],
        sampling: Sampling,
    ) -> tuple[Step, Dream]:
        """Dream one step on.

        Args:
            dream: where to go on; its memory is written over. Clone it to keep it.
            actions: one for each dream, as stored on disk.
            uniforms: in [0, 1); the same numbers give the same step, alone or in a batch.
            sampling: how tokens are drawn.
        """
        encoded = encode_actions(self.config.actions, actions)
        outcome, memory = self.prior.step(
            dream.memory, dream.codes, encoded, dream.variables, uniforms[:, :-1], sampling
        )
        step = Step(
            frames=self.decode(outcome.codes),
            codes=outcome.codes,
            reward=outcome.reward,
            terminated=uniforms[:, -1] < outcome.terminated,
            end_probability=outcome.terminated,
            variables=outcome.variables,
            nats=outcome.nats,
        )
        return step, Dream(outcome.codes, outcome.variables, memory)


def prior_losses(
    prior: nn.Module,
    frame_gpt: FrameGPT,
    *,
    codes: Int[Tensor, "B T h w q"],
    past_codes: Int[Tensor, "B T-1 h w q"],
    actions: Float[Tensor, "B T-1 A"],
    reward: Float[Tensor, "B T-1"],
    terminated: Bool[Tensor, "B T-1"],
    variables: Float[Tensor, "B T V"],
    weights: Float[Tensor, "B T-1"],
) -> PriorLosses:
    """Losses of predicting frames 1..T-1 of B clips.

    Args:
        prior: a FrameGPT, perhaps wrapped (for several processes, or compiled).
        frame_gpt: that FrameGPT itself.
        codes: of the real frames.
        past_codes: what the prior sees of frames 0..T-2, perhaps corrupted.
        actions: encoded.
        weights: how much each step's reward, end and variables count.
    """
    prediction = prior(past_codes, actions, variables[:, :-1], codes[:, 1:], variables[:, 1:])
    token_nats = F.cross_entropy(prediction.logits.flatten(0, 2), codes[:, 1:].flatten())
    value_nats, end_nats = frame_gpt.outcome_losses(
        prediction.outcomes,
        reward,
        terminated.float(),
        variables[:, :-1],
        variables[:, 1:],
        weights,
    )
    loss = token_nats + OUTCOME_WEIGHT * (value_nats.sum() + end_nats)
    return PriorLosses(loss, token_nats, value_nats, end_nats)


def dream_along(
    model: WorldModel,
    dream: Dream,
    actions: Shaped[Tensor, "B T *shape"],
    *,
    rng: np.random.Generator,
    sampling: Sampling,
) -> Iterator[Step]:
    """Dream T steps under given actions; ends are passed over."""
    for t in range(actions.shape[1]):
        uniforms = torch.from_numpy(rng.random((len(actions), model.num_uniforms), np.float32))
        step, dream = model.step(dream, actions[:, t], uniforms.to(actions.device), sampling)
        yield step
