"""A level's floor plan: where recorded players have been, and so where its walls are.

It is drawn from recorded positions alone, in worlds whose positions are points of a plane. What
happens at one wall then teaches the pose head what happens at all others.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

CELLS = 456  # along each side of the plan, of about 4 units in Health Gathering Supreme
MARGIN = 16  # cells of these beyond the level, on each side
FARTHEST, FARTHEST_SEEN = 8, 4  # cells: larger distances are not told apart
# Gaps between visited cells are closed, up to so many times their size, until held-out players
# leave the floor in no more than this fraction of their frames.
CLOSED, MOST_OUTSIDE = (3, 4, 5, 6), 1e-3
# Points around the player where the pose head sees the distance to the nearest wall.
RADII, NUM_ANGLES = (1.5, 3.0, 5.0, 7.5, 10.5), 12  # in cells
TOLERANCE = 1.0  # cells: how far behind a wall's edge a step may end
SLIDES = 8  # parts of a step that would end in a wall


class FloorPlan(nn.Module):
    """Distances to the nearest wall.

    Attributes:
        distance: of each cell, from its middle to the edge of the floor, in cells, at most
            `FARTHEST`; negative in walls. All zeros: walls are not known.
    """

    distance: Float[Tensor, "cells cells"]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("distance", torch.zeros(CELLS, CELLS))
        angles = [2 * math.pi / NUM_ANGLES * k for k in range(NUM_ANGLES)]
        around = [(r * math.cos(angle), r * math.sin(angle)) for r in RADII for angle in angles]
        self.points: Tensor  # in the player's own frame, in cells
        self.register_buffer("points", torch.tensor([(0.0, 0.0), *around]), persistent=False)

    @property
    def num_features(self) -> int:
        return len(self.points)

    @torch.no_grad()
    def draw(self, places: Float[Tensor, "N two"], held_out: Float[Tensor, "M two"]) -> None:
        """Draw the plan. Where held-out players were often elsewhere, as the data don't cover the
        level, walls stay unknown.

        Args:
            places, held_out: where players were, in cells.
        """
        from scipy import ndimage  # late: it takes half a second, and play draws no plan

        self.distance.zero_()
        if not len(places) or not len(held_out):
            return
        visited = np.zeros((CELLS, CELLS), bool)
        visited[_indices(places)] = True
        for closed in CLOSED:  # less than the margin
            closing = ndimage.binary_closing(visited, np.ones((3, 3)), iterations=closed)
            floor = np.asarray(closing, bool)
            if 1 - floor[_indices(held_out)].mean() <= MOST_OUTSIDE:
                inside, outside = (
                    np.asarray(ndimage.distance_transform_edt(part)) for part in (floor, ~floor)
                )
                signed = np.where(floor, inside - 0.5, 0.5 - outside).clip(-FARTHEST, FARTHEST)
                self.distance.copy_(torch.from_numpy(signed))
                return

    def at(self, places: Float[Tensor, "*batch two"]) -> Float[Tensor, "*batch"]:
        """Distances to the nearest wall at places in cells, interpolated; in cells."""
        columns_rows = (places * (2 / CELLS) - 1).flip(-1).reshape(1, 1, -1, 2)
        plan = self.distance.to(places)[None, None]
        at = F.grid_sample(plan, columns_rows, padding_mode="border", align_corners=False)
        return at.reshape(places.shape[:-1])

    def around(
        self, places: Float[Tensor, "*batch two"], headings: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch features"]:
        """Distances at points around players, in [-1, 1].

        Args:
            headings: in radians.
        """
        points = places[..., None, :] + turned(self.points, headings[..., None])
        return (self.at(points) / FARTHEST_SEEN).clamp(-1, 1)

    def step(
        self, before: Float[Tensor, "*batch two"], after: Float[Tensor, "*batch two"]
    ) -> Float[Tensor, "*batch two"]:
        """Where a step ends, in cells: a player who would enter a wall slides along it. Whoever is
        in a wall may go anywhere."""
        part, is_free = (after - before) / SLIDES, self._depth(before) >= TOLERANCE
        if not torch.compiler.is_exporting():
            parts = torch.arange(1, SLIDES + 1, device=before.device)[:, None]
            path = before[..., None, :] + parts * part[..., None, :]
            if not (self._depth(path).any(-1) & ~is_free).any():
                return after
        pushed = torch.zeros_like(before)  # so far, out of walls
        for k in range(1, SLIDES + 1):
            here = before + k * part + pushed
            push = torch.minimum(self._depth(here), part.norm(dim=-1))[..., None]
            pushed = pushed + push * self._outward(here)
        end = after + pushed
        end = torch.where((self._depth(end) >= TOLERANCE)[..., None], before, end)
        return torch.where(is_free[..., None], after, end)

    def _depth(self, places: Float[Tensor, "*batch two"]) -> Float[Tensor, "*batch"]:
        """How deep in a wall places are; 0 on the floor."""
        return (-TOLERANCE - self.at(places)).clamp(min=0.0)

    def _outward(self, places: Float[Tensor, "*batch two"]) -> Float[Tensor, "*batch two"]:
        """Unit vectors away from the nearest wall, or to the nearest floor."""
        along = torch.eye(2, device=places.device)
        ahead, behind = (self.at(places[..., None, :] + side * along) for side in (1, -1))
        return F.normalize(ahead - behind, dim=-1)


def turned(
    vectors: Float[Tensor, "*#batch two"], angles: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch two"]:
    """Vectors in the plane, rotated counterclockwise."""
    cosine, sine = angles.cos(), angles.sin()
    x, y = vectors[..., 0], vectors[..., 1]
    return torch.stack([x * cosine - y * sine, x * sine + y * cosine], -1)


def _indices(places: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(places.clamp(0, CELLS - 1).long().cpu().numpy().T)
