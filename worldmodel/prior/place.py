"""How the prior uses poses: a map of the level, and the next pose, predicted before the frame."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.configs.dream import RECENT, WorldModelConfig
from worldmodel.prior import fast
from worldmodel.prior.memory import Older
from worldmodel.prior.pose import Locator, Mixture, PoseHead, PoseSpace

VIEW_WIDTH = 128  # of what the pose head sees of the newest frame
HEAD_WIDTH = 384


class Moments(NamedTuple):
    """Single recorded moments, without past frames, that train the pose head and the map.

    Attributes:
        poses: of the last W = 1 + RECENT frames of each, the newest last, and of the frame after.
        known: which of the W poses are known.
        actions: taken there, encoded; zeros where the pose is unknown.
        next_vectors: the tokenizer's vectors of the frame after, of the first M moments.
        older: frames of the episode to look back at, of the first R of these; None: R is 0.
    """

    poses: Float[Tensor, "N W+1 P"]
    known: Bool[Tensor, "N W"]
    actions: Float[Tensor, "N W A"]
    next_vectors: Float[Tensor, "M D h w"]
    older: Older | None = None  # B = R, T = 1


class Place(nn.Module):
    """Embeds past poses, predicts the next pose, and looks that place up on the map.

    Args:
        world: has a pose.
        frame_width: numbers that stand for a frame's codes.

    Raises:
        ValueError: the window is shorter than what the pose head looks at.
    """

    def __init__(self, world: WorldModelConfig, frame_width: int) -> None:
        super().__init__()
        if world.prior.window < RECENT:
            raise ValueError(f"with a pose the window must be at least {RECENT} frames")
        width, map_width = world.prior.width, world.prior.map_width
        self.space = PoseSpace(world.pose)
        self.num_positions = world.positions
        num_features = self.space.num_features
        self.own = nn.Linear(num_features, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.map = nn.Sequential(
            nn.Linear(num_features + len(world.pose), map_width),
            nn.SiLU(),
            nn.Linear(map_width, map_width),
            nn.SiLU(),
            nn.Linear(map_width, map_width),
            nn.SiLU(),
            nn.Linear(map_width, self.num_positions * width),
        )
        code_width = world.tokenizer.num_codebooks * world.tokenizer.code_dim
        self.sketch = nn.Linear(width, world.prior.merge**2 * code_width)
        # What the backbone sees of the map; and what the head sees of its sketch near each token.
        self.shown = nn.Linear(width, width, bias=False)
        self.nearby = nn.Conv2d(code_width, world.prior.head_width, 3, padding=1, bias=False)
        self.view = nn.Linear(self.num_positions * width, VIEW_WIDTH)
        self.head = PoseHead(self.space, world.actions.vector_size, VIEW_WIDTH, HEAD_WIDTH)
        self.locator = Locator(self.space, frame_width, HEAD_WIDTH)
        # No effect yet on a prior trained without a pose; nor of the frame on the pose head, which
        # is trained without frames first.
        for last in (self.own, self.shown, self.nearby, self.view):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def embed(
        self, poses: Float[Tensor, "B T P"], known: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T 1 D"]:
        """What to add to each position of a frame: its own pose."""
        own = self.own(self.space.features(poses))
        return torch.where(known[..., None], own, self.unknown)[:, :, None]

    def seen(
        self, poses: Float[Tensor, "B S P"], known: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B T positions D"]:
        """What the map shows at the poses of frames 1..T = S - 1; zeros where they are unknown."""
        seen = self.look_up(poses[:, :-1], poses[:, 1:], known[:, :-1] & known[:, 1:])
        return torch.where(known[:, 1:, None, None], seen, 0.0)

    def look_up(
        self,
        before: Float[Tensor, "*batch P"],
        after: Float[Tensor, "*batch P"],
        known: Bool[Tensor, "*batch"],
    ) -> Float[Tensor, "*batch positions D"]:
        """What the map shows at poses `after`.

        Args:
            known: where both poses are known, and so the player's motion.
        """
        steps = self.space.displacement(before, after) / self.space.scale
        steps = torch.where(known[..., None], steps, 0.0)
        inputs = torch.cat([self.space.features(after), steps], -1)
        seen = fast.run_layers(self.map, inputs) if fast.serves_one(inputs) else self.map(inputs)
        return seen.unflatten(-1, (self.num_positions, -1))

    def sketched(
        self, before: Float[Tensor, "M P"], after: Float[Tensor, "M P"]
    ) -> Float[Tensor, "M positions block"]:
        """The tokenizer's vectors of each position's codes, predicted by the map alone."""
        known = torch.ones(len(before), dtype=torch.bool, device=before.device)
        return self.sketch(self.look_up(before, after, known))

    def predict(
        self,
        poses: Float[Tensor, "*batch W P"],
        known: Bool[Tensor, "*batch W"],
        actions: Float[Tensor, "*batch W A"],
        shown: Float[Tensor, "*batch positions D"] | None = None,
    ) -> Mixture:
        """The displacement from the newest of the last W = 1 + RECENT poses to the next.

        Args:
            known: which poses are known.
            actions: taken there, the newest last; zeros before the first.
            shown: the newest frame, embedded; zeros where it is hidden; None: it always is.
        """
        view = self.view.bias.expand(*known.shape[:-1], -1)
        if shown is not None:
            view = self.view(shown.flatten(-2))
        return self.head(poses, known, actions, F.silu(view))


def last_of_each(
    sequence: Shaped[Tensor, "B T *rest"], count: int
) -> Shaped[Tensor, "B T W *rest"]:
    """At each time the last `count`, the newest last; zeros before the first."""
    padding = sequence.new_zeros(len(sequence), count - 1, *sequence.shape[2:])
    windows = torch.cat([padding, sequence], 1).unfold(1, count, 1)
    return windows.movedim(-1, 2)
