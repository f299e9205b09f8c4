"""Older frames: which few a dream looks at again, and how the prior sees them.

Where players have headings, those whose view overlaps most with that from the next pose; elsewhere
frames spaced ever wider in time, back to the first.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.prior.layers import attend_where
from worldmodel.prior.memory import Keyframes
from worldmodel.prior.past import Older
from worldmodel.prior.pose import PoseSpace

HALF_VIEW = math.radians(45)  # of a view of 90 degrees, as Doom's
# Points that stand for a view: so far ahead, in sizes of the level, and so far to the side.
VIEW_DISTANCES = (1 / 32, 1 / 12, 1 / 6, 1 / 3)
VIEW_ANGLES = (-0.7, -0.35, 0.0, 0.35, 0.7)  # radians
FARTHEST_SEEN = 0.4  # sizes of the level
NEAR = 1 / 8  # sizes of the level: a frame from so far away counts half
SEEN_AGAIN = 0.25  # weight of a point that a chosen frame shows already


def look_back(
    kept: Keyframes,
    usable: Bool[Tensor, "B T K"],
    now: Int[Tensor, "B T"],
    next_poses: Float[Tensor, "B T P"],
    next_known: Bool[Tensor, "B T"],
    *,
    count: int,
    window: int,
    space: PoseSpace | None,
) -> Older:
    """Those of K frames that each of T predictions looks at again.

    Args:
        usable: which may be chosen for which prediction.
        now: time of the newest frame of each prediction.
        next_poses: of the frames that are predicted.
        count: M, of frames to choose.
        window: frames that are seen anyway.
        space: of the poses; None: there are none.
    """
    index, there = _spaced(kept, usable, count, now, window)
    if space is not None and space.spec.heading is not None:
        seen = _overlapping(kept, usable, count, space, next_poses)
        index, there = (
            torch.where(next_known[..., None], by_view, by_time)
            for by_view, by_time in zip(seen, (index, there), strict=True)
        )
    clips = torch.arange(len(index), device=index.device)[:, None, None]
    return Older(
        codes=kept.codes[clips, index].long(),
        poses=kept.poses[clips, index],
        known=kept.known[clips, index],
        age=kept.age[clips, index],
        since=now[..., None] - kept.times[clips, index],
        there=there,
    )


def _spaced(
    kept: Keyframes, usable: Tensor, count: int, now: Tensor, window: int
) -> tuple[Tensor, Tensor]:
    """The first frame, and those two, four, eight windows ago and so on."""
    chosen, there = [], []
    for m in range(count):
        wanted = torch.zeros_like(now) if m == 0 else now - window * 2**m
        off = (kept.times[:, None] - wanted[..., None]).abs()
        nearest = torch.where(usable, off, torch.iinfo(torch.int64).max).argmin(-1, keepdim=True)
        chosen.append(nearest)
        there.append(usable.gather(-1, nearest))
        usable = usable.scatter(-1, nearest, value=False)
    return torch.cat(chosen, -1), torch.cat(there, -1)


def _overlapping(
    kept: Keyframes, usable: Tensor, count: int, space: PoseSpace, next_poses: Tensor
) -> tuple[Tensor, Tensor]:
    """One after the other the frame that shows most of what is in view and not shown yet."""
    size = space.extent.max()
    points = _view(next_poses, space, size)  # (B, T, V, 2)
    here, there = next_poses[..., None, :2], kept.poses[:, None, :, :2]
    nearness = 1 / (1 + (there - here).norm(dim=-1) / (NEAR * size))  # (B, T, K)
    shown = _in_view(points, kept.poses, space, size)  # (B, T, K, V)
    usable = usable & kept.known[:, None]
    weights = torch.ones_like(points[..., 0])  # (B, T, V)
    chosen, found = [], []
    for _ in range(count):
        worth = (shown * weights[:, :, None]).sum(-1) * nearness
        best, index = torch.where(usable, worth, -1.0).max(-1, keepdim=True)
        chosen.append(index)
        found.append(best > 0)
        again = shown.gather(2, index[..., None].expand(*index.shape, shown.shape[-1]))[:, :, 0]
        weights = torch.where(again, SEEN_AGAIN * weights, weights)
        usable = usable.scatter(-1, index, value=False)
    return torch.cat(chosen, -1), torch.cat(found, -1)


def _view(poses: Tensor, space: PoseSpace, size: Tensor) -> Tensor:
    """Points (*batch, V, 2) in front of players at `poses` (*batch, P)."""
    distances = torch.tensor(VIEW_DISTANCES, device=poses.device) * size
    angles = torch.tensor(VIEW_ANGLES, device=poses.device)
    directions = space.heading(poses)[..., None] + angles  # (*batch, angles)
    ahead = torch.stack([directions.cos(), directions.sin()], -1)[..., None, :]
    offsets = (ahead * distances[:, None]).flatten(-3, -2)
    return poses[..., None, :2] + offsets


def _in_view(points: Tensor, poses: Tensor, space: PoseSpace, size: Tensor) -> Tensor:
    """Whether players at `poses` (B, K, P) have points (B, T, V, 2) in view, (B, T, K, V); walls
    are left out of account."""
    headings = space.heading(poses)
    ahead = torch.stack([headings.cos(), headings.sin()], -1)[:, None, :, None]
    to_points = points[:, :, None] - poses[:, None, :, None, :2]
    distances = to_points.norm(dim=-1)
    along = (to_points * ahead).sum(-1)
    return (along >= math.cos(HALF_VIEW) * distances) & (distances <= FARTHEST_SEEN * size)


class OlderFrames(nn.Module):
    """Where and when an older frame was: added to what it shows.

    Args:
        space: of the poses; None: there are none.
        width: D of the backbone.
    """

    def __init__(self, space: PoseSpace | None, width: int) -> None:
        super().__init__()
        self._space = (space,)  # not a module of this one: the prior's place owns it
        num_features = 0 if space is None else space.num_features + space.num_offsets
        self.enter = nn.Linear(num_features + 2, width)
        self.leave = nn.Linear(width, width)

    def forward(
        self, older: Older, next_poses: Float[Tensor, "B T P"], next_known: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T M D"]:
        since = (1 + older.since.clamp(min=0)).log2()[..., None] / 10
        known = (older.known & next_known[..., None])[..., None]
        told = [since, known.to(since)]
        if (space := self._space[0]) is not None:
            here = next_poses[:, :, None].expand_as(older.poses)
            offsets = space.offsets(here, older.poses)
            features = torch.cat([space.features(older.poses), offsets], -1)
            told.append(torch.where(known, features, 0.0))
        return self.leave(F.silu(self.enter(torch.cat(told, -1))))


class Recall(nn.Module):
    """Attention of a frame's positions to those of older frames, in one layer of the backbone.

    Begins as nothing: a prior that has learned without older frames stays what it is.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(1, width))  # to look at where nothing helps
        for linear in (self.queries, self.keys_values):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Float[Tensor, "*batch P D"],
        older: Float[Tensor, "*batch O D"],
        there: Bool[Tensor, "*batch O"],
    ) -> Float[Tensor, "*batch P D"]:
        """Of O positions of older frames those that are `there`."""
        nothing = self.nothing.expand(*older.shape[:-2], 1, -1)
        seen = F.pad(there, (1, 0), value=True)[..., None, None, :]
        q = self.queries(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in self.keys_values(torch.cat([nothing, older], -2)).chunk(2, -1)
        )
        y = attend_where(seen, q, k, v)
        return x + self.output(y.transpose(-2, -3).flatten(-2))
