"""Convert to and from Minari, a format for data sets of offline reinforcement learning.

python -m collect.minari export data/car --id car/random-v0
python -m collect.minari import car/random-v0 --out data/car

A round trip preserves a set to the bit. Needs `pip install 'minari[hdf5]'`.
"""

import contextlib
import copy
import functools
import importlib
import importlib.metadata
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import tyro

import envs  # noqa: F401  registers the environments, for `_env_spec`
from envs.interface import FlatActions, flat_actions, space_of
from worldmodel.command import parse_options, progress_bar, run_command, say
from worldmodel.data import DatasetInfo, EpisodeReader
from worldmodel.data.episodes import POLICY_NAME_BYTES
from worldmodel.data.importers.pipeline import Found, Lack, Recording, Source, import_found
from worldmodel.data.left_out import LeftOut
from worldmodel.errors import UserError, one_line, printable
from worldmodel.storage.files import read_bytes
from worldmodel.storage.guarded import guarded_call
from worldmodel.storage.hdf5 import check_group, open_hdf5

OUR_INFO = "videogpt_dream"  # the key of our meta.json in Minari's metadata
OUR_POSE = "videogpt_dream_pose/"  # in front of the names of a pose's numbers among the infos
MOST_METADATA_BYTES = 2**27  # spaces of large pictures list the bounds of each pixel
MOST_EPISODE_BYTES = 2**30  # an episode is held in memory
MOST_MEMORY = 3 * 2**30  # bytes for reading an episode, which is also packed for this process
PATIENCE_S = 300.0  # per episode, which may be thousands of JPEGs
# Called in another process, by name.
_READ_NOTES = f"{__spec__.name}:read_notes"  # not __name__, which may be __main__
_READ_EPISODE = f"{__spec__.name}:read_episode"
# Why something is left out.
NO_NUMBER = "infos that are not one number a frame"
NOT_IN_FIRST = "infos that the first episode lacks"


@dataclass(frozen=True)
class Export:
    """Write a data set in Minari's format, with frames uncompressed instead of as JPEG."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The data set."""
    id: str
    """Its name in Minari: namespace/name-v0."""
    out: Path | None = None
    """Folder of Minari's sets; default: Minari's own (MINARI_DATASETS_PATH, or ~/.minari)."""

    def run(self) -> None:
        """Write all episodes to a new Minari data set; it appears when it is complete.

        Raises:
            UserError: there is no such data set, the id is malformed or taken, or the disk is full.
        """
        storage_of = _minari("dataset.minari_storage").MinariStorage
        reader = EpisodeReader(self.folder)
        path = _place_of(self.id, self.out)
        if path.exists():
            raise UserError(f"{path} already exists: choose another --id")
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            storage = storage_of.new(
                unfinished / "data",
                observation_space=gymnasium.spaces.Box(0, 255, reader.info.frame_shape, np.uint8),
                action_space=space_of(reader.info.actions),
                env_spec=_env_spec(reader.info),
                jpeg_encoding=False,
            )
            storage.update_metadata(_metadata(self.id, reader.info))
            _write_episodes(storage, reader)
            unfinished.rename(path)
        except UserError:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # what h5py raises
            raise UserError(f"cannot write to {path.parent}: {error}") from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        print(printable(f"{path} is complete: minari.load_dataset({self.id!r})"))


@dataclass(frozen=True)
class Import:
    """Read a Minari data set whose observations are images."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Its id, or its folder."""
    out: Path
    """Folder of the data set."""
    fps: float = 30.0
    """Frames per second, if the set doesn't specify it."""
    action_limit: float | None = None
    """Bounds for a Box of actions that has none: from -LIMIT to LIMIT."""

    def run(self) -> None:
        """Store the episodes of a Minari data set; resumes where it was interrupted.

        Episodes that can't be stored are left out and counted, see `worldmodel.data.left_out`. If a
        number in `infos` has no value at an episode's first frame, its first value is repeated.

        Raises:
            UserError: there is no such set, it is damaged, its observations are no images, its
                actions are unsuitable, or none of its episodes can be stored.
        """
        data, storage, metadata = _opened(self.source)
        actions = flat_actions(storage.action_space, limit=self.action_limit)
        with _readable(data):
            ours = DatasetInfo.from_json(metadata[OUR_INFO]) if OUR_INFO in metadata else None
            frame_shape = ours.frame_shape if ours else _frame_shape(storage, metadata)
            total = int(storage.total_episodes)
        episodes = (_guarded(_READ_EPISODE, data, i) for i in range(total))
        first = next((stored for stored in episodes if "unusable" not in stored), None)
        if first is None:
            raise UserError(f"{self.source} holds no episode that can be stored")
        info = ours or DatasetInfo(
            env_id=str(metadata.get("dataset_id")),
            # Ids depend on this number: a set that has grown is another source.
            env_kwargs={"num_episodes": total},
            frame_shape=frame_shape,
            actions=actions.spec,
            variable_names=tuple(first["infos"]),
            fps=self.fps,
            frame_skip=1,
        )
        if late := [name for name in info.variable_names if name in first["late"]]:
            say(
                f"note: {', '.join(late)} have no value at an episode's first frame: the value "
                "after the first action is repeated there"
            )
        left_out = LeftOut()
        for name in first["others"]:
            left_out.add(NO_NUMBER, name)

        def sources() -> Iterator[Source]:
            for i in range(total):
                noted = _guarded(_READ_NOTES, data, i)
                with _readable(data):
                    policy = str(noted.get("policy", metadata.get("algorithm_name") or "minari"))
                    origin = policy.encode()[:POLICY_NAME_BYTES].decode(errors="ignore")
                    ids = int(noted.get("episode_id", i)), int(noted.get("seed", i))
                yield Source(partial(_recording, data, i, info, actions), origin, None, *ids)

        import_found(self.out, Found(info, sources(), total, left_out, partial=(NOT_IN_FIRST,)))


