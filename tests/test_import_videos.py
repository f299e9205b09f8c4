"""Folders of videos become episodes: in order, in colour, with classes, in the official splits."""

import io
import os
import re
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from conftest import one_line_error
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worldmodel.data import ClipSampler, EpisodeReader, split_of
from worldmodel.data.__main__ import main
from worldmodel.data.importers.official_lists import official_splits
from worldmodel.data.importers.video_file import VideoReader, read_video
from worldmodel.data.left_out import read_left_out
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.media.resize import square

CODECS = {".avi": "mpeg4", ".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
MORE_CODECS = {
    ".mov": "mpeg4",
    ".m4v": "libx264",
    ".3gp": "libx264",
    ".mpg": "mpeg2video",
    ".vob": "mpeg2video",
    ".mpeg": "mpeg1video",
    ".ts": "libx264",
    ".m2ts": "mpeg2video",
    ".flv": "flv",
    ".wmv": "wmv2",
    ".asf": "wmv2",
    ".ogv": "libvpx",
}
NUM_BITS = 8  # of the counter that is drawn into frames
HEIGHT, WIDTH = 64, 96
RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


@pytest.fixture
def run(monkeypatch) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["worldmodel.data", *map(str, arguments)])
        main()

    return run


def counting(num_frames: int, *, first: int = 0) -> np.ndarray:
    """Frames whose number stands in their middle square: bit b lights the b-th of eight bars."""
    frames = np.zeros((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    for t, frame in enumerate(frames):
        for bit in range(NUM_BITS):
            left = (WIDTH - HEIGHT) // 2 + 8 * bit
            frame[:, left : left + 8] = 230 * ((first + t) >> bit & 1)
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """What `counting` has drawn into frames that are squares by now."""
    bar = frames.shape[2] // NUM_BITS
    lit = frames.reshape(len(frames), -1, NUM_BITS, bar, 3).mean((1, 3, 4)) > 115
    return (lit << np.arange(NUM_BITS)).sum(1).tolist()


def write_video(path: Path, frames: np.ndarray, *, rate: int = 25) -> None:
    """With FFmpeg's codecs; B-frames as in UCF-101. A gif by Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *others = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=others, duration=1000 // rate, loop=0)
        return
    # FFmpeg's own kind for .m4v holds the codec's bytes alone, which no camera writes.
    kind = {".m4v": "mp4"}.get(path.suffix)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream((CODECS | MORE_CODECS)[path.suffix], rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.bit_rate = 2_000_000
        stream.codec_context.gop_size = 12
        if path.suffix == ".webm":
            stream.options = {"cpu-used": "8"}
        elif path.suffix not in (".flv", ".wmv", ".asf"):
            stream.options = {"bf": "2"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def assert_sound(folder: Path, num_episodes: int) -> EpisodeReader:
    report = verify(folder)
    assert report.problems == []
    assert any(line.startswith(f"episodes     {num_episodes}:") for line in report.lines)
    return EpisodeReader(folder)


def origins(reader: EpisodeReader) -> list[str]:
    return [row["policy"].decode() for row in reader.index]


def tiny(path: Path, num_frames: int = 20) -> None:
    write_video(path, counting(num_frames))


@pytest.mark.parametrize("suffix", [*CODECS, ".gif"])
def test_frames_come_in_order_and_all_of_them(tmp_path, suffix):
    path = tmp_path / f"video{suffix}"
    write_video(path, counting(70, first=3))
    if suffix == ".avi":  # there are B-frames: else this would not test what it should
        with av.open(str(path)) as container:
            kinds = {PictureType(frame.pict_type).name for frame in container.decode(video=0)}
        assert "B" in kinds
    film = read_video(path, size=64, rate=25, max_frames=1000)
    assert numbers(film.frames) == list(range(3, 73))
    assert not film.is_cut


@pytest.mark.parametrize("suffix", [".avi", ".gif"])
def test_some_frames_and_the_first_ones(tmp_path, suffix):
    path = tmp_path / f"video{suffix}"
    tiny(path, 31)
    for every, max_frames, expected in [
        (3, 100, range(0, 31, 3)),
        (1, 7, range(7)),
        (4, 5, range(0, 20, 4)),
        (1, 31, range(31)),
    ]:
        film = read_video(path, size=32, rate=25 / every, max_frames=max_frames)
        assert numbers(film.frames) == list(expected)
        assert film.is_cut == (len(expected) * every < 31)


@pytest.mark.parametrize("suffix", [*CODECS, ".gif"])
def test_colours_and_sides_stay(tmp_path, suffix):
    """Red left, blue right, green in the strips that are cut away; the top brighter."""
    frames = np.zeros((20, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = GREEN
    frames[:, :, 16:48], frames[:, :, 48:80] = RED, BLUE
    frames[:, 32:] //= 2
    write_video(tmp_path / f"video{suffix}", frames)
    read = read_video(tmp_path / f"video{suffix}", size=32, rate=25, max_frames=100).frames
    expected = square(frames[0], 32).astype(int)
    inside = np.ones((32, 32), bool)
    inside[14:18], inside[:, 13:19] = False, False  # codecs blur edges
    inside[:, [0, 1, 30, 31]] = False
    assert np.abs(read.astype(int) - expected)[:, inside].max() < 25


def test_a_folder_becomes_a_sound_set(tmp_path, run, capsys):
    source = tmp_path / "films"
    for i, suffix in enumerate([*CODECS, ".gif", ".avi", ".AVI", ".gif", ".gif", ".gif"]):
        path = source / f"{i}{suffix.lower()}"
        write_video(path, counting(20 + i, first=10 * i))
        path.rename(path.with_suffix(suffix))
    (source / "notes.txt").write_text("not a video")
    (source / "._0.avi").write_text("left by a file manager")
    run("videos", source, "--out", tmp_path / "set")
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("holds 10 episodes")
    assert said[1:] == ["left out     no video by the ending of its name: 1, notes.txt"]
    reader = assert_sound(tmp_path / "set", 10)
    assert reader.info.env_id == "films"
    assert reader.info.fps == 25
    assert reader.info.class_names == ()
    assert reader.info.variable_names == ()
    for i, origin in enumerate(origins(reader)):
        number = int(origin.split(".")[0])
        assert numbers(reader.frames(i)) == list(range(10 * number, 11 * number + 20))
    clips = ClipSampler(reader, "train", num_frames=16)
    assert clips.read(clips.draw(np.random.default_rng(0), 2)).frames.shape == (2, 16, 64, 64, 3)


CLASS_OF = {"a": "Archery", "b": "BasketBall", "c": "Crawling"}
UCF = [f"{CLASS_OF[c]}/v_{CLASS_OF[c]}_g0{i}.avi" for c in "abc" for i in range(3)]


@pytest.fixture(scope="module")
def ucf(tmp_path_factory) -> Path:
    """A tiny UCF-101: nine videos, whose first frame counts them, in three class folders."""
    source = tmp_path_factory.mktemp("UCF") / "UCF-101"
    for i, name in enumerate(UCF):
        write_video(source / name, counting(18, first=20 * i))
    return source


def test_classes_are_the_folders(ucf, tmp_path, run):
    run("videos", ucf, "--out", tmp_path, "--size", 32, "--every", 2, "--min-frames", 8)
    reader = assert_sound(tmp_path, 9)
    assert reader.info.class_names == ("Archery", "BasketBall", "Crawling")
    assert reader.info.variable_names == ("class",)
    assert reader.info.fps == 12.5
    for i, origin in enumerate(origins(reader)):
        classes = reader.episode(i).variables[:, 0]
        assert {reader.info.class_names[int(c)] for c in classes} == {origin.split("/")[0]}
        assert numbers(reader.frames(i)) == list(range(20 * i, 20 * i + 18, 2))


def test_a_class_that_does_not_exist_is_a_problem(ucf, tmp_path, run):
    run("videos", ucf, "--out", tmp_path, "--size", 8)
    meta = (tmp_path / "meta.json").read_text()
    (tmp_path / "meta.json").write_text(meta.replace('"Archery",', ""))
    problems = verify(tmp_path).problems
    assert len(problems) == 3  # the last class lost its name
    assert all("class" in line for line in problems)


def test_official_lists_decide_the_splits(ucf, tmp_path, run, capsys):
    train, test = [UCF[i] for i in (0, 2, 3, 4, 6)], [UCF[i] for i in (1, 5, 7)]
    (tmp_path / "trainlist01.txt").write_text("".join(f"{name} 1\r\n" for name in train))
    gone = "Archery/v_Archery_g09.avi"
    (tmp_path / "testlist01.txt").write_text("\n".join([*test, gone, ""]))
    lists = (
        "--train-list",
        tmp_path / "trainlist01.txt",
        "--test-list",
        tmp_path / "testlist01.txt",
    )
    run("videos", ucf, "--out", tmp_path / "set", "--size", 8, *lists)
    said = capsys.readouterr().out
    assert f"left out     in neither list: 1, {UCF[8]}\n" in said
    assert f"left out     listed, but not there: 1, {gone}\n" in said
    reader = assert_sound(tmp_path / "set", 8)
    names = origins(reader)
    is_test = {
        name: split_of(int(row["episode_id"])) == "test"
        for name, row in zip(names, reader.index, strict=True)
    }
    assert is_test == {name: name in test for name in train + test}


def test_lists_of_urls_and_of_names(tmp_path):
    urls = tmp_path / "tgif.tsv"
    urls.write_text(
        "https://38.media.tumblr.com/9ead/tumblr_a.gif\ta man is running 3\n"
        "https://33.media.tumblr.com/47e2/tumblr_b.gif?x=1/2.gif\ta dog 2\n\n"
        "https://33.media.tumblr.com/47e2/tumblr_gone.gif\tgone\n"
    )
    (tmp_path / "names.txt").write_text("c.gif\nsome where\\my film 2.gif\n./gifs/e.gif\n")
    names = ["gifs/tumblr_a.gif", "gifs/tumblr_b.gif", "gifs/c.gif", "some where/my film 2.gif"]
    names += ["gifs/e.gif", "gifs/unlisted.gif"]
    splits, missing = official_splits(names[:3] + names[4:], {"train": [urls], "test": []})
    assert splits == {"gifs/tumblr_a.gif": "train", "gifs/tumblr_b.gif": "train"}
    assert missing == ["tumblr_gone.gif"]
    splits, missing = official_splits(names, {"train": [urls], "test": [tmp_path / "names.txt"]})
    assert [splits.get(name) for name in names] == ["train"] * 2 + ["test"] * 2 + ["test", None]


def test_a_path_is_not_taken_for_another_class(tmp_path):
    """The file name alone would do for a URL, but a path that names its folder means it."""
    (tmp_path / "list.txt").write_text("A/1.avi\nB/2.avi\n")
    splits, missing = official_splits(
        ["A/2.avi", "B/1.avi", "A/1.avi"], {"train": [tmp_path / "list.txt"]}
    )
    assert splits == {"A/1.avi": "train"}
    assert missing == ["B/2.avi"]


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("1.avi", "", "may mean"),
        ("A/1.avi", "A/1.avi", "for training and for the test"),
        (b"\xff\xfe\x00", "", "cannot be read"),
    ],
)
def test_unclear_lists_are_refused(tmp_path, train, test, said):
    for name, content in (("train", train), ("test", test)):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said):
        official_splits(
            ["A/1.avi", "B/1.avi"],
            {"train": [tmp_path / "train"], "test": [tmp_path / "test"]},
        )


def test_a_pipe_is_no_list(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(UserError, match="not a regular file"):
        official_splits(["A/1.avi"], {"train": [tmp_path / "list.txt"]})


def test_videos_of_no_list_are_an_error_when_that_is_all(ucf, tmp_path, run):
    (tmp_path / "list.txt").write_text("something/else.avi\n")
    lists = ("--train-list", tmp_path / "list.txt")
    said = one_line_error(lambda: run("videos", ucf, "--out", tmp_path / "set", *lists))
    assert "is in the lists" in said


def test_short_videos_are_left_out_and_counted(tmp_path, run, capsys):
    source = tmp_path / "films"
    for i, num_frames in enumerate([16, 15, 30, 2]):
        tiny(source / f"{i}.avi", num_frames)
    for _ in range(2):  # counts are of the whole set, not of the last call
        run("videos", source, "--out", tmp_path / "set", "--size", 16, "--max-frames", 20)
        assert capsys.readouterr().out.splitlines()[1:] == [
            "left out     fewer than 16 frames: 2, the first 1.avi",
            "left out     the end of a video, too short for an episode: 1, 2.avi from frame 19",
        ]
    reader = assert_sound(tmp_path / "set", 2)
    assert reader.index["episode_id"].tolist() == [0, 2]
    assert reader.index["episode_length"].tolist() == [15, 19]


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".gif"])
def test_long_videos_become_several_episodes(tmp_path, run, suffix):
    """Each begins with the last frame of the one before, so no step is lost."""
    source, out = tmp_path / "films", tmp_path / "set"
    for name, num_frames in (("a", 40), ("b", 16), ("c", 34)):
        write_video(source / f"{name}{suffix}", counting(num_frames))
    options = ("--out", out, "--size", 16, "--max-frames", 16, "--min-frames", 8)
    run("videos", source, *options)
    reader = assert_sound(out, 6)
    assert [numbers(reader.episode(i).frames) for i in range(6)] == [
        list(range(first, last + 1))
        for first, last in ((0, 15), (15, 30), (30, 39), (0, 15), (0, 15), (15, 30))
    ]
    assert origins(reader) == [f"{name}{suffix}" for name in "aaabcc"]
    digest = reader.digest()
    for shard in out.glob("*.h5"):
        shard.unlink()  # all are read again
    run("videos", source, *options)
    assert EpisodeReader(out).digest() == digest


def test_pieces_may_be_read_in_any_order(tmp_path):
    write_video(tmp_path / "a.avi", counting(40))
    reader = VideoReader(tmp_path / "a.avi", size=32, rate=25)
    for start, length in ((0, 11), (10, 11), (12, 5), (12, 5), (30, 20), (0, 3), (39, 2), (50, 4)):
        film = reader.piece(start, length)
        expected = list(range(40))[start : start + length]
        assert (numbers(film.frames) if expected else []) == expected
        assert len(film.frames) == len(expected)
        assert film.is_cut == (start + length < 40)


def _text(path: Path) -> None:
    path.write_text("this is no video\n" * 100)


def _play_list(path: Path) -> None:
    """FFmpeg would read the sound video that it names; other kinds of lists name any address."""
    path.write_text("ffconcat version 1.0\nfile a.gif\n")


def _cut_in_a_frame(path: Path) -> None:
    write_video(path, np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(0.8 * len(data))])


def _cut_between_frames(path: Path) -> None:
    tiny(path, 40)
    data = path.read_bytes()
    body = data[data.index(b"movi") : data.index(b"idx1")]
    begins = [data.index(b"movi") + found.start() for found in re.finditer(b"00dc", body)]
    assert len(begins) == 40
    path.write_bytes(data[: begins[30]])


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


def _huge(path: Path) -> None:
    tiny(path)
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", 12000, 12000)  # the gif's screen: 576 MB a frame
    path.write_bytes(data)


def _mjpeg(path: Path, sizes: list[tuple[int, int]]) -> None:
    """JPEGs of any sizes, one after another, in an AVI."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuvj420p"
        for t, (height, width) in enumerate(sizes):
            jpeg = io.BytesIO()
            Image.new("RGB", (width, height), RED).save(jpeg, "JPEG")
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts = stream, t, t
            packet.time_base = Fraction(1, 25)
            container.mux(packet)


def _size_changes(path: Path) -> None:
    _mjpeg(path, [(64, 64)] * 12 + [(32, 64)] * 12)


DAMAGES = {
    "text": ("d.avi", _text, "no video"),
    "play list": ("d.mp4", _play_list, "no video"),
    "empty": ("d.webm", lambda path: path.write_bytes(b""), "no video"),
    "truncated mp4": ("d.mp4", _cut_in_a_frame, "damaged"),
    "truncated avi": ("d.avi", _cut_in_a_frame, "in the middle of a frame"),
    "truncated mov": ("d.mov", _cut_in_a_frame, "damaged"),
    "truncated mkv": ("d.mkv", _cut_in_a_frame, "the file ends before the film does"),
    "truncated webm": ("d.webm", _cut_in_a_frame, "the file ends before the film does"),
    "truncated gif": ("d.gif", _cut_in_a_frame, "the file ends before the film does"),
    "truncated flv": ("d.flv", _cut_in_a_frame, "damaged"),
    "truncated wmv": ("d.wmv", _cut_in_a_frame, "damaged"),
    "truncated mpg": ("d.mpg", _cut_in_a_frame, "damaged"),
    "frames missing": ("d.avi", _cut_between_frames, "the file ends before the film does"),
    "no frames": ("d.avi", _no_frames, "no frame"),
    "huge": ("d.gif", _huge, "pixels"),
    "size changes": ("d.avi", _size_changes, "size changes"),
}


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_videos_stop_the_import_or_are_left_out(tmp_path, run, capsys, name, damage, said):
    source, out = tmp_path / "films", tmp_path / "set"
    tiny(source / "a.gif", 16)
    tiny(source / "z.gif", 16)
    damage(source / name)
    message = one_line_error(lambda: run("videos", source, "--out", out, "--size", 8))
    assert str(source / name) in message
    assert said in message
    run("videos", source, "--out", out, "--size", 8, "--skip-damaged")
    assert f"left out     damaged: 1, {name}\n" in capsys.readouterr().out
    reader = assert_sound(out, 2)
    assert dict(zip(reader.index["episode_id"].tolist(), origins(reader), strict=True)) == {
        0: "a.gif",
        2: "z.gif",
    }


def test_no_memory_is_taken_for_a_huge_frame(tmp_path):
    """The container says 64 x 64: FFmpeg itself must refuse, before it is seen as a change."""
    _mjpeg(tmp_path / "d.avi", [(64, 64)] * 3 + [(4400, 8192)])
    with pytest.raises(UserError) as error:
        read_video(tmp_path / "d.avi", size=8, rate=25, max_frames=100)
    assert "size changes" not in str(error.value)


def test_the_first_video_may_be_damaged(tmp_path, run):
    source, out = tmp_path / "films", tmp_path / "set"
    tiny(source / "b.gif")
    _text(source / "a.avi")
    assert "--skip-damaged" in one_line_error(lambda: run("videos", source, "--out", out))
    run("videos", source, "--out", out, "--skip-damaged")
    reader = assert_sound(out, 1)
    assert reader.index["episode_id"].tolist() == [1]
    assert reader.info.fps == 25


def test_jpegs_of_one_size_are_no_damage(tmp_path):
    _mjpeg(tmp_path / "d.avi", [(64, 64)] * 20)
    film = read_video(tmp_path / "d.avi", size=8, rate=25, max_frames=100)
    assert len(film.frames) == 20


def test_a_set_of_other_videos_is_refused(tmp_path, run):
    """A video more in between would give all that follow other ids."""
    source, out = tmp_path / "films", tmp_path / "set"
    tiny(source / "a.gif")
    tiny(source / "c.gif")
    run("videos", source, "--out", out)
    run("videos", source, "--out", out)
    assert_sound(out, 2)
    tiny(source / "b.gif")
    said = one_line_error(lambda: run("videos", source, "--out", out))
    assert "Choose another folder" in said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda source: None, "not a folder"),
        (lambda source: source.mkdir(), "no video"),
        (lambda source: (tiny(source / "a.gif"), tiny(source / "A/b.gif")), "all videos must"),
        (lambda source: tiny(source / "UCF-101" / "A" / "b.gif"), "all videos must"),
        (lambda source: tiny(source / "a.gif", 3), "nothing to learn from"),
    ],
)
def test_folders_of_no_use_are_refused(tmp_path, run, make, said):
    make(tmp_path / "films")
    out = ("--out", tmp_path / "set")
    assert said in one_line_error(lambda: run("videos", tmp_path / "films", *out))


