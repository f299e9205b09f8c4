"""To and from Minari, the data sets of offline reinforcement learning.

python -m collect.minari export data/car --id car/random-v0
python -m collect.minari import car/random-v0 --out data/car

A set that goes there and comes back is the same to the bit. Needs `pip install 'minari[hdf5]'`.
"""

import contextlib
import copy
import functools
import importlib.metadata
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import tyro

import envs  # noqa: F401  registers the environments, for the descriptions of them
from envs.interface import FlatActions, flat_actions, space_of
from worldmodel.command import progress_bar, run_command, say
from worldmodel.data import DatasetInfo, Episode, EpisodeReader, EpisodeWriter
from worldmodel.data.episodes import POLICY_NAME_BYTES, UNFINISHED
from worldmodel.data.importers.hdf5 import check_group, open_hdf5
from worldmodel.data.importers.writing import print_result
from worldmodel.data.left_out import (
    Tally,
    begin_left_out,
    note_left_out,
    read_left_out,
)
from worldmodel.errors import UserError, one_line, printable
from worldmodel.storage.files import read_bytes
from worldmodel.storage.guarded import guarded_call

OUR_INFO = "videogpt_dream"  # where Minari's metadata hold what our meta.json says
MOST_METADATA_BYTES = 2**27  # spaces of large pictures list the bounds of each pixel
MOST_EPISODE_BYTES = 2**30  # an episode is held whole
MOST_MEMORY = 3 * 2**30  # bytes to read an episode with: it is packed for this process too
PATIENCE_S = 300.0  # for an episode, which may be thousands of JPEGs
# Called in another process, by the name that this module has there.
_READ_NOTES = "collect.minari:read_notes"
_READ_EPISODE = "collect.minari:read_episode"
# Reasons to leave something out.
NO_NUMBER = "infos that are not one number a frame"
NOT_IN_FIRST = "infos that the first episode lacks"


@dataclass(frozen=True)
class Export:
    """Write a data set as a Minari one, frames as they are and not as JPEG."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The data set."""
    id: str
    """Its name in Minari: namespace/name-v0."""
    out: Path | None = None
    """Folder of Minari's sets; Minari's own by default (MINARI_DATASETS_PATH, or ~/.minari)."""

    def run(self) -> None:
        path = export_set(self.folder, self.id, self.out)
        print(printable(f"{path} is whole: minari.load_dataset({self.id!r})"))


@dataclass(frozen=True)
class Import:
    """Read a Minari data set whose observations are pictures."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Its id, or its folder."""
    out: Path
    """Folder of the data set."""
    fps: float = 30.0
    """Frames a second, where the set doesn't tell."""
    action_limit: float | None = None
    """Takes the place of bounds that a Box of actions doesn't have, as -LIMIT and LIMIT."""

    def run(self) -> None:
        count = import_set(self.source, self.out, fps=self.fps, action_limit=self.action_limit)
        print_result(self.out, f"{self.out} holds {count} episodes")


Command = (
    Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)


def main() -> None:
    command = tyro.cli(Command, prog="python -m collect.minari", description=__doc__)
    run_command(command.run)


def export_set(folder: Path, dataset_id: str, out: Path | None = None) -> Path:
    """Write all episodes to a new Minari data set; it appears when it is whole.

    Returns:
        The folder of the Minari set.

    Raises:
        UserError: there is no data set in `folder`, the id is malformed or taken, or the disk is
            full.
    """
    storage_of = _storage_class()
    reader = EpisodeReader(folder)
    path = _place_of(dataset_id, out)
    if path.exists():
        raise UserError(f"{path} is there already: choose another --id")
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
        storage.update_metadata(_metadata(dataset_id, reader.info))
        _write_episodes(storage, reader)
        unfinished.rename(path)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # what h5py raises
        raise UserError(f"cannot write to {path.parent}: {error}") from None
    return path


def _write_episodes(storage: Any, reader: EpisodeReader) -> None:
    from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]

    names = reader.info.variable_names
    with progress_bar() as bar:
        for i in bar.track(range(len(reader)), description="exporting"):
            episode = reader.episode(i)
            infos = dict(zip(names, episode.variables.T, strict=True))
            arrays: dict[str, Any] = {  # Minari's annotations know lists alone
                "observations": episode.frames,
                "actions": episode.action,
                "rewards": episode.reward,
                "terminations": episode.terminated,
                "truncations": episode.truncated,
            }
            buffer = EpisodeBuffer(seed=episode.seed, infos=infos or None, **arrays)
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
    """How Gymnasium makes the environment again; None where it doesn't know it."""
    try:
        spec = copy.deepcopy(gymnasium.spec(info.env_id))
    except gymnasium.error.Error:
        return None
    spec.kwargs.update(info.env_kwargs)
    return spec


