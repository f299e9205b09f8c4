"""Damaged and hostile files of every kind that the project reads.

For each kind: how a sound file is made, how it is read, and how it is changed. Reading is done in
`worldmodel.storage.guarded`'s child, which crashes, hangs and takes memory in place of the test.
"""

import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.storage import guarded
from worldmodel.storage.files import parse_json

Mutate = Callable[[bytes, np.random.Generator], bytes]

MOST_KIB = 2**20
HUGE = (2**31, 2**40, 2**63 - 1, 10**10, 0, 1, 0xFFFFFFFFFFFFFFFF, 2**32 - 1)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 2**31, 2**63, 10**15, 1e300, -1e308, 1e-300, 0.5, "", [], {}),
    *("x" * 5000, "\x1b[31mred", "\u202eback", "clips:2024", "../../etc/passwd", "NaN"),
    *([0] * 3, [[[[[0]]]]], {"a": {"b": {}}}, ["a", 1, None], "\ud800"),
)


def changed_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Flipped, cut, deleted, doubled, zeroed, or with a huge number written over it."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        # Headers are at the beginning, directories often at the end.
        span = len(data) if rng.random() < 0.5 else min(len(data), 4096)
        at = int(rng.integers(max(1, span)))
        if rng.random() < 0.1:
            at = max(0, len(data) - 1 - at)
        length = int(rng.integers(1, 64))
        match int(rng.integers(7)):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ int(rng.integers(1, 256))]) if data else b""
            case 1:
                huge = HUGE[int(rng.integers(len(HUGE)))]
                data[at : at + 8] = huge.to_bytes(8, "little")
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = bytes(length)
            case 5:
                data[at : at + length] = rng.bytes(length)
            case 6 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def changed_json(content: bytes, rng: np.random.Generator) -> bytes:
    """With another value, or an entry more or less; now and then as `changed_bytes`."""
    if rng.random() < 0.2:
        return changed_bytes(content, rng)
    data = parse_json(content)
    for _ in range(int(rng.integers(1, 4))):
        holder = data
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = keys[int(rng.integers(len(keys)))]
            if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.7:
                holder = holder[key]
                continue
            if rng.random() < 0.15:
                del holder[key]
            else:
                holder[key] = deepcopy(ODD_VALUES[int(rng.integers(len(ODD_VALUES)))])
            break
    text = json.dumps(data)  # surrogates as escapes
    if rng.random() < 0.1:
        text = text.replace(": 1", ": NaN", 1).replace(": 2", ": 1e999", 1)
    if rng.random() < 0.05:
        text = text.replace(": ", ": " + "[" * 2000, 1)
    return text.encode()


def changed_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """JSON lines, one of them changed."""
    lines = content.splitlines()
    at = int(rng.integers(len(lines)))
    lines[at] = changed_json(lines[at], rng)
    if rng.random() < 0.1:
        del lines[int(rng.integers(len(lines)))]
    return b"\n".join(lines) + b"\n"


@dataclass(frozen=True)
class Kind:
    """A kind of file that is read.

    Attributes:
        make: writes sound files into a folder.
        file: the one that is changed, below that folder; a pattern takes the first that fits.
        read: name of a function of this module; called with the folder.
        change: how the file is changed.
        is_read: whether a sound one is accepted.
    """

    make: Callable[[Path], None]
    file: str
    read: str
    change: Mutate = changed_bytes
    is_read: bool = True


