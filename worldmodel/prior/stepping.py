"""The frame GPT one frame at a time: `prefill` with the given frames, then `step`."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from worldmodel.configs.dream import RECENT
from worldmodel.interface.sampling import Sampling
from worldmodel.prior import fast
from worldmodel.prior.frame_gpt import FrameGPT
from worldmodel.prior.head import Undirected
from worldmodel.prior.layers import Attend, Block, turn
from worldmodel.prior.memory import (
    KEYFRAME_STEPS,
    KEYFRAMES,
    Here,
    Memory,
    Older,
    Past,
    empty_memory,
)


class Outcome(NamedTuple):
    """One step of B dreams."""

    codes: Int[Tensor, "B h w q"]
    reward: Float[Tensor, " B"]  # expected
    terminated: Float[Tensor, " B"]  # probability
    variables: Float[Tensor, "B V"]  # sampled
    pose: Float[Tensor, "B P"]  # predicted
    nats: Float[Tensor, " B"]  # negative log-likelihood of the sampled codes, a token


class Given(NamedTuple):
    """What is given of the next frame, where it isn't dreamed but observed.

    Attributes:
        variables: NaN where they are sampled.
        pose: NaN where it is predicted.
        sample_tokens: samples the codes that are not given; arguments and result are those of
            `FrameGPT.sample_tokens`.
    """

    variables: Float[Tensor, "B V"]
    pose: Float[Tensor, "B P"]
    sample_tokens: Callable[..., tuple[Tensor, Tensor]]


@torch.no_grad()
def prefill(
    prior: FrameGPT,
    codes: Int[Tensor, "B T h w q"],
    actions: Float[Tensor, "B T A"],
    variables: Float[Tensor, "B T V"],
    past: Past | None = None,
) -> Memory:
    """The memory after T frames and the actions taken there; `past` as in `FrameGPT.forward`."""
    batch_size, num_frames = codes.shape[:2]
    memory = empty_memory(prior.world, batch_size, codes.device)
    if num_frames == 0:
        return memory
    past = prior.whole_past(codes) if past is None else past
    _, keys_values = prior.backbone(codes, actions, variables, past)
    keys_values = keys_values.movedim(2, 0)
    window = prior.config.window
    for t in range(max(0, num_frames - window), num_frames):
        memory.keys_values[:, :, :, :, t % window] = keys_values[:, :, :, :, t]
        memory.variables[:, t % window] = variables[:, t]
        memory.poses[:, t % window] = past.poses[:, t]
        memory.known[:, t % window] = past.known[:, t]
        memory.actions[:, t % window] = actions[:, t]
        memory.filled[:, t % window] = True
    if prior.config.recalled:
        for t in range(num_frames):
            here = Here(past.poses[:, t], past.known[:, t])
            memory.keyframes.store(memory.time + t, codes[:, t], here)
    return replace(memory, time=memory.time + num_frames)


@torch.no_grad()
def step(
    prior: FrameGPT,
    memory: Memory,
    codes: Int[Tensor, "B h w q"],
    actions: Float[Tensor, "B A"],
    variables: Float[Tensor, "B V"],
    uniforms: Float[Tensor, "B numbers"],
    sampling: Sampling,
    here: Here | None = None,
    next_pose: Float[Tensor, "B P"] | None = None,
    given: Given | None = None,
) -> tuple[Outcome, Memory]:
    """Dream the next frame.

    Args:
        memory: of the frames before; its storage is overwritten and returned.
        codes, variables: of the newest frame.
        actions: taken there.
        uniforms: in [0, 1): one for each token of the frame, then one for each variable, then
            `num_pose_uniforms` for the pose.
        here: None: the newest frame was given, and its pose is unknown.
        next_pose: of the next frame, where the pose is known; None: it is predicted.
    """
    here = _unknown_pose(prior, codes) if here is None else here
    num_tokens, num_variables = prior.head.num_tokens, variables.shape[1]
    for_tokens, for_variables = uniforms[:, :num_tokens], uniforms[:, num_tokens:]
    for_variables, for_pose = for_variables[:, :num_variables], for_variables[:, num_variables:]
    if next_pose is None:
        next_pose = _sample_pose(prior, memory, codes, actions, here, for_pose, sampling)
    next_known = here.known
    if given is not None:
        next_pose = torch.where(given.pose.isnan(), next_pose, given.pose)
        next_known = here.known | given.pose.isfinite().all(-1)
    past = Past(
        torch.stack([here.pose, next_pose], 1),
        torch.stack([here.known, next_known], 1),
        torch.zeros_like(here.known)[:, None],
        _older(prior, memory, next_pose, next_known),
    )
    past = prior.looked_up(codes[:, None], past)
    undirected = None
    if sampling.guidance:  # first: the memory must end up with the action that was taken
        mean_action = prior.mean_action.expand_as(actions)
        states, _ = _newest_states(prior, memory, codes, mean_action, variables, past)
        context = prior.context(states, codes[:, None], past)[:, 0]
        undirected = Undirected(context, mean_action, sampling.guidance)
    states, keys_values = _newest_states(prior, memory, codes, actions, variables, past)
    context = prior.context(states, codes[:, None], past)[:, 0]
    sample_tokens = prior.sample_tokens if given is None else given.sample_tokens
    flat, nats = sample_tokens(context, actions, for_tokens, sampling, undirected)
    next_codes = flat.view_as(codes)
    head, before = prior.outcome, variables[:, None]
    history = head.history(*memory.in_order())[:, None]
    early = prior.predict_outcomes(states, next_codes[:, None], history)
    known = variables_in_pose(prior, next_pose, here.known)
    if given is not None:
        known = torch.where(given.variables.isnan(), known, given.variables)
    after = head.draw_variables(early, before, for_variables[:, None], known[:, None])
    logits = head.given_changes(early, before, after)
    outcome = Outcome(
        codes=next_codes,
        reward=head.expected(logits, 0)[:, 0],
        terminated=logits.terminated[:, 0].sigmoid(),
        variables=after[:, 0],
        pose=next_pose,
        nats=nats,
    )
    return outcome, replace(memory, keys_values=keys_values, time=memory.time + 1)


def _unknown_pose(prior: FrameGPT, codes: Tensor) -> Here:
    """Given frames at unknown poses."""
    unknown = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
    poses = torch.zeros(len(codes), len(prior.world.used_pose), device=codes.device)
    return Here(poses, unknown)


def variables_in_pose(
    prior: FrameGPT, poses: Float[Tensor, "*batch P"], known: Bool[Tensor, "*batch"]
) -> Float[Tensor, "*batch V"]:
    """Values of the variables that are part of the pose, where it is known; else NaN."""
    names, pose_names = prior.world.variable_names, prior.world.used_pose.names
    values = poses.new_full((*known.shape, len(names)), torch.nan)
    for v, name in enumerate(names):
        if name in pose_names:
            value = poses[..., pose_names.index(name)]
            values[..., v] = torch.where(known, value, torch.nan)
    return values


def _sample_pose(
    prior: FrameGPT,
    memory: Memory,
    codes: Tensor,
    actions: Tensor,
    here: Here,
    uniforms: Tensor,
    sampling: Sampling,
) -> Float[Tensor, "B P"]:
    """The next pose; unchanged where the current one is unknown."""
    if prior.place is None:
        return here.pose
    poses, known, taken = (
        torch.cat([last, newest[:, None]], 1)
        for last, newest in zip(memory.last(RECENT), (here.pose, here.known, actions), strict=True)
    )
    shown = prior.shown(codes[:, None], torch.zeros_like(here.known)[:, None])[:, 0]
    mixture = prior.place.predict(poses, known, taken, shown)
    sampled = prior.place.head.sample(mixture, here.pose, uniforms, sampling.pose_temperature)
    return torch.where(here.known[:, None], sampled, here.pose)


def _older(prior: FrameGPT, memory: Memory, next_pose: Tensor, next_known: Tensor) -> Older | None:
    """The older frames that the prediction looks back at."""
    if not prior.config.recalled:
        return None
    now = memory.time[:, None]
    keyframes = memory.keyframes
    if not torch.compiler.is_exporting():  # an exported graph has fixed sizes
        keyframes = keyframes.first(min(KEYFRAMES, int(now.max()) // KEYFRAME_STEPS + 1))
    times = keyframes.times
    is_final = times % KEYFRAME_STEPS == KEYFRAME_STEPS - 1  # the next frame gets another slot
    usable = (times >= 0) & is_final & (times < now)
    return prior.look_back(keyframes, usable[:, None], now, next_pose[:, None], next_known[:, None])


def _newest_states(
    prior: FrameGPT, memory: Memory, codes: Tensor, actions: Tensor, variables: Tensor, past: Past
) -> tuple[Float[Tensor, "B 1 P D"], Tensor]:
    """States of the newest frames, which are written into the memory's storage; and the memory's
    keys and values."""
    cosines, sines = (part[:, None] for part in prior.rotary.turns(memory.time))
    dreams = torch.arange(len(codes), device=codes.device)
    slots = memory.time % prior.config.window
    memory.filled[dreams, slots] = True
    memory.variables[dreams, slots] = variables
    memory.poses[dreams, slots] = past.poses[:, 0]
    memory.known[dreams, slots] = past.known[:, 0]
    memory.actions[dreams, slots] = actions
    if prior.config.recalled:
        here = Here(past.poses[:, 0], past.known[:, 0])
        memory.keyframes.store(memory.time, codes, here)
    x = prior.embed(codes[:, None], variables[:, None], past)[:, 0]
    if len(x) == 1 and fast.serves(x) and not torch.compiler.is_exporting():
        slot, turns = int(slots[0]), (cosines[0, 0], sines[0, 0])
        return _run_compiled(prior, memory, x, actions, slot, turns), memory.keys_values
    positions_filled = memory.filled.repeat_interleave(len(prior.position), 1)[:, None, None]
    rings = []

    def attend_in(block: int) -> Attend:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            newest = torch.stack([turn(k, cosines, sines), v], 1)
            ring = _with_newest(memory.keys_values[:, block], dreams, slots, newest)
            rings.append(ring)
            keys, values = ring.flatten(3, 4).unbind(1)
            return F.scaled_dot_product_attention(
                turn(q, cosines, sines), keys, values, attn_mask=positions_filled
            )

        return attend

    states = prior.run_blocks(x, actions, attend_in)[:, None]
    return states, torch.stack(rings, 1) if torch.compiler.is_exporting() else memory.keys_values


def _run_compiled(
    prior: FrameGPT,
    memory: Memory,
    x: Tensor,
    actions: Tensor,
    slot: int,
    turns: tuple[Tensor, Tensor],
) -> Float[Tensor, "1 1 P D"]:
    """`FrameGPT.run_blocks`, compiled, for one dream."""
    x = x.contiguous()  # overwritten
    for i, block in enumerate(prior.blocks):
        ring = memory.keys_values[0, i]
        fast.run_block(cast(Block, block), x, actions, ring, slot, memory.filled[0], turns)
    return fast.normalised(prior.norm, x, actions)[:, None]


def _with_newest(
    ring: Float[Tensor, "B two nh window P hs"], dreams: Tensor, slots: Tensor, newest: Tensor
) -> Float[Tensor, "B two nh window P hs"]:
    """A layer's ring of keys and values with those of the newest frames, written in place."""
    if torch.compiler.is_exporting():  # an indexed write would store indices of the ring's size
        is_newest = torch.arange(ring.shape[3]) == slots[:, None]
        return torch.where(is_newest[:, None, None, :, None, None], newest[:, :, :, None], ring)
    ring[dreams, :, :, slots] = newest
    return ring
