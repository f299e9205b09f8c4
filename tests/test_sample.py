"""Futures of a checkpoint's starts, as pictures and films."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import one_line_error
from PIL import Image

from worldmodel import sample as command
from worldmodel.checkpoint import load_checkpoint
from worldmodel.errors import UserError
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.media.film import GAP, RED
from worldmodel.sample import SHOWN_DREAMED, SHOWN_GIVEN, Sample, sample


@pytest.fixture
def options(tiny_run: Path, tmp_path: Path) -> Sample:
    return Sample(str(tiny_run), tmp_path / "sample.png", futures=3, steps=5, scale=1)


def test_a_picture_has_a_row_for_each_future_and_given_frames_in_red(options: Sample) -> None:
    sample(replace(options, starts=(0, 1)))
    picture = np.asarray(Image.open(options.out))
    columns = SHOWN_GIVEN + min(5, SHOWN_DREAMED)
    assert picture.shape == (6 * (64 + GAP) - GAP, columns * (64 + GAP) - GAP, 3)
    frames = picture[:64].reshape(64, -1, 3)
    given_edge = frames[0, : SHOWN_GIVEN * (64 + GAP) - GAP]
    is_red = (given_edge == RED).all(-1)
    assert is_red.sum() == 64 * SHOWN_GIVEN
    assert not (frames[0, SHOWN_GIVEN * (64 + GAP) :] == RED).all(-1).any()


def test_a_file_that_is_there_is_not_replaced_unasked(options: Sample) -> None:
    options.out.write_text("here before")
    with pytest.raises(UserError, match=r"exists already: .*--overwrite"):
        sample(options)
    assert options.out.read_text() == "here before"
    sample(replace(options, overwrite=True))
    assert options.out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4"])
def test_a_full_disk_leaves_the_film_that_was_there(
    options: Sample, suffix: str, full_disk, tmp_path: Path
) -> None:
    out = full_disk(2**15) / f"film{suffix}"
    out.write_text("here before")
    with pytest.raises(OSError, match="No space left"):
        sample(replace(options, out=out, overwrite=True, steps=60, scale=8))
    assert out.read_text() == "here before"
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_same_seed_draws_the_same(options: Sample) -> None:
    written = []
    for seed in (1, 1, 2):
        sample(replace(options, seed=seed, overwrite=True))
        written.append(options.out.read_bytes())
    assert written[0] == written[1] != written[2]


def test_futures_differ_by_chance_under_the_same_actions(options: Sample) -> None:
    sample(replace(options, same_actions=True, sampling=SamplingOptions(1.0)))
    picture = np.asarray(Image.open(options.out))
    rows = {picture[i * (64 + GAP) : i * (64 + GAP) + 64].tobytes() for i in range(3)}
    assert len(rows) == 3


def test_top_p_leaves_the_likeliest_alone(options: Sample) -> None:
    sample(replace(options, sampling=SamplingOptions(1.0, top_p=1e-9), same_actions=True))
    narrowed = options.out.read_bytes()
    sample(replace(options, sampling=SamplingOptions(0.0), same_actions=True, overwrite=True))
    assert options.out.read_bytes() == narrowed


def test_a_checkpoint_of_the_hub_is_fetched_once(
    options: Sample, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(name: str, **_: object) -> str:
        fetched.append(name)
        return str(tiny_run)

    monkeypatch.setattr("worldmodel.checkpoint.files.snapshot_download", fetch)
    sample(replace(options, checkpoint="somebody/tiny"))
    assert fetched == ["somebody/tiny"]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_films_show_given_frames_then_dreamed_ones(options: Sample, suffix: str) -> None:
    out = options.out.with_suffix(suffix)
    sample(replace(options, out=out, action="1"))
    given = load_checkpoint(options.checkpoint).starts.frames.shape[1]
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (3 * 64 + 2 * 2 * GAP, 64)
        num_frames = sum(1 for _ in container.decode(stream))
    if suffix == ".mp4":
        assert num_frames == given + 5
    else:  # equal frames are stored once
        assert 2 <= num_frames <= given + 5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"out": Path("sample.bmp")}, "the name must end in .png, .gif, .mp4"),
        ({"starts": (0, 99)}, "there is no start 99: they go from 0 to"),
        ({"futures": 0}, "--futures must be from 1 to 2147483647, not 0"),
        ({"futures": 10**20}, "--futures must be from 1"),
        ({"futures": 10**9}, "GiB, more than 4: ask for fewer or smaller ones"),
        ({"scale": 10**6}, "GiB, more than 4: ask for fewer or smaller ones"),
        ({"steps": 10**9}, "GiB, more than 4: ask for fewer or smaller ones"),
        ({"seed": 10**30}, "--seed must be from 0"),
        ({"action": "jump"}, "unknown action 'jump'; the known ones are: stay, right"),
        ({"action": "2"}, "unknown action '2'"),
        ({"action": "right:4,stay:2"}, "is longer than the 5 steps there are"),
        ({"action": f"right:{10**12}"}, "is longer than the 5 steps there are"),
        ({"checkpoint": "nowhere"}, "unknown checkpoint 'nowhere'"),
        ({"action": "right:" + "9" * 5000}, "is longer than the 5 steps there are"),
        ({"action": "9" * 5000}, "unknown action '999"),
        ({"sampling": SamplingOptions(top_k=0)}, "top_k must be from 1 to 2147483647"),
        ({"sampling": SamplingOptions(top_k=10**20)}, "top_k must be from 1 to 2147483647"),
        ({"sampling": SamplingOptions(top_p=1.5)}, "top_p must be above 0 and at most 1"),
        ({"device": "abacus"}, "unknown device 'abacus': cpu or cuda"),
    ],
)
def test_bad_options_get_one_clear_line(
    options: Sample, changes: dict, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.tyro, "cli", lambda *_, **__: replace(options, **changes))
    assert complaint in one_line_error(command.main)