Command = (
    Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)


def main() -> None:
    command = parse_options(Command, "collect.minari", __doc__)
    run_command(command.run)


def _write_episodes(storage: Any, reader: EpisodeReader) -> None:
    buffer_of = _minari("data_collector").EpisodeBuffer
    names = reader.info.variable_names
    with progress_bar() as bar:
        for i in bar.track(range(len(reader)), description="exporting"):
            episode = reader.episode(i)
            infos = dict(zip(names, episode.variables.T, strict=True))
            for name, column in zip(reader.info.pose.names, episode.pose.T, strict=True):
                infos[OUR_POSE + name] = column
            buffer = buffer_of(
                seed=episode.seed,
                observations=episode.frames,
                actions=episode.action,
                rewards=episode.reward,
                terminations=episode.terminated,
                truncations=episode.truncated,
                infos=infos or None,
            )
            storage.update_episodes([buffer])
            ours = {"episode_id": episode.episode_id, "policy": episode.policy}
            storage.update_episode_metadata([ours], [i])


def _metadata(dataset_id: str, info: DatasetInfo) -> dict[str, Any]:
    return {
        "dataset_id": dataset_id,
        "minari_version": importlib.metadata.version("minari"),
        "algorithm_name": "several: the policy of each episode is in its metadata",
        "description": f"{info.env_id}, recorded as {info.frame_shape} frames by videogpt-dream",
        OUR_INFO: info.to_json(),
    }


def _env_spec(info: DatasetInfo) -> Any:
    """Gymnasium's spec of the environment; None if it isn't registered."""
    try:
        spec = copy.deepcopy(gymnasium.spec(info.env_id))
    except gymnasium.error.Error:
        return None
    spec.kwargs.update(info.env_kwargs)
    return spec


def _recording(
    data: Path, number: int, info: DatasetInfo, actions: FlatActions
) -> Recording | Lack:
    """Read an episode, or say why it is left out."""
    stored, name = _guarded(_READ_EPISODE, data, number), f"episode {number}"
    if "unusable" in stored:
        return Lack(stored["unusable"], name)
    infos = stored["infos"]
    pose_names = [OUR_POSE + pose_name for pose_name in info.pose.names]
    if {*info.variable_names, *pose_names} - infos.keys():
        return Lack("without a variable that the first episode has", name)
    with _readable(data), np.errstate(over="ignore"):  # overflows are caught below, as not finite
        frames = np.asarray(stored["observations"])
        taken = np.asarray([actions.from_own(a) for a in stored["actions"]], info.actions.dtype)
        taken = taken.reshape(-1, *info.actions.shape)
        rewards = np.asarray(stored["rewards"]).astype(np.float32)
        columns = [infos[name].astype(np.float32) for name in info.variable_names]
        pose = [infos[name].astype(np.float32) for name in pose_names]
        recording = Recording(
            frames=frames[..., None] if frames.ndim == 3 else frames,
            actions=taken,
            variables=np.stack(columns, 1) if columns else None,
            pose=np.stack(pose, 1) if pose else None,
            rewards=rewards,
            terminated=np.asarray(stored["terminations"], bool),
            truncated=np.asarray(stored["truncations"], bool),
            lacks=tuple(
                Lack(NOT_IN_FIRST, f"{other} of {name}")
                for other in sorted(infos.keys() - {*info.variable_names, *pose_names})
            ),
        )
        if not all(np.isfinite(array).all() for array in (rewards, *columns)):
            return Lack("with a reward or variable that is not finite", name)
        if not info.actions.contains(taken):
            return Lack("with an action out of bounds", name)
    return recording


def read_notes(data: Path, number: int) -> dict[str, Any]:
    """The metadata of an episode. Raises UserError."""
    with _readable(data):
        _check_own(data, number)
        return dict(next(iter(_storage_of(data).get_episode_metadata([number]))))


