"""A driver for CarRacing-v3, by rule: it steers towards the road's middle, slower before bends.

Its mean return is about 700; that of random actions is about -50.
To record it: python -m collect.gym --env-id CarRacing-v3 --policy examples.car_driver:drive ...
It also drives in dreams: python -m worldmodel.evaluate ... --driver examples.car_driver:drive
"""

import numpy as np

# In fractions of a frame's height and width.
CAR_ROW, CAR_COLUMN = 0.69, 0.495
AHEAD = 0.27  # as far as the road is followed
AIMED_AT = 0.125  # ahead of the car
LOWEST_ROW = 0.79
SPEED_BAR_ROW, SPEED_BAR_COLUMNS = 0.875, (0.125, 0.146)


def drive(frame: np.ndarray) -> np.ndarray:
    """Steering, gas and brake for an observation, or another square picture of it."""
    size = len(frame)
    road, speed, car = is_road(frame), speed_shown(frame), CAR_COLUMN * size
    middles = road_ahead(road)
    if not middles:  # off the road: turn slowly to where it can be seen
        columns = np.nonzero(road[: int(LOWEST_ROW * size)])[1]
        side = np.sign(columns.mean() - car) if len(columns) else 1
        return np.array([side, 0.2 * (speed < 1), 0.4 * (speed > 1.5)], np.float32)
    aim = middles[min(len(middles) - 1, int(AIMED_AT * size))]
    bend, is_short = abs(middles[-1] - middles[0]) / size, len(middles) < int(AHEAD * size)
    wanted = 3.4 - 7 * bend - 0.9 * is_short
    steering = np.clip(7 * (aim - car) / size, -1, 1)
    return np.array([steering, 0.4 * (speed < wanted), 0.4 * (speed > wanted + 0.7)], np.float32)


def is_road(frame: np.ndarray) -> np.ndarray:
    """Which pixels are grey."""
    return np.ptp(frame.astype(np.int16), axis=2) < 30


def speed_shown(frame: np.ndarray) -> float:
    """Height of the white bar at the bottom; 1 is 20 units a second."""
    rows, (left, right) = int(SPEED_BAR_ROW * len(frame)), SPEED_BAR_COLUMNS
    columns = slice(int(left * len(frame)), int(right * len(frame)) + 1)
    bar = frame[rows:, columns].min(-1).max(1)
    return float(bar.sum() / 255 * 96 / len(frame))


def road_ahead(road: np.ndarray) -> list[float]:
    """The road's middle in each row from the car on, as far as it can be followed."""
    size = len(road)
    car_row, middles = int(CAR_ROW * size), []
    for row in road[car_row : car_row - int(AHEAD * size) : -1]:
        columns = np.flatnonzero(row)
        pieces = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        candidates = [float(piece.mean()) for piece in pieces if len(piece) > 2]
        last = middles[-1] if middles else CAR_COLUMN * size
        if candidates:
            middles.append(min(candidates, key=lambda middle: abs(middle - last)))
        elif middles:
            break
    return middles
