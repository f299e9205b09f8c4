"""Looking away and coming back, in a dream and in the real game."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401  registers the environments
from collect.returns import Returns, _compared, _near, _recall, returns, things_in
from envs.doom.env import Seen, Senses
from worldmodel.errors import UserError


def _senses(*things: Seen) -> Senses:
    return Senses(things, np.zeros((120, 160), np.uint8), (0.0, 0.0))


def test_things_stand_in_the_cell_of_their_middle():
    medikit = Seen("CustomMedikit", left=150, width=10, top=110, height=10, distance=50)
    speck = Seen("CustomMedikit", left=0, width=3, top=60, height=3, distance=900)
    assert np.argwhere(things_in(_senses(medikit, speck))).tolist() == [[7, 7]]
    assert len(np.argwhere(things_in(_senses(medikit, speck), least_area=4))) == 2
    assert not things_in(None).any()


def test_a_thing_a_cell_away_is_the_same():
    wanted, found = np.zeros((2, 8, 8), bool), np.zeros((2, 8, 8), bool)
    wanted[0, 3, 3] = wanted[1, 0, 0] = True
    found[0, 4, 2] = found[1, 0, 2] = True
    assert _recall(wanted, found) == 0.5
    assert _near(wanted)[1].sum() == 4


def test_the_engine_labels_what_stands_in_health_gathering():
    env = gymnasium.make("DoomHealthGatheringSupreme-v0", labels=True).unwrapped
    plain = gymnasium.make("DoomHealthGatheringSupreme-v0").unwrapped
    frame, _ = env.reset(seed=3)
    same, _ = plain.reset(seed=3)
    np.testing.assert_array_equal(frame, same)  # to be told changes nothing
    found = 0
    for _ in range(30):
        frame, *_ = env.step(2)
        same, *_ = plain.step(2)
        found += int(things_in(env.senses()).sum())  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(frame, same)
    assert found > 10
    assert plain.senses() is None  # pyright: ignore[reportAttributeAccessIssue]
    env.close()
    plain.close()


@pytest.mark.slow
def test_a_dream_looks_away_and_comes_back(tmp_path: Path):
    options = Returns(out=tmp_path / "returns", moments=2, steps="2", frames=512, detector_steps=20)
    found = returns(options)[2]
    assert found.num_walks in (1, 2)
    assert 10 < found.psnr["dream"].value < 40
    report = json.loads((options.out / "returns.json").read_text())
    assert report["options"]["steps"] == "2"
    assert report["steps"]["2"]["psnr"]["dream"]["value"] == found.psnr["dream"].value
    assert "| 2 |" in (options.out / "returns.md").read_text()
    assert returns(replace(options, out=tmp_path / "two", workers=2))[2] == found


def test_a_dream_of_another_world_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="only ViZDoom labels things"):
        returns(Returns(checkpoint="dream-pushing", out=tmp_path))
    with pytest.raises(UserError, match="must be whole numbers"):
        returns(Returns(steps="two", out=tmp_path))


def test_a_perfect_dream_finds_what_the_game_shows():
    from collect.returns import Detector, Walk

    class Oracle(Detector):
        def cells(self, frames: np.ndarray) -> np.ndarray:
            return frames[:, ::8, ::8, 0] > 128

    rng = np.random.default_rng(0)
    walks = []
    for _ in range(6):
        things = rng.random((8, 8)) < 0.1
        frame = np.repeat(np.repeat(things * 255, 8, 0), 8, 1)[..., None].repeat(3, -1)
        frame = frame.astype(np.uint8)
        walks.append(Walk(frame, frame, frame, frame, things, things))
    numbers = _compared(walks, Oracle(), seed=0)
    assert numbers.recall.share is not None
    assert numbers.precision.share is not None
    assert numbers.recall.share.value == numbers.precision.share.value == 1
    assert numbers.recall == numbers.recall_in_the_game
