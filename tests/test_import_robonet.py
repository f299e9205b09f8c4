"""RoboNet's HDF5 files, with films by FFmpeg's encoder and JPEGs by libjpeg."""

import io
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from data_samples import array_of, imported
from PIL import Image

from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.data.importers.robonet import ImportRoboNet
from worldmodel.data.left_out import read_left_out
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.media.resize import area_resized
from worldmodel.storage import hdf5

NUM_FRAMES = 6
SIZE = (48, 64)  # of RoboNet's smaller edition; 64 rows out of 48 cut pixels


def film_of(seed: int) -> np.ndarray:
    """Smooth colours, for JPEG and H.264 to keep: red on the left, blue on the right."""
    shades = np.linspace(30, 220, SIZE[1], dtype=np.uint8)
    film = np.zeros((NUM_FRAMES, *SIZE, 3), np.uint8)
    film[..., 0], film[..., 2] = shades[::-1], shades
    film[..., 1] = (20 * np.arange(NUM_FRAMES, dtype=np.uint8) + seed)[:, None, None]
    return film


def mp4(film: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(5))
        stream.height, stream.width = film.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10"}
        for frame in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return np.frombuffer(buffer.getvalue(), np.uint8)


def jpeg(picture: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def opencv_jpeg(bgr: np.ndarray) -> np.ndarray:
    """As OpenCV writes a picture that it takes for BGR; a column, as older versions give."""
    return jpeg(bgr[..., ::-1])[:, None]


def write_trajectory(
    path: Path, seed: int, encoding: str, *, num_actions: int = NUM_FRAMES - 1, action_size: int = 4
) -> None:
    """A file with the groups and attributes of RoboNet's; camera 1 sees everything upside down."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["file_version"] = "0.1.0"
        file["env/state"] = rng.normal(size=(NUM_FRAMES, 5))
        file["policy/actions"] = rng.normal(size=(num_actions, action_size))
        file["env"].attrs["n_cams"] = 2
        file["env"].attrs["cam_encoding"] = encoding.split()[0]
        for camera in range(2):
            group = file.create_group(f"env/cam{camera}_video")
            film = film_of(seed)[:, :: 1 - 2 * camera]
            write_film(group, film, encoding)
        file.create_group("metadata").attrs["robot"] = "sawyer"


def write_film(group: h5py.Group, film: np.ndarray, encoding: str) -> None:
    kind, order = encoding.split()
    given = film if order == "RGB" else film[..., ::-1]  # what the writer had in hand
    if kind == "mp4":
        array = group.create_dataset("frames", data=mp4(given))
        array.attrs["shape"], array.attrs["T"] = film.shape[1:], len(film)
        array.attrs["image_format"] = order
        return
    for t, picture in enumerate(given):
        array = group.create_dataset(f"frame{t}", data=opencv_jpeg(picture))
        array.attrs["shape"], array.attrs["image_format"] = picture.shape, order


ENCODINGS = ["mp4 RGB", "mp4 BGR", "jpg RGB", "jpg BGR"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("camera", [0, 1])
def test_colours_actions_and_states_come_through(tmp_path, encoding, camera):
    source = tmp_path / "hdf5"
    for seed in range(3):
        write_trajectory(source / f"traj{seed}.hdf5", seed, encoding)
    assert imported(ImportRoboNet(source, tmp_path / "out", camera=camera, size=24)) == 3
    reader = EpisodeReader(tmp_path / "out")
    for seed in range(3):
        rng, episode = np.random.default_rng(seed), reader.episode(seed)
        np.testing.assert_array_equal(
            episode.variables, rng.normal(size=(NUM_FRAMES, 5)).astype(np.float32)
        )
        np.testing.assert_array_equal(
            episode.action, rng.normal(size=(NUM_FRAMES - 1, 4)).astype(np.float32)
        )
        exact = film_of(seed)[:, :: 1 - 2 * camera]
        small = [area_resized(np.ascontiguousarray(frame), (24, 24)) for frame in exact]
        error = np.abs(np.stack(small).astype(int) - episode.frames)
        assert error.max() <= 12, "exchanged colours would be off by up to 190"
        assert error.mean() <= 3
    assert verify(tmp_path / "out").problems == []
    clips = ClipSampler(reader, "train", 4)
    assert clips.read(clips.draw(np.random.default_rng(0), 2)).frames.shape == (2, 4, 24, 24, 3)


def test_the_action_space_is_what_the_data_reach(tmp_path):
    for seed in range(3):
        write_trajectory(tmp_path / f"hdf5/group/traj{seed}.hdf5", seed, "jpg BGR", action_size=5)
    with h5py.File(tmp_path / "hdf5/group/traj1.hdf5", "r+") as file:
        array_of(file, "policy/actions")[2, 1] = -7.5
    for path in (tmp_path / "hdf5/group").iterdir():
        with h5py.File(path, "r+") as file:
            array_of(file, "policy/actions")[:, 4] = 0
    ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8).run()
    spec = EpisodeReader(tmp_path / "out").info.actions
    assert spec.high[1] == 7.5
    assert spec.high[4] == 1  # it never moved
    assert spec.low == tuple(-high for high in spec.high)
    assert spec.meanings == ("dx", "dy", "dz", "turn", "gripper")
    ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8).run()  # again: nothing to do


def test_what_is_behind_the_shortest_is_left_out(tmp_path):
    write_trajectory(tmp_path / "hdf5/a.hdf5", 0, "mp4 RGB", num_actions=3)
    write_trajectory(tmp_path / "hdf5/b.hdf5", 0, "jpg BGR", num_actions=9)
    imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8))
    assert EpisodeReader(tmp_path / "out").index["episode_length"].tolist() == [3, 5]
    assert read_left_out(tmp_path / "out").lines() == [
        "left out     pictures without an action or a state: 2, the first a.hdf5"
    ]


def test_linked_folders_are_searched_and_files_of_other_names_counted(tmp_path):
    for seed in range(2):
        write_trajectory(tmp_path / f"disk/here/traj{seed}.hdf5", seed, "jpg BGR")
    write_trajectory(tmp_path / "hdf5/traj2.hdf5", 2, "jpg BGR")
    write_trajectory(tmp_path / "hdf5/other.h5", 3, "jpg BGR")
    (tmp_path / "hdf5/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/here/around").symlink_to(tmp_path / "hdf5")
    assert imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8)) == 3
    assert verify(tmp_path / "out").problems == []
    assert read_left_out(tmp_path / "out").lines() == [
        "left out     not named *.hdf5 (--files): 1, other.h5"
    ]


def test_other_robots_are_named_and_can_be_chosen(tmp_path):
    for seed in range(2):
        write_trajectory(tmp_path / f"hdf5/sawyer_{seed}.hdf5", seed, "jpg BGR")
    write_trajectory(tmp_path / "hdf5/widowx_0.hdf5", 0, "jpg BGR", action_size=5)
    with pytest.raises(UserError, match=r"widowx_0.*5.*sawyer_0.*4.*--files"):
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8))
    assert not (tmp_path / "out").exists()
    chosen = ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8, files="sawyer*")
    assert imported(chosen) == 2


def _replace(name: str, data: np.ndarray | list | None = None, **kwargs):
    def damage(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        array = file.create_dataset(name, data=data, **kwargs)
        array.attrs.update(attributes)

    return damage


def _annotate(name: str, value: object):
    return lambda file: file["env/cam0_video/frames"].attrs.__setitem__(name, value)


def _remove(name: str):
    return lambda file: file.__delitem__(name)


def _link(name: str, link: h5py.ExternalLink | h5py.SoftLink):
    def damage(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return damage


def _virtual(file: h5py.File) -> None:
    del file["env/state"]
    layout = h5py.VirtualLayout((NUM_FRAMES, 5), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (NUM_FRAMES, 5))
    file.create_virtual_dataset("env/state", layout)


def _external(file: h5py.File) -> None:
    del file["env/state"]
    file.create_dataset("env/state", (NUM_FRAMES, 5), "f8", external=[("/etc/passwd", 0, 240)])


FILM = "env/cam0_video/frames"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("policy/actions"), "has no 'policy/actions'"),
        (_remove("env"), "has no 'env/state'"),
        (_remove("env/cam0_video"), "has no camera 0: choose another --camera"),
        (_remove(FILM), "no two frames"),
        (_replace("env", np.zeros(3)), "has no 'env/state'"),
        (_replace("env/state", np.zeros((6, 5), np.int64)), "int64 .* not floating"),
        (_replace("env/state", np.zeros(6)), "not floating of 2 dimensions"),
        (_replace("env/state", ["a"] * 6, dtype=h5py.string_dtype()), "holds objects"),
        (_replace("env/state", np.full((6, 5), np.nan)), "not finite"),
        (_replace("policy/actions", np.full((5, 4), 1e300)), "not finite"),
        (_replace("policy/actions", np.zeros((5, 3))), "3 numbers, not 4 or 5"),
        (_replace("policy/actions", np.zeros((0, 4))), "no two frames"),
        (
            _replace("policy/actions", shape=(2**40, 4), dtype="f8", chunks=(9, 4)),
            "more than the file can hold",
        ),
        (
            _replace(
                "policy/actions",
                shape=(5, 4),
                maxshape=(None, None),
                dtype="f8",
                chunks=(2**15, 2**15),
            ),
            "more than the file can hold",
        ),
        (
            _replace("policy/actions", np.zeros((20_000, 4)), compression="gzip"),
            "too long for a trajectory",
        ),
        (_replace(FILM, shape=(2**45,), dtype="u1", chunks=(9,)), "more than the file can hold"),
        (_replace(FILM, np.zeros(99, np.uint8)), "no mp4"),
        (_replace(FILM, mp4(film_of(0)[:4])), "ends after 4 of 6 frames"),
        (_replace(FILM, mp4(film_of(0)[:0])), "no mp4|no film|ends after 0 of 6"),
        (_replace(FILM, mp4(film_of(0))[:900]), "no mp4|no film|ends after 0 of 6"),
        (_annotate("T", 1), "no two frames"),
        (_annotate("T", "six"), "'T' is 'six', not a number"),
        (_annotate("T", np.arange(9)), "neither a string nor an integer"),
        (_annotate("image_format", "GBR"), "image_format is 'GBR', not RGB or BGR"),
        (lambda f: f[FILM].attrs.__delitem__("image_format"), "'image_format' is missing"),
        (_link("env", h5py.ExternalLink("other.hdf5", "/env")), "'env/state' is a link"),
        (_link("env/state", h5py.SoftLink("/policy/actions")), "'env/state' is a link"),
        (_link(FILM, h5py.ExternalLink("/dev/zero", "/x")), "is a link to elsewhere"),
        (_virtual, "points to other files"),
        (_external, "points to other files"),
    ],
)
def test_a_hostile_file_is_named_and_the_others_are_kept(tmp_path, damage, message):
    for seed in range(2):
        write_trajectory(tmp_path / f"hdf5/traj{seed}.hdf5", seed, "mp4 RGB")
    imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "first", size=8))
    with h5py.File(tmp_path / "hdf5/traj1.hdf5", "r+") as file:
        damage(file)
    with pytest.raises(UserError, match=rf"traj1\.hdf5.*({message})") as refused:
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8))
    assert "\n" not in str(refused.value)
    # It was seen before anything was stored, or the one before it is there.
    if (tmp_path / "out").exists():
        assert len(EpisodeReader(tmp_path / "out")) == 1
        (problem,) = verify(tmp_path / "out").problems
        assert "import still runs or was stopped" in problem


def _claiming(width: int, height: int) -> np.ndarray:
    """A JPEG whose header claims another size."""
    data = jpeg(film_of(0)[0]).copy()
    start = data.tobytes().index(b"\xff\xc0")
    data[start + 5 : start + 9] = np.frombuffer(
        height.to_bytes(2, "big") + width.to_bytes(2, "big"), np.uint8
    )
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_claiming(60_000, 60_000), "too large"),
        (_claiming(10_000, 10_000), "too large"),
        (_claiming(4096, 2048), "4096x2048 is too large"),
        (jpeg(film_of(0)[0])[:300], "no JPEG, or damaged"),
        (np.zeros(0, np.uint8), "no JPEG, or damaged"),
        (np.frombuffer(b"\x89PNG\r\n\x1a\n" + bytes(99), np.uint8), "no JPEG, or damaged"),
    ],
)
def test_a_bad_picture_is_refused(tmp_path, data, message):
    write_trajectory(tmp_path / "hdf5/traj0.hdf5", 0, "jpg BGR")
    with h5py.File(tmp_path / "hdf5/traj0.hdf5", "r+") as file:
        _replace("env/cam0_video/frame3", data)(file)
    with pytest.raises(UserError, match=rf"traj0\.hdf5.*frame3.*{message}"):
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8))


def test_a_film_that_grows_too_large_is_refused(tmp_path):
    write_trajectory(tmp_path / "hdf5/traj0.hdf5", 0, "mp4 RGB")
    with h5py.File(tmp_path / "hdf5/traj0.hdf5", "r+") as file:
        _replace(FILM, mp4(np.zeros((2, 2050, 2050, 3), np.uint8)))(file)
    with pytest.raises(UserError, match="too large"):
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"files": "*.h5"}, r"holds no files \*\.h5"),
        ({"files": "/*"}, r"holds no files /\*"),
        ({"files": ""}, "holds no files"),
        ({"camera": -1}, "--camera -1 is negative"),
        ({"size": 0}, "--size 0"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path, kwargs, message):
    write_trajectory(tmp_path / "hdf5/traj0.hdf5", 0, "jpg BGR")
    with pytest.raises(UserError, match=message):
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", **kwargs))
    with pytest.raises(UserError, match="is no folder"):
        imported(ImportRoboNet(tmp_path / "hdf5/traj0.hdf5", tmp_path / "out"))
    with pytest.raises(UserError, match="no camera 2"):
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", camera=2))


def test_a_file_that_takes_too_much_memory_stops_no_more_than_its_import(tmp_path, monkeypatch):
    write_trajectory(tmp_path / "hdf5/traj0.hdf5", 0, "jpg BGR")
    with h5py.File(tmp_path / "hdf5/traj0.hdf5", "r+") as file:
        packed = _replace("env/cam0_video/frame3", np.zeros(2**26, np.uint8), compression="gzip")
        packed(file)
    monkeypatch.setattr(hdf5, "MOST_MEMORY", 2**24)
    with pytest.raises(UserError, match=r"traj0\.hdf5 .* takes more than 16 MiB of memory"):
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8))
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"traj0\.hdf5.*frame3.*no JPEG"):
        imported(ImportRoboNet(tmp_path / "hdf5", tmp_path / "out", size=8))
