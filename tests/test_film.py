"""Pictures and films: what is written is what is read again."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from worldmodel.media.film import (
    GAP,
    RED,
    TITLE_HEIGHT,
    enlarged,
    framed,
    grid,
    save_gif,
    save_mp4,
    save_png,
    sheet,
    side_by_side,
    titled,
)


def smooth_film(num_frames: int, height: int, width: int) -> np.ndarray:
    """A different grey in each frame, a little darker to the right."""
    levels = np.linspace(30, 220, num_frames)[:, None, None] - np.linspace(0, 20, width)
    return np.broadcast_to(levels[..., None], (num_frames, height, width, 3)).astype(np.uint8)


def test_sheet_lays_clips_out_in_rows() -> None:
    clips = np.random.default_rng(0).integers(0, 255, (2, 3, 8, 6, 3), dtype=np.uint8)
    picture = sheet(list(clips))
    assert picture.shape == (2 * 8 + GAP, 3 * 6 + 2 * GAP, 3)
    np.testing.assert_array_equal(picture[8 + GAP :, 6 + GAP : 12 + GAP], clips[1, 1])
    assert (picture[8 : 8 + GAP] == 255).all()
    np.testing.assert_array_equal(sheet(list(clips), scale=3)[::3, ::3], picture)


def test_png_round_trip(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "new" / "picture.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new/picture.png")), picture)


def test_framed_draws_a_red_border_on_a_copy() -> None:
    clip = np.zeros((2, 8, 8, 3), np.uint8)
    marked = framed(clip, thickness=2)
    assert (marked[:, :2] == RED).all()
    assert (marked[:, :, -2:] == RED).all()
    assert (marked[:, 2:-2, 2:-2] == 0).all()
    assert (clip == 0).all()


def test_titles_stand_above_and_clips_stay_as_they_are() -> None:
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    film = side_by_side({"real": clips[0], "dream": clips[1]}, scale=4)
    assert film.shape == (3, 64 + TITLE_HEIGHT, 2 * 64 + 2 * GAP, 3)
    np.testing.assert_array_equal(film[:, TITLE_HEIGHT:, :64], enlarged(clips[0], 4))
    np.testing.assert_array_equal(film[:, TITLE_HEIGHT:, 64 + 2 * GAP :], enlarged(clips[1], 4))
    assert film[:, :TITLE_HEIGHT].min() < 100  # there is ink
    assert (titled(enlarged(clips[0], 4), "")[:, :TITLE_HEIGHT] == 255).all()


def test_grid_fills_the_last_row_up() -> None:
    films = [np.full((2, 4, 4, 3), level, np.uint8) for level in (10, 20, 30)]
    film = grid(films, columns=2)
    assert film.shape == (2, 8 + 2 * GAP, 8 + 2 * GAP, 3)
    assert (film[:, :4, -4:] == 20).all()
    assert (film[:, -4:, :4] == 30).all()
    assert (film[:, -4:, -4:] == 255).all()


def test_gif_keeps_frames_colours_and_length(tmp_path: Path) -> None:
    film = smooth_film(24, 20, 30)
    path = tmp_path / "new" / "film.gif"
    save_gif(path, film, fps=8.75)
    with Image.open(path) as gif:
        assert isinstance(gif, GifImageFile)
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (24, (30, 20), 0)
        length_ms = 0
        for t in range(gif.n_frames):
            gif.seek(t)
            length_ms += gif.info["duration"]
            difference = np.asarray(gif.convert("RGB")).astype(int) - film[t]
            assert np.abs(difference).max() <= 8
    assert length_ms == pytest.approx(24 / 8.75 * 1000, abs=10)


def test_gif_stores_a_still_as_a_wait(tmp_path: Path) -> None:
    film = smooth_film(4, 10, 10)[[0, 0, 0, 3]]
    save_gif(tmp_path / "film.gif", film, fps=10.0)
    with Image.open(tmp_path / "film.gif") as gif:
        assert isinstance(gif, GifImageFile)
        waits = []
        for t in range(gif.n_frames):
            gif.seek(t)
            waits.append(gif.info["duration"])
    assert waits == [300, 100]


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_mp4_round_trip(tmp_path: Path, size: tuple[int, int]) -> None:
    film = smooth_film(12, *size)
    save_mp4(tmp_path / "film.mp4", film, fps=8.75)
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate or 0) == pytest.approx(8.75)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 12
    assert frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    shown = np.stack(frames)[:, : size[0], : size[1]]
    assert np.abs(shown.astype(int) - film).mean() < 3