@pytest.mark.parametrize(
    "options",
    [("--size", 0), ("--size", 100_000), ("--every", 0), ("--min-frames", 1), ("--max-frames", 15)],
)
def test_useless_options_are_refused(ucf, tmp_path, run, options):
    said = one_line_error(lambda: run("videos", ucf, "--out", tmp_path / "set", *options))
    assert options[0] in said


def test_long_names_keep_their_end(tmp_path, run):
    source = tmp_path / "films"
    name = "é" * 40 + "-the-end.gif"
    tiny(source / name)
    run("videos", source, "--out", tmp_path / "set")
    (origin,) = origins(assert_sound(tmp_path / "set", 1))
    assert name.endswith(origin)
    assert 60 < len(origin.encode()) <= 64


def test_many_sources_are_described_briefly(tmp_path, run, capsys):
    for i in range(30):
        write_video(tmp_path / "films" / f"{i:02}.gif", counting(16, first=i))
    run("videos", tmp_path / "films", "--out", tmp_path / "set", "--size", 8)
    assert_sound(tmp_path / "set", 30)
    lines = verify(tmp_path / "set").lines
    assert [line for line in lines if line.startswith("polic")] == [
        "policies     30, from 00.gif to 29.gif: 15 to 15 steps (mean 15.0)"
    ]
    with Image.open(tmp_path / "set" / "contact-sheet.png") as sheet:
        assert sheet.size == (10 * (8 + 2) - 2, 12 * (8 + 2) - 2)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_a_square_is_the_mean_of_the_middle(height, width, size, seed):
    """Each pixel repeated until both grids divide it, then averaged in blocks: the definition."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    result = square(image, size)
    assert result.shape == (size, size, 3)
    shorter = min(height, width)
    if shorter >= size:
        top, left = (height - shorter) // 2, (width - shorter) // 2
        fine = image[top : top + shorter, left : left + shorter].repeat(size, 0).repeat(size, 1)
        means = fine.reshape(size, shorter, size, shorter, 3).mean((1, 3))
        assert np.abs(result - means).max() <= 0.5 + 1e-6


def test_a_small_picture_is_enlarged_smoothly():
    ramp = np.arange(0, 80, 10, dtype=np.uint8)[None, :, None].repeat(8, 0).repeat(3, 2)
    enlarged = square(ramp, 32)[16, :, 0].astype(int)
    assert (np.diff(enlarged) >= 0).all()
    assert np.diff(enlarged).max() <= 5


@pytest.mark.parametrize("size", [1079, 2161])
def test_large_pictures_of_odd_sizes_are_averaged_exactly(size):
    """Sums that don't fit in fp32's whole numbers."""
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    expected = np.rint(image.astype(np.int64).sum((0, 1)) / size**2)
    np.testing.assert_array_equal(square(image, 1)[0, 0], expected)


def encode(
    path: Path,
    frames: np.ndarray,
    times: list[int],
    *,
    unit: Fraction = Fraction(1, 1000),
    last: int | None = None,
    rotation: int = 0,
    rate: int = 30,
    pixel_aspect: Fraction | None = None,
) -> None:
    """A video whose frames are shown at `times`, the last one for `last` units."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = unit
        stream.options = {"bf": "0"}
        if rotation:
            stream.set_display_rotation(rotation)
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        packets = []
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, unit
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if last is not None:
            packets[-1].duration = last
        for packet in packets:
            container.mux(packet)


