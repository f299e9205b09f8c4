"""A small map of the player's path, seen from above."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from PIL import Image, ImageDraw

from envs.interface import pose_of

BACKGROUND, EDGE = (24, 27, 34), (44, 49, 60)
DREAM, REAL = (126, 200, 190), (240, 180, 90)
MOST_POINTS = 2000  # of a trail; older ones are dropped
MARGIN = 0.08  # of the map's side
JUMP = 0.25  # of the map's side; points farther apart are not connected
SHARPER = 3  # oversampling


@dataclass(frozen=True)
class Trail:
    """A player's path.

    Attributes:
        points: the first two coordinates of each pose, the newest last.
        heading: the newest, in radians counterclockwise from the first axis; None: there is none.
    """

    points: tuple[tuple[float, float], ...]
    heading: float | None


@dataclass(frozen=True)
class Map:
    """The content of a map.

    Attributes:
        low, high: corners of the level; None: unknown, so the trail fills the map.
    """

    trail: Trail
    real: Trail | None
    low: tuple[float, float] | None
    high: tuple[float, float] | None


class Trailing:
    """Collects a trail from an environment's info."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._spec = pose_of(env)
        self._points: deque[tuple[float, float]] = deque(maxlen=MOST_POINTS)

    def clear(self) -> None:
        self._points.clear()

    def extended(self, info: dict[str, Any]) -> Trail | None:
        """The trail up to this info; None if it has no pose."""
        pose = self._spec.read(info)
        if pose is None:
            return None
        self._points.append(planar(pose[: len(self._spec.position)]))
        heading = None if self._spec.heading is None else float(self._spec.radians(pose))
        return Trail(tuple(self._points), heading)


def planar(position: np.ndarray) -> tuple[float, float]:
    """The first two coordinates; a missing second one is 0."""
    return float(position[0]), float(position[1]) if len(position) > 1 else 0.0


def draw_map(of: Map, size: int) -> np.ndarray:
    """The map, north up, uint8 (size, size, 3)."""
    side = size * SHARPER
    image = Image.new("RGB", (side, side), BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, side - 1, side - 1), outline=EDGE, width=SHARPER)
    trails = [(of.trail, DREAM), *([(of.real, REAL)] if of.real is not None else [])]
    points = np.concatenate([np.asarray(trail.points) for trail, _ in trails])
    low, high = (
        np.asarray(corner, float) if corner is not None else extreme
        for corner, extreme in ((of.low, points.min(0)), (of.high, points.max(0)))
    )
    scale = (1 - 2 * MARGIN) * side / max(float((high - low).max()), 1e-6)
    middle = (low + high) / 2

    def placed(points: np.ndarray) -> np.ndarray:
        return side / 2 + (points - middle) * scale * np.array([1, -1])

    for trail, colour in reversed(trails):
        way = placed(np.asarray(trail.points, float))
        breaks = np.flatnonzero(np.abs(np.diff(way, axis=0)).max(1) >= JUMP * side) + 1
        for run in np.split(way, breaks):
            if len(run) > 1:
                pen.line(run.ravel().tolist(), fill=colour, width=2 * SHARPER)
        _draw_player(pen, way[-1], trail.heading, colour, side)
    shrunk = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(shrunk)


def _draw_player(
    pen: ImageDraw.ImageDraw,
    at: np.ndarray,
    heading: float | None,
    colour: tuple[int, int, int],
    side: int,
) -> None:
    radius = side / 40
    if heading is not None:  # the field of view, 90 degrees
        edges = [heading + off for off in (-math.pi / 4, math.pi / 4)]
        reach = side / 8
        tips = [(at[0] + reach * math.cos(e), at[1] - reach * math.sin(e)) for e in edges]
        pen.line([tips[0], tuple(at), tips[1]], fill=colour, width=2 * SHARPER)
    pen.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=colour)
