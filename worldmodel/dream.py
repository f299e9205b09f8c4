"""The world model: a tokenizer and a prior that together dream, one step at a time.

    dream = model.start(frames, actions, variables)          # prefill: B given moments
    step, dream = model.step(dream, action, uniforms, sampling)

A dream's state is passed in and returned, never stored on the module.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from worldmodel.configs.dream import WorldModelConfig
from worldmodel.interface.sampling import Sampling
from worldmodel.media.frames import to_float, to_uint8
from worldmodel.prior import stepping
from worldmodel.prior.frame_gpt import FrameGPT
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import Batched, Here, Memory
from worldmodel.vqvae.vqvae import VQVAE, SharpDecoder, with_those_before

FRAMES_AT_ONCE = 256  # encoded or decoded; one frame's activations take a few MB


@dataclass(frozen=True)
class Dream(Batched):
    """The state of B dreams: the newest frame, and the memory of those before it.

    Attributes:
        recent: codes of the frames that the newest picture is decoded from, the newest last.
        pose: of the newest frame; P is 0 in worlds without a pose.
        known: whether the pose is known.
    """

    recent: Int[Tensor, "B R h w q"]
    variables: Float[Tensor, "B V"]
    pose: Float[Tensor, "B P"]
    known: Bool[Tensor, " B"]
    memory: Memory

    @property
    def codes(self) -> Int[Tensor, "B h w q"]:
        """Codes of the newest frame."""
        return self.recent[:, -1]

    @property
    def shown_pose(self) -> Float[Tensor, "B P"]:
        """The pose; NaN where it is not known."""
        return torch.where(self.known[:, None], self.pose, torch.nan)


class Step(NamedTuple):
    """The result of one action in each of B dreams."""

    frames: UInt8[Tensor, "B H W C"]
    codes: Int[Tensor, "B h w q"]  # of the frames
    reward: Float[Tensor, " B"]  # expected
    terminated: Bool[Tensor, " B"]  # sampled
    end_probability: Float[Tensor, " B"]
    variables: Float[Tensor, "B V"]  # sampled
    pose: Float[Tensor, "B P"]  # predicted; NaN where it is unknown
    nats: Float[Tensor, " B"]  # negative log-likelihood of the frame's codes, a token


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
        self.sharp = (
            SharpDecoder(config.tokenizer, config.sharp_frames) if config.sharp_frames else None
        )

    @property
    def num_uniforms(self) -> int:
        """Random numbers for one step: one for each token and each variable, those of the pose,
        and one for the end."""
        num_tokens, num_variables = self.prior.head.num_tokens, len(self.config.variable_names)
        return num_tokens + num_variables + self.config.num_pose_uniforms + 1

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
    def draw(self, codes: Int[Tensor, "B T h w q"]) -> UInt8[Tensor, "B T H W C"]:
        """Decode consecutive frames as a dream shows them: by the sharp decoder, if any."""
        if self.sharp is None:
            return self.decode(codes)
        seen = with_those_before(codes, self.sharp.num_frames).flatten(0, 1)
        return self.draw_newest(seen).unflatten(0, codes.shape[:2])

    @torch.no_grad()
    def draw_newest(self, codes: Int[Tensor, "F R h w q"]) -> UInt8[Tensor, "F H W C"]:
        """Decode the last of R consecutive frames as a dream shows it."""
        if self.sharp is None:
            return self.decode(codes[:, -1])
        parts = codes.split(FRAMES_AT_ONCE)
        return torch.cat([to_uint8(self.sharp(self.tokenizer.codebooks, part)) for part in parts])

    @torch.no_grad()
    def start(
        self,
        frames: UInt8[Tensor, "B T H W C"],
        actions: Shaped[Tensor, "B T-1 *shape"],
        variables: Float[Tensor, "B T V"],
        poses: Float[Tensor, "B T P"] | None = None,
    ) -> Dream:
        """Start dreams after T >= 1 given frames and the T - 1 actions between them.

        Args:
            poses: NaN where they are unknown; None or P = 0: all are. If the last is unknown, it is
                read off its frame.
        """
        return self.start_from(self.encode(frames), actions, variables, poses)

    @torch.no_grad()
    def start_from(
        self,
        codes: Int[Tensor, "B T h w q"],
        actions: Shaped[Tensor, "B T-1 *shape"],
        variables: Float[Tensor, "B T V"],
        poses: Float[Tensor, "B T P"] | None = None,
    ) -> Dream:
        """`start` from the frames' codes."""
        prior, encoded = self.prior, encode_actions(self.config.actions, actions)
        if prior.place is not None:
            if poses is None or not poses.shape[-1]:
                poses = variables.new_full(
                    (*variables.shape[:2], len(prior.world.used_pose)), torch.nan
                )
            is_known = poses[:, -1].isfinite().all(-1, keepdim=True)
            last = torch.where(is_known, poses[:, -1], prior.locate(codes[:, -1]))
            poses = torch.cat([poses[:, :-1], last[:, None]], 1)
        past = prior.whole_past(codes[:, :-1], poses)
        memory = stepping.prefill(prior, codes[:, :-1], encoded, variables[:, :-1], past)
        num_recent = max(1, self.config.sharp_frames)
        return Dream(
            with_those_before(codes[:, -num_recent:], num_recent)[:, -1],
            variables[:, -1],
            past.poses[:, -1],
            past.known[:, -1],
            memory,
        )

    @torch.no_grad()
    def step(
        self,
        dream: Dream,
        actions: Shaped[Tensor, " B *shape"],
        uniforms: Float[Tensor, "B {self.num_uniforms}"],
        sampling: Sampling,
        next_pose: Float[Tensor, "B P"] | None = None,
    ) -> tuple[Step, Dream]:
        """Dream one step.

        Args:
            dream: the current state; its memory is overwritten. Clone it to keep it.
            actions: one for each dream, as stored on disk.
            uniforms: in [0, 1); the same numbers give the same step, alone or in a batch.
            next_pose: overrides the predicted pose; None: it is predicted.
        """
        encoded = encode_actions(self.config.actions, actions)
        outcome, memory = stepping.step(
            self.prior,
            dream.memory,
            dream.codes,
            encoded,
            dream.variables,
            uniforms[:, :-1],
            sampling,
            Here(dream.pose, dream.known),
            next_pose,
        )
        recent = torch.cat([dream.recent[:, 1:], outcome.codes[:, None]], 1)
        step = Step(
            frames=self.draw_newest(recent),
            codes=outcome.codes,
            reward=outcome.reward,
            terminated=uniforms[:, -1] < outcome.terminated,
            end_probability=outcome.terminated,
            variables=outcome.variables,
            pose=torch.where(dream.known[:, None], outcome.pose, torch.nan),
            nats=outcome.nats,
        )
        return step, Dream(recent, outcome.variables, outcome.pose, dream.known, memory)

    @torch.no_grad()
    def newest_frames(self, dream: Dream) -> UInt8[Tensor, "B H W C"]:
        """The newest frames of dreams."""
        return self.draw_newest(dream.recent)


def dream_along(
    model: WorldModel,
    dream: Dream,
    actions: Shaped[Tensor, "B T *shape"],
    *,
    rng: np.random.Generator,
    sampling: Sampling,
    poses: Float[Tensor, "B T P"] | None = None,
) -> Iterator[Step]:
    """Dream T steps under given actions; ends are ignored.

    Args:
        poses: override the predicted poses; None: they are predicted.
    """
    for t in range(actions.shape[1]):
        uniforms = torch.from_numpy(rng.random((len(actions), model.num_uniforms), np.float32))
        step, dream = model.step(
            dream,
            actions[:, t],
            uniforms.to(actions.device),
            sampling,
            None if poses is None else poses[:, t],
        )
        yield step