def trim(source: Path, path: Path, start_s: float, stop_s: float) -> None:
    """As `ffmpeg -ss START -to STOP -i SOURCE -c copy PATH`: from the key frame before on, what
    comes before the start hidden by an edit list."""
    with av.open(str(source)) as whole, av.open(str(path), "w") as part:
        read = whole.streams.video[0]
        written = part.add_stream_from_template(read)
        assert read.time_base is not None
        start = int(start_s / read.time_base)
        whole.seek(start, stream=read)
        for packet in whole.demux(read):
            if packet.dts is None or packet.pts is None:
                continue
            if packet.pts < int(stop_s / read.time_base):
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                packet.stream = written
                part.mux(packet)


@pytest.mark.parametrize("suffix", MORE_CODECS)
def test_containers_of_all_kinds_are_read(tmp_path, suffix):
    write_video(tmp_path / f"video{suffix}", counting(40, first=3))
    film = read_video(tmp_path / f"video{suffix}", size=64, rate=25, max_frames=1000)
    assert numbers(film.frames) == list(range(3, 43))
    assert film.rate == 25


def test_a_film_trimmed_without_encoding_begins_where_players_begin(tmp_path):
    write_video(tmp_path / "whole.mp4", counting(120), rate=30)
    trim(tmp_path / "whole.mp4", tmp_path / "part.mp4", 1.4, 2.0)
    with av.open(str(tmp_path / "part.mp4")) as container:
        assert container.streams.video[0].frames > 18, "nothing is hidden: this tests nothing"
    film = read_video(tmp_path / "part.mp4", size=64, rate=30, max_frames=1000)
    assert numbers(film.frames) == list(range(42, 60))