def import_set(
    source: str, out: Path, *, fps: float = 30.0, action_limit: float | None = None
) -> int:
    """Store the episodes of a Minari data set; resumes where it was stopped.

    Episodes that can't be stored are left out and counted, see `worldmodel.data.left_out`. A
    number in `infos` that has no value at an episode's first frame repeats its first one there.

    Returns:
        How many episodes the data set holds now.

    Raises:
        UserError: there is no such set, it is damaged, holds no pictures or unsuitable actions, or
            none of its episodes can be stored.
    """
    data, storage, metadata = _opened(source)
    actions = flat_actions(storage.action_space, limit=action_limit)
    with _readable(data):
        ours = DatasetInfo.from_json(metadata[OUR_INFO]) if OUR_INFO in metadata else None
        frame_shape = ours.frame_shape if ours else _frame_shape(storage, metadata)
        numbers = range(storage.total_episodes)
    episodes = (_guarded(_READ_EPISODE, data, i) for i in numbers)
    first = next((stored for stored in episodes if not _unusable(stored)), None)
    if first is None:
        raise UserError(f"{source} holds no episode that can be stored")
    info = ours or DatasetInfo(
        env_id=str(metadata.get("dataset_id")),
        # The number is told, for ids follow from it: a set that grew is another source.
        env_kwargs={"num_episodes": len(numbers)},
        frame_shape=frame_shape,
        actions=actions.spec,
        variable_names=tuple(first["infos"]),
        fps=fps,
        frame_skip=1,
    )
    with EpisodeWriter(out, info) as writer, progress_bar() as bar:
        (out / UNFINISHED).touch()
        begin_left_out(out, _left_out_of_infos(first, info), but=[NOT_IN_FIRST])
        for i in bar.track(numbers, description="importing"):
            noted = _guarded(_READ_NOTES, data, i)
            with _readable(data):
                if int(noted.get("episode_id", i)) in writer.done:
                    continue
            stored = _guarded(_READ_EPISODE, data, i)
            with _readable(data):
                episode = _episode_or_reason(stored, noted, metadata, info, actions)
            if isinstance(episode, str):
                note_left_out(out, episode, f"episode {i}")
                continue
            for name in sorted(stored["infos"].keys() - set(info.variable_names)):
                note_left_out(out, NOT_IN_FIRST, f"{name} of episode {i}")
            writer.append(episode)
        count = len(writer.done)
    (out / UNFINISHED).unlink()
    if not count:
        reasons = "; ".join(" ".join(line.split()) for line in read_left_out(out))
        raise UserError(f"{out} holds no episode: {reasons}")
    return count


def _left_out_of_infos(first: dict[str, Any], info: DatasetInfo) -> Tally:
    """The infos that are no variables, by the first episode. Says which of the others are late."""
    late = [name for name in info.variable_names if name in first["late"]]
    if late:
        say(
            f"note: {', '.join(late)} have no value at an episode's first frame: the one after the "
            "first action is repeated there"
        )
    tally = Tally()
    for name in first["others"]:
        tally.add(NO_NUMBER, name)
    return tally


def read_notes(data: Path, number: int) -> dict[str, Any]:
    """What is noted on an episode. Raises UserError."""
    with _readable(data):
        _check_own(data, number)
        return dict(next(iter(_storage_of(data).get_episode_metadata([number]))))


def read_episode(data: Path, number: int) -> dict[str, Any]:
    """An episode as Minari gives it, but of its infos what is a number at each frame or action.

    Returns:
        Minari's entries; "infos" is {name: (T+1,)}, "late" are names of those that came without a
        value at the first frame, "others" names of what is no number. {"id", "num_bytes"} alone for
        one that is too large.

    Raises:
        UserError: the set is damaged or points to other files.
    """
    with _readable(data):
        num_bytes = _check_own(data, number)
        if num_bytes > MOST_EPISODE_BYTES:
            return {"id": number, "num_bytes": num_bytes, "late": [], "others": []}
        stored = next(iter(_storage_of(data).get_episodes([number])))
        num_frames = len(stored["rewards"]) + 1
        numbers: dict[str, np.ndarray] = {}
        late, others = [], []
        for name, values in _flat(stored["infos"] or {}):
            array = np.asarray(values)
            if array.dtype.kind not in "biuf" or array.shape not in (
                (num_frames,),
                (num_frames - 1,),
            ):
                others.append(name)
                continue
            if len(array) < num_frames and num_frames > 1:
                late.append(name)
                array = np.concatenate([array[:1], array])
            numbers[name] = array
        return stored | {"infos": numbers, "late": late, "others": others, "num_bytes": num_bytes}


def _check_own(data: Path, number: int) -> int:
    """How many bytes an episode claims. Raises UserError where it points to other files."""
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
    """Kept from episode to episode: the spaces of large pictures take a while to read."""
    return _storage_class().read(data)


def _guarded(function: str, data: Path, number: int) -> dict[str, Any]:
    return guarded_call(
        function, data, number, subject=data, patience_s=PATIENCE_S, most_memory=MOST_MEMORY
    )


