"""The map: the trail lies where the poses are, in the window and in the film."""

import math
import subprocess
import sys
from pathlib import Path

import av
import gymnasium
import numpy as np
import pytest

from play.map import BACKGROUND, DREAM, REAL, Map, Trail, draw_map
from play.pilot import Pilot

SIZE = 100


def _is(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() < 40)


def test_the_newest_point_lies_where_the_pose_is():
    for x, y, column, row in ((0, 0, 8, 92), (100, 0, 92, 92), (0, 100, 8, 8), (50, 50, 50, 50)):
        of = Map(Trail(((x, y),), None), None, (0.0, 0.0), (100.0, 100.0))
        picture = draw_map(of, SIZE)
        assert _is(picture[row, column], DREAM)
        assert _is(picture[row, 100 - column if column != 50 else 20], BACKGROUND)


def test_a_trail_joins_steps_and_leaves_jumps_open():
    walked = Map(Trail(((0, 50), (20, 50)), None), None, (0.0, 0.0), (100.0, 100.0))
    jumped = Map(Trail(((0, 50), (80, 50)), None), None, (0.0, 0.0), (100.0, 100.0))
    assert _is(draw_map(walked, SIZE)[50, 16], DREAM)
    assert _is(draw_map(jumped, SIZE)[50, 40], BACKGROUND)


def test_the_player_looks_along_its_heading():
    up = Map(Trail(((50, 50),), math.pi / 2), None, (0.0, 0.0), (100.0, 100.0))
    picture = draw_map(up, SIZE).astype(int)
    seen = np.abs(picture - BACKGROUND).sum(-1)
    assert seen[38:46, 30:70].sum() > 4 * seen[55:63, 30:70].sum()


def test_the_real_game_has_a_trail_of_its_own():
    both = Map(Trail(((10, 50),), None), Trail(((90, 50),), None), (0.0, 0.0), (100.0, 100.0))
    picture = draw_map(both, SIZE)
    assert _is(picture[50, 16], DREAM)
    assert _is(picture[50, 84], REAL)


def test_a_dream_and_the_real_game_are_followed(posed_run: Path):
    from envs.dream import DreamEnv

    pilot = Pilot(DreamEnv(str(posed_run)), seed=0, start=0)
    try:
        assert pilot.moment.map is not None
        assert len(pilot.moment.map.trail.points) == 1
        assert pilot.moment.map.low is not None
        assert "pose" not in pilot.moment.info
        pilot.restart()
        assert len(pilot.moment.map.trail.points) == 1
    finally:
        pilot.close()


def test_a_world_without_a_pose_has_no_map():
    class Plain(gymnasium.Env[np.ndarray, np.int64]):
        metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012
        action_space = gymnasium.spaces.Discrete(2)
        observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)

        def reset(self, *, seed=None, options=None):
            return np.zeros((8, 8, 3), np.uint8), {"health": 1.0}

    pilot = Pilot(Plain(), seed=0)
    assert pilot.moment.map is None


@pytest.mark.parametrize("with_map", [False, True])
def test_a_film_shows_the_map_beside_the_frame(with_map: bool, tmp_path: Path):
    film = tmp_path / "walk.mp4"
    command = [sys.executable, "-m", "play", "--env", "doom-hgs", "--headless", "--steps", "8"]
    command += ["--record", str(film), "--size", "128", *(["--map"] if with_map else [])]
    subprocess.run(command, check=True, capture_output=True)
    with av.open(str(film)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == (128, 256 if with_map else 128, 3)
    if with_map:
        assert (np.abs(picture[:, 128:].astype(int) - DREAM).max(-1) < 60).any()
