"""A driver for CarRacing-v3, by rule: it steers towards the road's middle, slower before bends.

Its mean return is about 700; that of random actions is about -50.
To record it: python -m collect.gym --env-id CarRacing-v3 --policy examples.car_driver:drive ...
"""

import numpy as np

# Of a frame's 96 rows and columns.
CAR_ROW, CAR_COLUMN = 66, 47.5
ROWS_AHEAD = 26
AIMED_AT = 12  # rows ahead of the car
SPEED_BAR = (slice(84, 96), slice(12, 14))


def drive(frame: np.ndarray) -> np.ndarray:
    """Steering, gas and brake for an observation."""
    road, speed = is_road(frame), speed_shown(frame)
    middles = road_ahead(road)
    if not middles:  # off the road: turn slowly to where it can be seen
        columns = np.nonzero(road[: CAR_ROW + 10])[1]
        side = np.sign(columns.mean() - CAR_COLUMN) if len(columns) else 1
        return np.array([side, 0.2 * (speed < 1), 0.4 * (speed > 1.5)], np.float32)
    aim = middles[min(len(middles) - 1, AIMED_AT)]
    bend, is_short = abs(middles[-1] - middles[0]), len(middles) < ROWS_AHEAD
    wanted = 3.4 - 0.07 * bend - 0.9 * is_short
    steering = np.clip((aim - CAR_COLUMN) / 14, -1, 1)
    return np.array([steering, 0.4 * (speed < wanted), 0.4 * (speed > wanted + 0.7)], np.float32)


def is_road(frame: np.ndarray) -> np.ndarray:
    """Which pixels are grey."""
    return np.ptp(frame.astype(np.int16), axis=2) < 30


def speed_shown(frame: np.ndarray) -> float:
    """Rows of the white bar at the bottom; 1 is 20 units a second."""
    return float(frame[SPEED_BAR].min(-1).mean(1).sum() / 255)


def road_ahead(road: np.ndarray) -> list[float]:
    """The road's middle in each row from the car on, as far as it can be followed."""
    middles: list[float] = []
    for row in road[CAR_ROW : CAR_ROW - ROWS_AHEAD : -1]:
        columns = np.flatnonzero(row)
        pieces = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        candidates = [float(piece.mean()) for piece in pieces if len(piece) > 2]
        last = middles[-1] if middles else CAR_COLUMN
        if candidates:
            middles.append(min(candidates, key=lambda middle: abs(middle - last)))
        elif middles:
            break
    return middles
