"""What a prior predicts of frames that are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from worldmodel import randomness
from worldmodel.dream import WorldModel
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import Past
from worldmodel.prior.stepping import variables_in_pose

NUM_DRAWS = 64  # of the next variables
T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """What the prior is shown of B clips, and the frames 1..T whose likelihood is asked for.

    Attributes:
        codes, variables: of frames 0..T-1.
        actions: taken there, as vectors.
        next_codes: of frames 1..T, which need not be those of `codes`.
        past: poses, and what else is known of the frames.
    """

    codes: Int[Tensor, "B T h w q"]
    actions: Float[Tensor, "B T A"]
    variables: Float[Tensor, "B T V"]
    next_codes: Int[Tensor, "B T h w q"]
    past: Past

    def steps(self, chosen: slice) -> "Shown":
        """Some of the steps of every clip."""
        return Shown(
            self.codes[:, chosen],
            self.actions[:, chosen],
            self.variables[:, chosen],
            self.next_codes[:, chosen],
            self.past.steps(chosen),
        )


def shown(
    model: WorldModel,
    codes: Int[Tensor, "B frames h w q"],
    actions: Shaped[np.ndarray, "B steps *shape"],
    variables: Float[np.ndarray, "B frames V"],
    poses: Float[np.ndarray, "B frames P"],
    *,
    next_codes: Int[Tensor, "B frames h w q"] | None = None,
) -> Shown:
    """Whole clips as `predict` takes them.

    Args:
        actions: as stored on disk.
        poses: NaN where they are not known; P may be 0.
        next_codes: like `codes`, to be asked for in place of them.
    """
    device = next(model.parameters()).device
    told, game, where = (torch.from_numpy(of).to(device) for of in (actions, variables, poses))
    past_codes = codes[:, :-1].to(device)
    return Shown(
        past_codes,
        encode_actions(model.config.actions, told),
        game[:, :-1],
        (codes if next_codes is None else next_codes)[:, 1:].to(device),
        model.prior.whole_past(past_codes, where),
    )


@dataclass(frozen=True)
class Predicted:
    """How well frames 1..T of B clips were predicted, each given the frames before it; (B, T).

    Attributes:
        nats: -log p of the frame's codes given its pose, a token, float64.
        hits: share of its tokens that were the likeliest.
        pose_nats: -log density of how the pose moved, standardised; NaN where it is not known.
    """

    nats: np.ndarray
    hits: np.ndarray
    pose_nats: np.ndarray

    def steps(self, chosen: slice) -> "Predicted":
        """Some of the steps of every clip."""
        return Predicted(self.nats[:, chosen], self.hits[:, chosen], self.pose_nats[:, chosen])


@dataclass(frozen=True)
class PredictedOutcomes:
    """What was predicted to come with frames 1..T of B clips; (B, T) unless said otherwise.

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


@torch.no_grad()
def predict(model: WorldModel, of: Shown) -> Predicted:
    prediction = model.prior(of.codes, of.actions, of.variables, of.next_codes, past=of.past)
    truth = of.next_codes.flatten(2)
    nats = F.cross_entropy(prediction.logits.flatten(0, 2), truth.flatten(), reduction="none").view(
        truth.shape
    )
    pose_nats = torch.full_like(nats[..., 0], torch.nan)
    if model.prior.place is not None:
        known, poses = of.past.known, of.past.poses
        moved = model.prior.place.head.nats(prediction.pose, poses[:, :-1], poses[:, 1:])
        pose_nats = torch.where(known[:, 1:] & known[:, :-1], moved, torch.nan)
    return Predicted(
        nats.double().mean(-1).cpu().numpy(),
        (prediction.logits.argmax(-1) == truth).float().mean(-1).cpu().numpy(),
        pose_nats.double().cpu().numpy(),
    )


@torch.no_grad()
def predict_outcomes(
    model: WorldModel, of: Shown, *, common_reward: float | None
) -> PredictedOutcomes:
    """What comes with the next frames: means over `NUM_DRAWS` draws of their variables, on which
    the rest depends.

    Args:
        common_reward: the reward that is no event.
    """
    prior, head = model.prior, model.prior.outcome
    early = prior.early_outcomes(of.codes, of.actions, of.variables, of.next_codes, of.past)
    common_bin = None
    if common_reward is not None:
        common_bin = int((head.bins[0] - common_reward).abs().argmin())
    generator = randomness.torch_generator(0, "outcome draws")
    known = variables_in_pose(prior, of.past.poses[:, 1:], of.past.known[:, 1:])
    draws = []
    for _ in range(NUM_DRAWS):
        uniforms = torch.rand(of.variables.shape, generator=generator).to(of.variables.device)
        drawn = head.draw_variables(early, of.variables, uniforms, known)
        outcomes = head.given_changes(early, of.variables, drawn)
        event = torch.full_like(outcomes.terminated, torch.nan)
        if common_bin is not None:
            event = 1 - outcomes.values[..., 0, :].softmax(-1)[..., common_bin]
        changes = head.change_chances(outcomes, of.variables)
        draws.append((head.expected(outcomes, 0), outcomes.terminated.sigmoid(), event, *changes))
    means = (torch.stack(of_draws).mean(0) for of_draws in zip(*draws, strict=True))
    return PredictedOutcomes(*(mean.cpu().numpy() for mean in means))


def predict_long(model: WorldModel, of: Shown, *, max_steps: int) -> Predicted:
    """`predict` for clips longer than memory allows at once, in stretches; the result is the same.

    Each stretch is preceded by as many frames as can influence it: what a frame sees of the window
    before it has itself seen a window, so a stack of L layers reaches L (window - 1) frames back.

    Args:
        max_steps: of one pass, preceding frames included, where these leave room for one step.
    """
    config = model.config.prior
    reach = config.layers * (config.window - 1)
    stretches: list[Predicted] = []
    first, num_steps = 0, of.actions.shape[1]
    while first < num_steps:
        begin = max(0, first - reach)
        part = slice(begin, min(begin + max(max_steps, reach + 1), num_steps))
        stretches.append(predict(model, of.steps(part)).steps(slice(first - begin, None)))
        first = part.stop
    return joined(stretches, 1)


def joined(parts: Sequence[T], axis: int = 0) -> T:
    """Dataclasses of arrays of other clips (axis 0) or later steps (axis 1) as one."""
    return type(parts[0])(
        **{name: np.concatenate([vars(p)[name] for p in parts], axis) for name in vars(parts[0])}
    )