def read_episode(data: Path, number: int) -> dict[str, Any]:
    """Read an episode, with those infos that are a number at each frame or action.

    Returns:
        Minari's entries; "infos" is {name: (T+1,)}, "late" has the names of infos without a value
        at the first frame, "others" the names of infos that are no numbers. Or only "unusable":
        why it can't become an episode.

    Raises:
        UserError: the set is damaged or points to other files.
    """
    with _readable(data):
        if _check_own(data, number) > MOST_EPISODE_BYTES:
            return {"unusable": f"larger than {MOST_EPISODE_BYTES >> 20} MiB"}
        stored = next(iter(_storage_of(data).get_episodes([number])))
        num_actions = len(stored["rewards"])
        if not num_actions:
            return {"unusable": "without an action"}
        numbers: dict[str, np.ndarray] = {}
        late, others = [], []
        for name, values in _flat(stored["infos"] or {}):
            array = np.asarray(values)
            is_late = array.shape == (num_actions,)
            if array.dtype.kind in "biuf" and (is_late or array.shape == (num_actions + 1,)):
                numbers[name] = np.concatenate([array[:1], array]) if is_late else array
                late += [name] * is_late
            else:
                others.append(name)
        return stored | {"infos": numbers, "late": late, "others": others}


def _check_own(data: Path, number: int) -> int:
    """The declared size of an episode in bytes. Raises UserError if it links to other files."""
    path = data / "main_data.hdf5"
    if not path.exists():  # Minari's other format, Arrow, has no links
        return 0
    with open_hdf5(path) as file:
        return check_group(file, f"episode_{number}")


def _storage_of(data: Path) -> Any:
    path = data / "metadata.json"
    status = path.stat()
    return _read_storage(data, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)
def _read_storage(data: Path, *stamps: int) -> Any:
    """Cached across episodes: the spaces of large frames take a while to read."""
    return _minari("dataset.minari_storage").MinariStorage.read(data)


def _guarded(function: str, data: Path, number: int) -> dict[str, Any]:
    return guarded_call(
        function, data, number, subject=data, patience_s=PATIENCE_S, most_memory=MOST_MEMORY
    )


def _opened(source: str) -> tuple[Path, Any, dict[str, Any]]:
    """Open a set: the folder of its data, its storage, and its metadata as JSON."""
    storage_of = _minari("dataset.minari_storage").MinariStorage
    folder = Path(source) if Path(source).is_dir() else _place_of(source, None)
    data = folder / "data" if (folder / "data").is_dir() else folder
    if not (data / "metadata.json").exists():
        raise UserError(
            f"there is no Minari data set {source}: give its folder, or the id of one in "
            f"{_place_of('', None)}; `minari download` fetches public ones"
        )
    read_bytes(data / "metadata.json", most_bytes=MOST_METADATA_BYTES)
    with _readable(data):
        metadata = storage_of.read_raw_metadata(data)
        # Without them Minari would make the environment that an untrusted file names.
        if not {"observation_space", "action_space"} <= metadata.keys():
            raise UserError(
                f"{source} doesn't specify its spaces: it was made by an old version of Minari"
            )
        # Absolute, because the process that reads it keeps its own working directory.
        return data.absolute(), _storage_of(data), metadata


def _frame_shape(storage: Any, metadata: dict[str, Any]) -> tuple[int, int, int]:
    """The frames' shape in a set from elsewhere. Raises UserError if they are no images."""
    seen = storage.observation_space
    is_uint8 = isinstance(seen, gymnasium.spaces.Box) and seen.dtype == np.uint8
    shape: tuple[int, ...] = seen.shape if is_uint8 else ()
    height, width, *channels = shape if len(shape) > 1 else (0, 0, 0)
    if channels not in ([], [1], [3]):
        raise UserError(
            f"observations of {metadata.get('dataset_id')} are {one_line(seen)}, not "
            "images: uint8 (H, W, 3), (H, W, 1) or (H, W)"
        )
    return height, width, channels[0] if channels else 1


def _flat(infos: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested infos to ("outer/inner", value)."""
    for name, value in infos.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


@contextlib.contextmanager
def _readable(data: Path) -> Iterator[None]:
    """Turn any error that Minari raises on a damaged set into a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Minari does not wrap the errors of its parts
        reason = one_line(error)
        raise UserError(f"{data} cannot be read as a Minari data set: {reason}") from None


def _place_of(dataset_id: str, out: Path | None) -> Path:
    """The folder of a Minari set. Raises UserError for a malformed id."""
    root = _minari("storage.datasets_root_dir").get_dataset_path() if out is None else out
    if not dataset_id:
        return root
    try:
        _minari("dataset.minari_dataset").parse_dataset_id(dataset_id)
    except (ValueError, TypeError):  # TypeError: no version
        raise UserError(f"{dataset_id!r} is not a Minari id: namespace/name-v0 is needed") from None
    return root / dataset_id


def _minari(module: str) -> Any:
    """Import a module of Minari. Raises UserError if it isn't installed."""
    try:
        return importlib.import_module(f"minari.{module}")
    except ImportError:
        raise UserError("Minari is not installed: pip install 'minari[hdf5]'") from None


if __name__ == "__main__":
    main()