def damaged(kind: Kind, sound: Path, folder: Path, seed: int) -> Path:
    """A copy of a sound folder, one file of which was changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder, symlinks=True)
    path = sorted(folder.glob(kind.file))[0]
    path.write_bytes(kind.change(path.read_bytes(), np.random.default_rng(seed)))
    return folder


# How sound files are made.


def make_set(folder: Path) -> None:
    from data_samples import write_samples

    from worldmodel.data.left_out import LeftOut

    write_samples(folder / "set", range(6))
    left_out = LeftOut()
    left_out.add("not finite", "episode 9")
    left_out.write(folder / "set")


def make_unfinished_set(folder: Path) -> None:
    from data_samples import INFO, sample_episode

    from worldmodel.data import EpisodeWriter

    writer = EpisodeWriter(folder / "set", INFO)
    for i in range(4):
        writer.append(sample_episode(i))
    writer._lock.close()


def make_old_unfinished_set(folder: Path) -> None:
    from data_samples import write_samples

    write_samples(folder / "set", range(4))
    (folder / "set/shard-00000.h5").rename(folder / "set/shard-00000.h5.tmp")


def make_training_state(folder: Path) -> None:
    import torch

    from worldmodel.training.state import Progress, save_state

    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    save_state(folder / "prior.state.safetensors", module, [optimizer], Progress())


SESSION = b"""[
{"format": "videogpt-dream session", "version": 4, "env_id": "VideoGPTDream-v0",\
 "checkpoint": "dream-doom", "temperature": 0.8, "top_k": null, "guidance": null,\
 "frame_size": [64, 64]},
{"seed": 5, "start": 3, "mark": "5f1c3e0a"},
[2, "9a01b2ee"],
[[0, 1.5], "41d7c9f3"],
{"seed": 6, "start": 0, "mark": "5f1c3e0b"},
[1, "9a01b2ef"]
]
""".replace(b"\\\n", b"")
KEYS = {
    "idle": 0,
    "keys": [
        {"keys": ["w"], "sets": {"0": 1}, "name": "forward"},
        {"keys": ["left shift", "w"], "sets": {"0": 2}},
        {"keys": ["mouse 1"], "sets": {"0": 3}},
    ],
    "mouse": {"x": {"component": 0, "per_pixel": 0.1}},
}


def make_session(folder: Path) -> None:
    (folder / "walk.json").write_bytes(SESSION)
    (folder / "keys.json").write_text(json.dumps(KEYS))


def make_bair(folder: Path) -> None:
    from test_import_bair import encoded, trajectory, write_records

    for split in ("test", "train"):
        records = [encoded(trajectory(i)) for i in (0, 1)]
        write_records(folder / split / "traj_0_to_1.tfrecords", records)


def make_robonet(folder: Path) -> None:
    from test_import_robonet import write_trajectory

    for i, encoding in enumerate(("mp4 RGB", "jpg BGR")):
        write_trajectory(folder / f"traj{i}.hdf5", i, encoding)


def make_videogpt(folder: Path) -> None:
    from test_import_videogpt_hdf5 import write_file

    write_file(folder / "videos.hdf5")


def make_videos(folder: Path) -> None:
    from test_import_videos import counting, write_video

    for suffix in (".mp4", ".mkv", ".avi", ".gif", ".webm"):
        write_video(folder / suffix[1:] / f"a{suffix}", counting(20))


def make_moving(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "mnist_test_seq.npy", rng.integers(0, 255, (20, 2, 64, 64), dtype=np.uint8))


def make_minari(folder: Path) -> None:
    from test_minari import ID, write

    from collect.minari import Export

    Export(write(folder / "data"), ID, folder / "minari").run()
    shutil.rmtree(folder / "data")


def make_lerobot(folder: Path) -> None:
    from lerobot_sets import write_set

    write_set(folder / "lerobot")


def make_lerobot_export(folder: Path) -> None:
    from data_samples import write_samples

    from worldmodel.data.lerobot_export import ExportLeRobot

    ExportLeRobot(write_samples(folder / "data", range(3)), folder / "lerobot").run()
    shutil.rmtree(folder / "data")


def make_policy(folder: Path) -> None:
    import gymnasium
    from stable_baselines3 import PPO

    env = gymnasium.make("CartPole-v1")
    PPO("MlpPolicy", env, n_steps=2, batch_size=2, device="cpu").save(folder / "policy.zip")


# How they are read: each function is called in the guarded child.


def read(name: str, folder: str) -> None:
    """Call one of the functions below, and look at what the child of this child has taken."""
    try:
        globals()[name](folder)
    finally:
        child = guarded._child
        status = Path(f"/proc/{child._process.pid}/status") if child is not None else None
        if status is not None and status.exists():
            peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            assert peak is None or int(peak[1]) < MOST_KIB, f"its child took {peak[1]} KiB"


def read_left_out(folder: str) -> None:
    from worldmodel.data import left_out

    for line in left_out.read_left_out(Path(folder) / "set").lines():
        assert line.isprintable()


def read_set(folder: str) -> None:
    from worldmodel.data import EpisodeReader
    from worldmodel.data.verify import verify

    report = verify(Path(folder) / "set")
    reader = EpisodeReader(Path(folder) / "set")
    sound = not report.problems
    for i in range(len(reader)):
        episode = reader.episode(i)  # refused, or whole and finite
        assert np.isfinite(episode.reward).all()
        assert np.isfinite(episode.variables).all()
        assert len(episode.frames) == episode.length + 1
    reader.info.to_json()
    assert sound or report.problems


def resume_set(folder: str) -> None:
    from data_samples import INFO, sample_episode

    from worldmodel.data import EpisodeReader, EpisodeWriter

    with EpisodeWriter(Path(folder) / "set", INFO) as writer:
        kept = set(writer.done)
        new = max(kept, default=0) + 10
        writer.append(sample_episode(new % 2**40))
    reader = EpisodeReader(Path(folder) / "set")
    assert kept <= set(reader.index["episode_id"].tolist())
    for i in range(len(reader)):
        reader.episode(i)


def read_checkpoint(folder: str) -> None:
    import torch

    from worldmodel.checkpoint import load_checkpoint

    torch.set_num_threads(1)
    loaded = load_checkpoint(str(Path(folder) / "checkpoint"))
    model, starts = loaded.model, loaded.starts
    moment = (starts.frames[:1], starts.actions[:1], starts.variables[:1], starts.poses[:1])
    dream = model.start(*map(torch.from_numpy, moment))
    action = torch.from_numpy(starts.prefixes[:1, 0])
    uniforms = torch.full((1, model.num_uniforms), 0.5)
    step, _ = model.step(dream, action, uniforms, loaded.world.sampling)
    for numbers in (step.reward, step.end_probability, step.variables, step.nats):
        assert numbers.isfinite().all()


def read_published(folder: str) -> None:
    import torch

    from worldmodel.videogpt.checkpoint import load_videogpt

    torch.set_num_threads(1)
    loaded = load_videogpt(str(Path(folder) / "checkpoint"))
    codes = loaded.model.encode(torch.from_numpy(loaded.starts.frames[:1]))
    loaded.model.decode(codes)


def read_training_state(folder: str) -> None:
    import torch

    from worldmodel.training.state import load_optimizers, load_state

    path, module = Path(folder) / "prior.state.safetensors", torch.nn.Linear(3, 2)
    load_state(path, module)
    load_optimizers(path, [torch.optim.Adam(module.parameters())])


def read_walk(folder: str) -> None:
    from play.session import read_session

    session = read_session(Path(folder) / "walk.json")
    assert session.episodes


def read_keys(folder: str) -> None:
    import gymnasium

    from envs.interface import actions_of
    from play.command import MAX_KEYS_BYTES
    from play.commands import controls_for, help_lines
    from worldmodel.storage.files import read_json

    class FourChoices(gymnasium.Env):
        action_space = gymnasium.spaces.Discrete(4)

    env = FourChoices()
    keys = read_json(Path(folder) / "keys.json", most_bytes=MAX_KEYS_BYTES) or {}
    controls = controls_for(env, actions_of(env), keys)
    assert controls.resolve(("left shift", "w"), (30, 5)) in range(4)
    help_lines(controls)


def read_bair(folder: str) -> None:
    from worldmodel.data.importers.bair import ImportBair

    _imported(ImportBair(source=Path(folder), out=Path(folder) / "out"))


def read_robonet(folder: str) -> None:
    from worldmodel.data.importers.robonet import ImportRoboNet

    _imported(ImportRoboNet(source=Path(folder), out=Path(folder) / "out", size=8))


def read_videogpt(folder: str) -> None:
    from worldmodel.data.importers.videogpt_hdf5 import ImportVideoGPTHDF5

    _imported(ImportVideoGPTHDF5(source=Path(folder) / "videos.hdf5", out=Path(folder) / "out"))


def read_videos(folder: str) -> None:
    from worldmodel.data.importers.videos import ImportVideos

    (changed,) = (path for path in Path(folder).glob("*/a.*"))
    _imported(ImportVideos(source=changed.parent, out=Path(folder) / "out", size=16))


def make_logs(folder: Path) -> None:
    make_videos(folder)
    (film,) = folder.glob("mp4/a.*")
    for other in folder.iterdir():
        if other.name != "mp4":
            shutil.rmtree(other)
    rows = [{"time": t / 25, "keys": ["w"] * (t % 2), "dx": t / 2} for t in range(20)]
    film.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))


def read_logs(folder: str) -> None:
    from worldmodel.data.importers.videos import ImportVideos

    out = Path(folder) / "out"
    command = ImportVideos(Path(folder) / "mp4", out, actions=True, size=16, min_frames=2)
    _imported(command)


def read_moving(folder: str) -> None:
    from worldmodel.data.importers.moving import open_sequences

    assert open_sequences(Path(folder) / "mnist_test_seq.npy").dtype == np.uint8


def read_minari(folder: str) -> None:
    from collect.minari import Import

    _imported(Import(str(next(Path(folder).glob("minari/*/*"))), Path(folder) / "out"))


def read_lerobot(folder: str, camera: str | None = "observation.images.top") -> None:
    from worldmodel.data.importers.lerobot import ImportLeRobot

    source, out = Path(folder) / "lerobot", Path(folder) / "out"
    if camera is None:
        _imported(ImportLeRobot(source, out))
    else:
        _imported(ImportLeRobot(source, out, camera, size=8))


def read_lerobot_pictures(folder: str) -> None:
    read_lerobot(folder, "observation.images.wrist")


def read_lerobot_export(folder: str) -> None:
    read_lerobot(folder, None)


def read_policy(folder: str) -> None:
    """Nothing of a file that isn't trusted runs."""
    from envs.policy import load_sb3
    from worldmodel.errors import UserError

    try:
        load_sb3(Path(folder) / "policy.zip", trusted=False)
    except UserError:
        return
    raise AssertionError("a policy from anywhere was loaded")