def test_a_picture_that_stays_is_shown_as_long(tmp_path):
    times = [round(1000 * i / 30) for i in range(40)]
    encode(tmp_path / "still.mkv", counting(40), times, last=2000)
    film = read_video(tmp_path / "still.mkv", size=64, rate=30, max_frames=1000)
    assert numbers(film.frames) == [*range(40), *[39] * 59]


def test_dropped_frames_are_filled_with_the_one_before(tmp_path):
    times = [i + i // 3 for i in range(40)]
    encode(tmp_path / "drop.avi", counting(40), times, unit=Fraction(1, 25), rate=25)
    film = read_video(tmp_path / "drop.avi", size=64, rate=25, max_frames=1000)
    assert numbers(film.frames) == [i - i // 4 - (i % 4 == 3) for i in range(53)]


def test_the_unit_of_times_is_not_taken_for_a_rate(tmp_path, run):
    """Such films come from browsers."""
    encode(tmp_path / "films" / "a.mkv", counting(30), [40 * i for i in range(30)], rate=1000)
    with av.open(str(tmp_path / "films" / "a.mkv")) as container:
        assert container.streams.video[0].average_rate == 1000
    run("videos", tmp_path / "films", "--out", tmp_path / "set")
    reader = assert_sound(tmp_path / "set", 1)
    assert reader.info.fps == pytest.approx(25)
    assert numbers(reader.frames(0)) == list(range(30))


def test_films_of_several_rates_are_resampled_to_one(tmp_path, run, capsys):
    source = tmp_path / "films"
    for name, rate, num_frames in [("a.mp4", 30, 40), ("b.mp4", 10, 14), ("c.mp4", 60, 80)]:
        write_video(source / name, counting(num_frames), rate=rate)
    uneven = [0, 40, 200, 230, 600, 640]  # ms
    encode(source / "d.mkv", counting(6), uneven, last=60)
    run("videos", source, "--out", tmp_path / "set", "--size", 32)
    said = capsys.readouterr().err
    assert "other rates than 30 frames a second and were resampled (the first: b.mp4, 10)" in said
    reader = assert_sound(tmp_path / "set", 4)
    assert reader.info.fps == 30
    shown = [numbers(reader.frames(i)) for i in range(4)]
    assert shown[0] == list(range(40))
    assert shown[1] == [i // 3 for i in range(42)]
    assert shown[2] == list(range(0, 80, 2))
    last_begun = [sum(time <= 1000 * i / 30 + 17 for time in uneven) - 1 for i in range(21)]
    assert shown[3] == last_begun
    run("videos", source, "--out", tmp_path / "ten", "--size", 32, "--fps", 10, "--min-frames", 2)
    reader = assert_sound(tmp_path / "ten", 4)
    assert reader.info.fps == 10
    assert numbers(reader.frames(0)) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39]
    assert numbers(reader.frames(1)) == list(range(14))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_films_are_turned_as_players_turn_them(tmp_path, rotation):
    """The camera lay on its side: red is shown above after a quarter turn against the clock."""
    frames = np.zeros((20, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, :, 48:] = RED
    frames[:, 48:] //= 2  # darker below
    encode(tmp_path / "phone.mp4", frames, [*range(0, 800, 40)], rotation=rotation)
    film = read_video(tmp_path / "phone.mp4", size=32, rate=25, max_frames=100)
    upright = np.rot90(square(frames[0], 32), rotation // 90)
    far = np.abs(film.frames[5].astype(int) - upright).max(-1) > 40
    assert far.mean() < 0.1


def test_a_mirrored_film_is_mirrored(tmp_path):
    frames = np.zeros((20, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, :, 48:] = RED
    path = tmp_path / "phone.mp4"
    encode(path, frames, [*range(0, 800, 40)], rotation=180)
    data = path.read_bytes()
    minus_one, one = struct.pack(">i", -65536), struct.pack(">i", 65536)
    turned = minus_one + bytes(12) + minus_one  # a, b, u, c, d of the track's matrix
    assert data.count(turned) == 1
    path.write_bytes(data.replace(turned, minus_one + bytes(12) + one))
    film = read_video(path, size=32, rate=25, max_frames=100)
    assert film.frames[5, :, :12, 0].min() > 200
    assert film.frames[5, :, 20:].max() < 40


def test_pixels_that_are_no_squares_are_shown_in_proportion(tmp_path):
    """A DVD's picture: 96 x 64 pixels, each twice as wide as high. A square on the screen is 32
    pixels wide."""
    frames = np.zeros((20, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, 16:48, 40:56] = RED
    path = tmp_path / "wide.mp4"
    encode(path, frames, [*range(0, 800, 40)], pixel_aspect=Fraction(2))
    lit = read_video(path, size=64, rate=25, max_frames=100).frames[5, ..., 0] > 120
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    for found in (rows, columns):
        assert (found[0], found[-1]) == pytest.approx((16, 47), abs=1)


def test_links_are_followed_and_everything_else_is_counted(tmp_path, run, capsys):
    elsewhere = tmp_path / "disk"
    tiny(elsewhere / "a.gif")
    tiny(elsewhere / "b.gif")
    source = tmp_path / "films"
    source.mkdir()
    (source / "A").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(elsewhere)
    (elsewhere / "gone.mp4").symlink_to(elsewhere / "nowhere.mp4")
    os.mkfifo(elsewhere / "pipe.mp4")
    (elsewhere / "c.xyz").write_text("a kind of video that nobody knows")
    run("videos", source, "--out", tmp_path / "set", "--size", 8)
    lines = [
        "left out     a link whose file is not there: 1, A/gone.mp4",
        "left out     neither a file nor a folder: 1, A/pipe.mp4",
        "left out     no video by the ending of its name: 1, A/c.xyz",
    ]
    assert capsys.readouterr().out.splitlines()[1:] == lines
    assert read_left_out(tmp_path / "set").lines() == lines
    assert origins(assert_sound(tmp_path / "set", 2)) == ["A/a.gif", "A/b.gif"]


def test_names_are_shown_as_text(tmp_path, run, capsys):
    tiny(tmp_path / "films" / "a.gif")
    (tmp_path / "films" / "\x1b[31mred\n.txt").write_text("")
    run("videos", tmp_path / "films", "--out", tmp_path / "set", "--size", 8)
    said = capsys.readouterr().out
    assert "?[31mred .txt" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "suffix", sorted({*CODECS, *MORE_CODECS, ".gif"} - {".mpg", ".mpeg", ".vob"})
)
def test_a_file_that_is_cut_anywhere_is_found_damaged(tmp_path, suffix):
    """But for program streams, which say nowhere how long they are."""
    frames = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    write_video(tmp_path / f"whole{suffix}", frames)
    data = (tmp_path / f"whole{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    packet = 192 if suffix == ".m2ts" else 188  # between two of a stream nothing tells
    for size in np.random.default_rng(1).integers(len(data) // 4, len(data) - 20, 12):
        cut.write_bytes(data[: size + (size % packet == 0)])
        with pytest.raises(UserError, match="damaged"):
            read_video(cut, size=8, rate=25, max_frames=1000)


def test_a_stream_that_begins_between_key_frames_begins_with_the_next(tmp_path):
    write_video(tmp_path / "whole.ts", counting(60))
    data = (tmp_path / "whole.ts").read_bytes()
    (tmp_path / "part.ts").write_bytes(data[len(data) // 188 // 3 * 188 :])
    shown = numbers(read_video(tmp_path / "part.ts", size=64, rate=25, max_frames=99).frames)
    assert 10 < len(shown) < 60
    assert shown == list(range(60 - len(shown), 60))
