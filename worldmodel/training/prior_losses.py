"""The losses of the prior's training."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.prior.frame_gpt import FrameGPT, Prediction
from worldmodel.prior.memory import Past
from worldmodel.prior.place import Moments, Place
from worldmodel.prior.pose import Mixture

# Weights relative to that of the codes' nats a token.
OUTCOME_WEIGHT = 0.5  # of reward, end and variables, in nats a frame
POSE_WEIGHT = 0.1  # of the pose, in nats a frame
SKETCH_WEIGHT = 1.0  # of the map's sketches, squared error over variance


class PriorLosses(NamedTuple):
    """Means over a batch; `loss` is what training minimises."""

    loss: Float[Tensor, ""]
    token_nats: Float[Tensor, ""]  # a token
    value_nats: Float[Tensor, " rows"]  # a frame, of the reward and each variable's change
    end_nats: Float[Tensor, ""]  # a frame
    pose_nats: Float[Tensor, ""]  # a frame, of the next pose; 0 where the pose is unknown
    locating_nats: Float[Tensor, ""]  # a frame, of the pose read off the frame; likewise
    motion_nats: Float[Tensor, ""]  # a moment, of its next pose
    sketch_error: Float[Tensor, ""]  # squared error of the map's sketches over their variance


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
    past: Past | None = None,
    moments: Moments | None = None,
) -> PriorLosses:
    """Losses of predicting frames 1..T-1 of B clips.

    Args:
        prior: a FrameGPT, perhaps wrapped (for several processes, or compiled).
        frame_gpt: that FrameGPT itself.
        codes: of the real frames.
        past_codes: of frames 0..T-2 as the prior sees them, perhaps corrupted.
        actions: encoded.
        weights: of each step's reward, end and variables.
        past: None: recorded frames with unknown poses.
        moments: for the pose head and the map to learn from, besides the clips.
    """
    before, after = variables[:, :-1], variables[:, 1:]
    prediction = prior(past_codes, actions, before, codes[:, 1:], after, past, moments)
    token_nats = F.cross_entropy(prediction.logits.flatten(0, 2), codes[:, 1:].flatten())
    value_nats, end_nats = frame_gpt.outcome.losses(
        prediction.outcomes, reward, terminated.float(), before, after, weights
    )
    loss = token_nats + OUTCOME_WEIGHT * (value_nats.sum() + end_nats)
    pose_nats = locating_nats = motion_nats = sketch_error = torch.zeros_like(loss)
    place = frame_gpt.place
    if past is not None and place is not None:
        pose_nats, locating_nats = _pose_losses(prediction, place, past)
        loss = loss + POSE_WEIGHT * (pose_nats + locating_nats)
    if moments is not None and place is not None:
        motion, sketch = cast(Mixture, prediction.motion), cast(Tensor, prediction.sketch)
        motion_nats, sketch_error = moment_losses(frame_gpt, moments, motion, sketch)
        loss = loss + POSE_WEIGHT * motion_nats + SKETCH_WEIGHT * sketch_error
    return PriorLosses(
        loss, token_nats, value_nats, end_nats, pose_nats, locating_nats, motion_nats, sketch_error
    )


def moment_losses(
    frame_gpt: FrameGPT, moments: Moments, motion: Mixture, sketch: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Nats of the moments' next poses, and the squared error of the map's sketches over their
    variance."""
    assert frame_gpt.place is not None
    motion_nats = frame_gpt.place.head.nats(motion, *moments.poses[:, -2:].unbind(1)).mean()
    target = frame_gpt.blocks_of(moments.next_vectors.movedim(1, -1)[None])[0]
    return motion_nats, F.mse_loss(sketch, target) / target.var()


def _pose_losses(
    prediction: Prediction, place: Place, past: Past
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Nats of the next pose, and of the pose read off the frame."""
    poses, known = past.poses, past.known
    assert prediction.pose is not None
    assert prediction.located is not None
    nats = place.head.nats(prediction.pose, poses[:, :-1], poses[:, 1:])
    locating = place.locator.nats(prediction.located, poses[:, 1:])
    return (
        _mean_where(known[:, 1:] & known[:, :-1], nats),
        _mean_where(known[:, 1:], locating),
    )


def _mean_where(counted: Bool[Tensor, "*batch"], values: Float[Tensor, "*batch"]) -> Tensor:
    """The mean over all values, those not counted as 0: so the mean over the parts of a batch is
    that over the batch."""
    return torch.where(counted, values, 0.0).mean()
