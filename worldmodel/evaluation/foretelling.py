"""What a prior says of frames that are known: the one place that asks it, and that makes
probabilities of its outcomes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from worldmodel import randomness
from worldmodel.dream import WorldModel
from worldmodel.prior.action_vectors import encode_actions
from worldmodel.prior.past import Past

NUM_DRAWS = 64  # of the next variables


@dataclass(frozen=True)
class Foretold:
    """What B clips' frames 1..T were to the prior, each given the frames before it; (B, T).

    Attributes:
        nats: -log p of the frame's codes, in nats a token, float64.
        hits: share of its tokens that were the likeliest.
        pose_nats: -log density of how the pose moved, standardised, which the codes are given;
            NaN where it is not known.
    """

    nats: np.ndarray
    hits: np.ndarray
    pose_nats: np.ndarray

    def steps(self, chosen: slice) -> "Foretold":
        """Some of the steps of every clip."""
        return Foretold(self.nats[:, chosen], self.hits[:, chosen], self.pose_nats[:, chosen])


@dataclass(frozen=True)
class ForetoldOutcomes:
    """What the prior expected to come with B clips' frames 1..T; (B, T) unless said otherwise.

    Attributes:
        reward: expected.
        end_chance: probability of an end.
        event_chance: probability of another reward than the common one; NaN where there is none.
        rise_chance, fall_chance: probability that a variable rises, and that it falls, (B, T, V).
    """

    reward: np.ndarray
    end_chance: np.ndarray
    event_chance: np.ndarray
    rise_chance: np.ndarray
    fall_chance: np.ndarray


Told = TypeVar("Told", Foretold, ForetoldOutcomes)


@torch.no_grad()
def foretell(
    model: WorldModel,
    codes: Int[Tensor, "B T h w q"],
    actions: Shaped[Tensor, "B T *shape"],
    variables: Float[Tensor, "B T V"],
    next_codes: Int[Tensor, "B T h w q"],
    past: Past | None = None,
) -> Foretold:
    """Ask of frames 1..T, given their poses.

    Args:
        codes, variables: of frames 0..T-1, the past that the prior is shown.
        actions: taken there, as stored on disk.
        next_codes: of frames 1..T, which need not be those of `codes`.
        past: what else is known of the frames (`FrameGPT.whole_past`); None: nothing.
    """
    encoded = encode_actions(model.config.actions, actions)
    past = model.prior.given_past(codes) if past is None else past
    prediction = model.prior(codes, encoded, variables, next_codes, past=past)
    truth = next_codes.flatten(2)
    nats = F.cross_entropy(prediction.logits.flatten(0, 2), truth.flatten(), reduction="none").view(
        truth.shape
    )
    pose_nats = torch.full_like(nats[..., 0], torch.nan)
    if model.prior.place is not None:
        told = past.known[:, 1:] & past.known[:, :-1]
        moved = model.prior.place.head.nats(prediction.pose, past.poses[:, :-1], past.poses[:, 1:])
        pose_nats = torch.where(told, moved, torch.nan)
    return Foretold(
        nats.double().mean(-1).cpu().numpy(),
        (prediction.logits.argmax(-1) == truth).float().mean(-1).cpu().numpy(),
        pose_nats.double().cpu().numpy(),
    )


@torch.no_grad()
def foretell_outcomes(
    model: WorldModel,
    codes: Int[Tensor, "B T h w q"],
    actions: Shaped[Tensor, "B T *shape"],
    variables: Float[Tensor, "B T V"],
    next_codes: Int[Tensor, "B T h w q"],
    past: Past | None = None,
    *,
    common_reward: float | None,
) -> ForetoldOutcomes:
    """Ask what comes with frames 1..T.

    They hang on the next variables, which are not known yet: means over `NUM_DRAWS` drawn ones.

    Args:
        codes, actions, variables, next_codes, past: as in `foretell`.
        common_reward: the reward that is no event.
    """
    prior, head = model.prior, model.prior.outcome
    encoded = encode_actions(model.config.actions, actions)
    foretold = prior.early_outcomes(codes, encoded, variables, next_codes, past)
    common_bin = None
    if common_reward is not None:
        common_bin = int((head.bins[0] - common_reward).abs().argmin())
    generator = randomness.torch_generator(0, "outcome draws")
    draws = []
    for _ in range(NUM_DRAWS):
        uniforms = torch.rand(variables.shape, generator=generator).to(variables.device)
        drawn = head.draw_variables(foretold, variables, uniforms)
        outcomes = head.given_changes(foretold, variables, drawn)
        event = torch.full_like(outcomes.terminated, torch.nan)
        if common_bin is not None:
            event = 1 - outcomes.values[..., 0, :].softmax(-1)[..., common_bin]
        changes = head.change_chances(outcomes, variables)
        draws.append((head.expected(outcomes, 0), outcomes.terminated.sigmoid(), event, *changes))
    means = (torch.stack(of_draws).mean(0) for of_draws in zip(*draws, strict=True))
    return ForetoldOutcomes(*(mean.cpu().numpy() for mean in means))


def foretell_long(
    model: WorldModel,
    codes: Int[Tensor, "B frames h w q"],
    actions: Shaped[Tensor, "B steps *shape"],
    variables: Float[Tensor, "B frames V"],
    poses: Float[Tensor, "B frames P"],
    *,
    max_steps: int,
) -> Iterator[Foretold]:
    """`foretell` of clips longer than memory allows at once, a stretch of steps after the other.

    Each stretch is preceded by as many frames as can reach it: what a frame sees of the window
    before it has itself seen a window, so a stack of L layers reaches L (window - 1) frames back.
    Together the stretches say what one pass over all frames would.

    Args:
        codes, variables, poses: of frames 0..T of B clips; P = 0: poses are not known.
        actions: T of them.
        max_steps: of one pass, preceding frames included, where these leave room for one step.
    """
    config = model.config.prior
    reach = config.layers * (config.window - 1)
    past = model.prior.whole_past(codes[:, :-1], poses)
    first, num_steps = 0, actions.shape[1]
    while first < num_steps:
        begin = max(0, first - reach)
        shown = slice(begin, min(begin + max(max_steps, reach + 1), num_steps))
        foretold = foretell(
            model,
            codes[:, shown],
            actions[:, shown],
            variables[:, shown],
            codes[:, shown.start + 1 : shown.stop + 1],
            past.steps(shown),
        )
        yield foretold.steps(slice(first - begin, None))
        first = shown.stop


def joined(parts: list[Told], axis: int) -> Told:
    """Lots of clips (axis 0), or stretches of the same clips (axis 1), as one."""
    return type(parts[0])(
        **{name: np.concatenate([vars(p)[name] for p in parts], axis) for name in vars(parts[0])}
    )
