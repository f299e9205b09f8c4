"""Which older frames a dream looks back at.

In worlds with headings, those whose view overlaps most with the view from the next pose; elsewhere
frames at ever wider intervals, back to the first.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.prior.memory import Keyframes, Older
from worldmodel.prior.pose import PoseSpace

HALF_VIEW = math.radians(45)  # half of Doom's field of view
# A view is represented by points. All distances are relative to the level's size.
VIEW_DISTANCES = (1 / 32, 1 / 12, 1 / 6, 1 / 3)
VIEW_ANGLES = (-0.7, -0.35, 0.0, 0.35, 0.7)  # radians
FARTHEST_SEEN = 0.4
HALF_WEIGHT_AT = 1 / 8  # distance at which a frame counts half
SEEN_AGAIN = 0.25  # weight of a point that a chosen frame already shows


def look_back(
    keyframes: Keyframes,
    usable: Bool[Tensor, "B T K"],
    now: Int[Tensor, "B T"],
    next_poses: Float[Tensor, "B T P"],
    next_known: Bool[Tensor, "B T"],
    *,
    count: int,
    window: int,
    space: PoseSpace | None,
) -> Older:
    """Choose, of K keyframes, those that each of T predictions looks back at.

    Args:
        usable: which keyframes may be chosen for which prediction.
        now: time of the newest frame of each prediction.
        next_poses: of the frames that are predicted.
        count: M, the number of frames to choose.
        window: number of frames that are seen anyway.
        space: of the poses; None in worlds without a pose.
    """
    if space is None or space.spec.heading is None:
        index, present = _spaced(keyframes, usable, count, now, window)
    else:
        index, present = _overlapping(keyframes, usable, count, space, next_poses)
        if not _are_all(next_known):
            is_posed = next_known[..., None]
            others, seen = _spaced(keyframes, usable, count, now, window)
            index = torch.where(is_posed, index, others)
            # ONNX runtimes can't select booleans.
            present = (is_posed & present) | (~is_posed & seen)
    clips = torch.arange(len(index), device=index.device)[:, None, None]
    return Older(
        codes=keyframes.codes[clips, index].long(),
        poses=keyframes.poses[clips, index],
        known=keyframes.known[clips, index],
        since=now[..., None] - keyframes.times[clips, index],
        present=present,
    )


def _are_all(flags: Tensor) -> bool:
    """Whether all are set, if that is quickly said: not by a GPU, nor in a compiled graph."""
    return flags.device.type == "cpu" and not torch.compiler.is_compiling() and bool(flags.all())


def _spaced(
    keyframes: Keyframes, usable: Tensor, count: int, now: Tensor, window: int
) -> tuple[Tensor, Tensor]:
    """The first frame, and those two, four, eight windows ago and so on."""
    chosen, present = [], []
    for m in range(count):
        wanted = torch.zeros_like(now) if m == 0 else now - window * 2**m
        off = (keyframes.times[:, None] - wanted[..., None]).abs()
        nearest = torch.where(usable, off, torch.iinfo(torch.int64).max).argmin(-1, keepdim=True)
        chosen.append(nearest)
        present.append(usable.gather(-1, nearest))
        usable = usable.scatter(-1, nearest, value=False)
    return torch.cat(chosen, -1), torch.cat(present, -1)


def _overlapping(
    keyframes: Keyframes, usable: Tensor, count: int, space: PoseSpace, next_poses: Tensor
) -> tuple[Tensor, Tensor]:
    """One after the other, the frame that shows most of what is in view and not yet shown."""
    size = space.extent.max()
    points = _view(next_poses, space, size)  # (B, T, V, 2)
    here, there = next_poses[..., None, :2], keyframes.poses[:, None, :, :2]
    nearness = 1 / (1 + (there - here).norm(dim=-1) / (HALF_WEIGHT_AT * size))  # (B, T, K)
    shown = _in_view(points, keyframes.poses, space, size)  # (B, T, K, V)
    usable = usable & keyframes.known[:, None]
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
    """The points (*batch, V, 2) that represent the view from `poses` (*batch, P)."""
    distances = torch.tensor(VIEW_DISTANCES, device=poses.device) * size
    angles = torch.tensor(VIEW_ANGLES, device=poses.device)
    directions = space.heading(poses)[..., None] + angles  # (*batch, angles)
    ahead = torch.stack([directions.cos(), directions.sin()], -1)[..., None, :]
    offsets = (ahead * distances[:, None]).flatten(-3, -2)
    return poses[..., None, :2] + offsets


def _in_view(points: Tensor, poses: Tensor, space: PoseSpace, size: Tensor) -> Tensor:
    """Whether players at `poses` (B, K, P) have points (B, T, V, 2) in view, (B, T, K, V); walls
    are ignored."""
    headings = space.heading(poses)
    ahead = torch.stack([headings.cos(), headings.sin()], -1)[:, None, :, None]
    to_points = points[:, :, None] - poses[:, None, :, None, :2]
    distances = to_points.norm(dim=-1)
    along = (to_points * ahead).sum(-1)
    return (along >= math.cos(HALF_VIEW) * distances) & (distances <= FARTHEST_SEEN * size)