def _opened(source: str) -> tuple[Path, Any, dict[str, Any]]:
    """The folder of a set's data, its storage, and its metadata as JSON."""
    storage_of = _storage_class()
    folder = Path(source) if Path(source).is_dir() else _place_of(source, None)
    data = folder / "data" if (folder / "data").is_dir() else folder
    if not (data / "metadata.json").exists():
        raise UserError(
            f"there is no Minari data set {source}: give its folder, or the id of one in "
            f"{_place_of('', None)}; `minari download` fetches those of others"
        )
    read_bytes(data / "metadata.json", most_bytes=MOST_METADATA_BYTES)
    with _readable(data):
        metadata = storage_of.read_raw_metadata(data)
        # Without them Minari makes the environment that a stranger's file names.
        if not {"observation_space", "action_space"} <= metadata.keys():
            raise UserError(f"{source} doesn't say its spaces: it is of an old Minari")
        # Absolute: the process that reads it stays in the folder where it was started.
        return data.absolute(), _storage_of(data), metadata


def _frame_shape(storage: Any, metadata: dict[str, Any]) -> tuple[int, int, int]:
    """Of the pictures in a set that others have made. Raises UserError where there are none."""
    seen = storage.observation_space
    is_uint8 = isinstance(seen, gymnasium.spaces.Box) and seen.dtype == np.uint8
    shape: tuple[int, ...] = seen.shape if is_uint8 else ()
    height, width, *channels = shape if len(shape) > 1 else (0, 0, 0)
    if channels not in ([], [1], [3]):
        raise UserError(
            f"observations of {metadata.get('dataset_id')} are {one_line(seen)}, not "
            "pictures: uint8 (H, W, 3), (H, W, 1) or (H, W)"
        )
    return height, width, channels[0] if channels else 1


def _flat(infos: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of nested infos, by "outer/inner"."""
    for name, value in infos.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _unusable(stored: dict[str, Any]) -> str:
    """Why what is stored can't become an episode; empty where it can."""
    if stored["num_bytes"] > MOST_EPISODE_BYTES:
        return f"larger than {MOST_EPISODE_BYTES >> 20} MiB"
    return "" if len(stored["rewards"]) else "without an action"


def _episode_or_reason(
    stored: dict[str, Any],
    noted: dict[str, Any],
    metadata: dict[str, Any],
    info: DatasetInfo,
    actions: FlatActions,
) -> Episode | str:
    """An episode, or why it is left out."""
    if reason := _unusable(stored):
        return reason
    if set(info.variable_names) - stored["infos"].keys():
        return "without a variable that the first episode has"
    episode = _episode(stored, noted, metadata, info, actions)
    if not (np.isfinite(episode.reward).all() and np.isfinite(episode.variables).all()):
        return "with a reward or variable that is not finite"
    return episode if info.actions.contains(episode.action) else "with an action out of bounds"


def _episode(
    stored: dict[str, Any],
    noted: dict[str, Any],
    metadata: dict[str, Any],
    info: DatasetInfo,
    actions: FlatActions,
) -> Episode:
    number = int(stored["id"])
    frames = np.asarray(stored["observations"])
    flat = [actions.from_own(action) for action in stored["actions"]]
    policy = str(noted.get("policy", metadata.get("algorithm_name") or "minari"))
    with np.errstate(over="ignore"):  # too large is not finite
        columns = [stored["infos"][name].astype(np.float32) for name in info.variable_names]
        reward = np.asarray(stored["rewards"]).astype(np.float32)
    return Episode(
        episode_id=int(noted.get("episode_id", number)),
        seed=int(noted.get("seed", number)),
        policy=policy.encode()[:POLICY_NAME_BYTES].decode(errors="ignore"),
        frames=frames[..., None] if frames.ndim == 3 else frames,
        action=np.asarray(flat, info.actions.dtype).reshape(-1, *info.actions.shape),
        reward=reward,
        terminated=np.asarray(stored["terminations"], bool),
        truncated=np.asarray(stored["truncations"], bool),
        variables=np.stack(columns, 1) if columns else np.zeros((len(frames), 0), np.float32),
    )


@contextlib.contextmanager
def _readable(data: Path) -> Iterator[None]:
    """What Minari meets in a damaged set becomes a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Minari raises what its parts do
        reason = one_line(error)
        raise UserError(f"{data} cannot be read as a Minari data set: {reason}") from None


def _place_of(dataset_id: str, out: Path | None) -> Path:
    """Where a Minari set lies, or shall. Raises UserError for a malformed id."""
    from minari.dataset.minari_dataset import (  # pyright: ignore[reportMissingImports]
        parse_dataset_id,
    )
    from minari.storage.datasets_root_dir import (  # pyright: ignore[reportMissingImports]
        get_dataset_path,
    )

    root = get_dataset_path() if out is None else out
    if not dataset_id:
        return root
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):  # TypeError: no version
        raise UserError(f"{dataset_id!r} is no id of Minari: namespace/name-v0 is needed") from None
    return root / dataset_id


def _storage_class() -> Any:
    """Minari's storage. Raises UserError where Minari isn't installed."""
    try:
        from minari.dataset.minari_storage import (  # pyright: ignore[reportMissingImports]
            MinariStorage,
        )
    except ImportError:
        raise UserError("Minari is not installed: pip install 'minari[hdf5]'") from None
    return MinariStorage


if __name__ == "__main__":
    main()