def make_policy_file(folder: Path) -> None:
    from worldmodel.pretrained import PRETRAINED

    shutil.copy(PRETRAINED / "dream-doom" / "policy.safetensors", folder)


def read_policy_file(folder: str) -> None:
    from envs.policy_file import read_policy as read

    for parameter in read(Path(folder) / "policy.safetensors").parameters():
        assert parameter.isfinite().all()


def _imported(command: Any) -> None:
    command.run()
    _check_imported(command.out)


def _check_imported(out: Path) -> None:
    from worldmodel.data.verify import verify

    if list(out.glob("shard-*.h5")):
        assert verify(out).problems == []


KINDS: dict[str, Kind] = {
    "policy that ships": Kind(make_policy_file, "policy.safetensors", "read_policy_file"),
    "meta.json": Kind(make_set, "set/meta.json", "read_set", changed_json),
    "left-out.json": Kind(make_set, "set/left-out.json", "read_left_out", changed_json),
    "a finished shard": Kind(make_set, "set/shard-00000.h5", "read_set"),
    "an episode": Kind(make_unfinished_set, "set/episode-2.h5", "resume_set"),
    "an unfinished shard": Kind(make_old_unfinished_set, "set/shard-00000.h5.tmp", "resume_set"),
    "training state": Kind(make_training_state, "prior.state.safetensors", "read_training_state"),
    "session": Kind(make_session, "walk.json", "read_walk", changed_json),
    "session as lines": Kind(make_session, "walk.json", "read_walk"),
    "controls": Kind(make_session, "keys.json", "read_keys", changed_json),
    "TFRecord": Kind(make_bair, "test/*.tfrecords", "read_bair"),
    "RoboNet": Kind(make_robonet, "traj*.hdf5", "read_robonet"),
    "VideoGPT's HDF5": Kind(make_videogpt, "videos.hdf5", "read_videogpt"),
    "log of actions": Kind(make_logs, "mp4/a.jsonl", "read_logs"),
    "npy": Kind(make_moving, "mnist_test_seq.npy", "read_moving"),
    "Minari": Kind(make_minari, "minari/*/*/data/main_data.hdf5", "read_minari"),
    "Minari's metadata": Kind(
        make_minari, "minari/*/*/data/metadata.json", "read_minari", changed_json
    ),
    "LeRobot's rows": Kind(make_lerobot, "lerobot/data/*/*.parquet", "read_lerobot"),
    "LeRobot's pictures": Kind(make_lerobot, "lerobot/data/*/*.parquet", "read_lerobot_pictures"),
    "LeRobot's episodes": Kind(make_lerobot, "lerobot/meta/episodes/*/*.parquet", "read_lerobot"),
    "LeRobot's films": Kind(make_lerobot, "lerobot/videos/*/*/*.mp4", "read_lerobot"),
    "LeRobot's info.json": Kind(
        make_lerobot, "lerobot/meta/info.json", "read_lerobot", changed_json
    ),
    "LeRobot's stats.json": Kind(
        make_lerobot, "lerobot/meta/stats.json", "read_lerobot", changed_json
    ),
    "info.json of an export": Kind(
        make_lerobot_export, "lerobot/meta/info.json", "read_lerobot_export", changed_json
    ),
    "policy": Kind(make_policy, "policy.zip", "read_policy", is_read=False),
}
