"""What the prior makes of poses: a map of the level, and the next pose before the frame."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.configs.dream import WorldModelConfig
from worldmodel.interface.pose import PoseSpec
from worldmodel.prior.pose import RECENT, Locator, Mixture, PoseHead, PoseSpace

VIEW_WIDTH = 128  # of what the newest frame tells of the next pose
HEAD_WIDTH = 384


class Place(nn.Module):
    """What the prior makes of poses: those of the frames before, and that of the next frame, which
    is predicted first.

    Args:
        spec: which numbers tell a pose.
        num_actions: A, of an encoded action.
        num_positions, width: of the prior's backbone.
        frame_width: of all that a frame's codes say.
        map_width: of the network from the next pose to what is seen there.
        block_size: numbers that a position's codes stand for, of the tokenizer's vectors.
    """

    def __init__(
        self,
        spec: PoseSpec,
        *,
        num_actions: int,
        num_positions: int,
        width: int,
        frame_width: int,
        map_width: int,
        block_size: int,
    ) -> None:
        super().__init__()
        self.space = PoseSpace(spec)
        self.num_positions = num_positions
        num_features = self.space.num_features
        self.own = nn.Linear(num_features, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.map = nn.Sequential(
            nn.Linear(num_features + len(spec), map_width),
            nn.SiLU(),
            nn.Linear(map_width, map_width),
            nn.SiLU(),
            nn.Linear(map_width, map_width),
            nn.SiLU(),
            nn.Linear(map_width, num_positions * width),
        )
        self.sketch = nn.Linear(width, block_size)
        self.view = nn.Linear(num_positions * width, VIEW_WIDTH)
        self.head = PoseHead(self.space, num_actions, VIEW_WIDTH, HEAD_WIDTH)
        self.locator = Locator(self.space, frame_width, HEAD_WIDTH)
        with torch.no_grad():  # a prior that has learned without a pose stays what it is
            for last in (self.own, self.map[-1]):
                for parameter in last.parameters():
                    parameter.zero_()

    def embed(
        self, poses: Float[Tensor, "B S P"], known: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B T positions D"]:
        """What is added to each position of frames 0..T-1, of S = T + 1 poses: their own pose, and
        the next."""
        features = self.space.features(poses)
        own = torch.where(known[..., None], self.own(features), self.unknown)[:, :-1, None]
        seen = self.look_up(poses[:, :-1], poses[:, 1:], known[:, :-1] & known[:, 1:])
        return own + torch.where(known[:, 1:, None, None], seen, 0.0)

    def look_up(
        self,
        before: Float[Tensor, "*batch P"],
        after: Float[Tensor, "*batch P"],
        known: Bool[Tensor, "*batch"],
    ) -> Float[Tensor, "*batch positions D"]:
        """What the map shows at poses `after`.

        Args:
            known: where both poses are, and so how the player moves.
        """
        steps = self.space.displacement(before, after) / self.space.scale
        steps = torch.where(known[..., None], steps, 0.0)
        seen = self.map(torch.cat([self.space.features(after), steps], -1))
        return seen.unflatten(-1, (self.num_positions, -1))

    def sketched(
        self, before: Float[Tensor, "N P"], after: Float[Tensor, "N P"]
    ) -> Float[Tensor, "N positions block"]:
        """The tokenizer's vectors of each position's codes, by the map alone."""
        known = torch.ones(len(before), dtype=torch.bool, device=before.device)
        return self.sketch(self.look_up(before, after, known))

    def predict(
        self,
        poses: Float[Tensor, "*batch W P"],
        known: Bool[Tensor, "*batch W"],
        actions: Float[Tensor, "*batch W A"],
        shown: Float[Tensor, "*batch positions D"],
    ) -> Mixture:
        """The displacement from the newest of the last W = 1 + RECENT poses to the next.

        Args:
            known: which poses are known.
            actions: taken there, the newest last; zeros before there were any.
            shown: the newest frame, as the backbone takes it in; zeros where it is hidden.
        """
        recent = recent_displacements(self.space, poses, known)
        view = F.silu(self.view(shown.flatten(-2)))
        return self.head(poses[..., -1, :], recent, actions.flatten(-2), view)


def last_of_each(
    sequence: Shaped[Tensor, "B T *rest"], count: int
) -> Shaped[Tensor, "B T W *rest"]:
    """At each time the last `count`, the newest last; zeros before the first."""
    padding = sequence.new_zeros(len(sequence), count - 1, *sequence.shape[2:])
    windows = torch.cat([padding, sequence], 1).unfold(1, count, 1)
    return windows.movedim(-1, 2)


def recent_displacements(
    space: PoseSpace, poses: Float[Tensor, "*batch W P"], known: Bool[Tensor, "*batch W"]
) -> Float[Tensor, "*batch changes"]:
    """The last displacements, standardised, and which of them are known.

    Args:
        poses: of the last 1 + RECENT frames, the newest last.
        known: which of them are.
    """
    both = (known[..., 1:] & known[..., :-1])[..., None]
    steps = space.displacement(poses[..., :-1, :], poses[..., 1:, :]) / space.scale
    return torch.cat([torch.where(both, steps, 0.0), both], -1).flatten(-2)


def place_of(world: WorldModelConfig, *, frame_width: int) -> Place | None:
    """The place of a world; None where none tells a pose."""
    if not world.used_pose:
        return None
    if world.prior.window < RECENT:
        raise ValueError(f"with a pose the window must be at least {RECENT} frames")
    return Place(
        world.pose,
        num_actions=world.actions.vector_size,
        num_positions=world.positions,
        width=world.prior.width,
        frame_width=frame_width,
        map_width=world.prior.map_width,
        block_size=world.prior.merge**2 * world.tokenizer.code_dim,
    )
