"""To and from Minari, the data sets of offline reinforcement learning.

python -m collect.minari export data/car --id car/random-v0
python -m collect.minari import car/random-v0 --out data/car

A set that goes there and comes back is the same to the bit. Needs `pip install 'minari[hdf5]'`.
"""

import contextlib
import copy
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
from collect.recorder import action_spec_of
from envs.flat_actions import FlatActions, flat_actions
from envs.spaces import space_of
from worldmodel.command import run_command
from worldmodel.data import DatasetInfo, Episode, EpisodeReader, EpisodeWriter
from worldmodel.data.episodes import POLICY_NAME_BYTES, UNFINISHED
from worldmodel.data.progress import progress_bar
from worldmodel.errors import UserError, one_line

OUR_INFO = "videogpt_dream"  # where Minari's metadata hold what our meta.json says


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
        print(f"{path} is whole: minari.load_dataset({self.id!r})")


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
        print(f"{self.out} holds {count} episodes")


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
    """Store the episodes of a Minari data set; goes on where it was stopped.

    Returns:
        How many episodes the data set holds now.

    Raises:
        UserError: there is no such set, it is damaged, or holds no pictures or unsuitable actions.
    """
    if not 0 < fps < float("inf"):
        raise UserError(f"--fps must be above 0, not {fps}")
    storage, metadata = _opened(source)
    actions = _actions_of(storage, action_limit)
    with _readable(source):
        info = (
            DatasetInfo.from_json(metadata[OUR_INFO])
            if OUR_INFO in metadata
            else _described(storage, metadata, actions, fps)
        )
    with EpisodeWriter(out, info) as writer, progress_bar() as bar:
        (out / UNFINISHED).touch()
        for i in bar.track(range(storage.total_episodes), description="importing"):
            with _readable(source):
                noted = next(iter(storage.get_episode_metadata([i])))
            if int(noted.get("episode_id", i)) in writer.done:
                continue
            with _readable(source):
                stored = next(iter(storage.get_episodes([i])))
                episode = _episode(stored, noted, metadata, info, actions)
            writer.append(episode)
        count = len(writer.done)
    (out / UNFINISHED).unlink()
    return count


def _opened(source: str) -> tuple[Any, dict[str, Any]]:
    """A set's storage, and its metadata as JSON."""
    storage_of = _storage_class()
    folder = Path(source) if Path(source).is_dir() else _place_of(source, None)
    data = folder / "data" if (folder / "data").is_dir() else folder
    if not (data / "metadata.json").exists():
        raise UserError(
            f"there is no Minari data set {source}: give its folder, or the id of one in "
            f"{_place_of('', None)}; `minari download` fetches those of others"
        )
    with _readable(source):
        metadata = storage_of.read_raw_metadata(data)
        # Without them Minari makes the environment that a stranger's file names.
        if not {"observation_space", "action_space"} <= metadata.keys():
            raise UserError(f"{source} doesn't say its spaces: it is of an old Minari")
        return storage_of.read(data), metadata


def _actions_of(storage: Any, limit: float | None) -> FlatActions:
    try:
        return flat_actions(storage.action_space, limit=limit)
    except ValueError as error:
        raise UserError(str(error)) from None


def _described(
    storage: Any, metadata: dict[str, Any], actions: FlatActions, fps: float
) -> DatasetInfo:
    """What is known of a set that others have made."""
    seen = storage.observation_space
    is_uint8 = isinstance(seen, gymnasium.spaces.Box) and seen.dtype == np.uint8
    shape: tuple[int, ...] = seen.shape if is_uint8 else ()
    height, width, *channels = shape if len(shape) > 1 else (0, 0, 0)
    if channels not in ([], [1], [3]):
        raise UserError(
            f"observations of {metadata.get('dataset_id')} are {one_line(seen)}, not "
            "pictures: uint8 (H, W, 3), (H, W, 1) or (H, W)"
        )
    first = next(iter(storage.get_episodes([0])), None) if storage.total_episodes else None
    if first is None:
        raise UserError(f"{metadata.get('dataset_id')} holds no episode")
    return DatasetInfo(
        env_id=str(metadata.get("dataset_id")),
        # The number is told, for ids follow from it: a set that grew is another source.
        env_kwargs={"num_episodes": storage.total_episodes},
        frame_shape=(height, width, channels[0] if channels else 1),
        actions=action_spec_of(actions.flat),
        variable_names=tuple(_numbers(first)),
        fps=fps,
        frame_skip=1,
    )


def _numbers(stored: dict[str, Any]) -> dict[str, np.ndarray]:
    """What `infos` holds of a number at each frame."""
    num_frames = len(stored["rewards"]) + 1
    arrays = {name: np.asarray(values) for name, values in _flat(stored["infos"] or {})}
    return {
        name: array
        for name, array in arrays.items()
        if array.shape == (num_frames,) and array.dtype.kind in "biuf"
    }


def _flat(infos: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of nested infos, by "outer/inner"."""
    for name, value in infos.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _episode(
    stored: dict[str, Any],
    noted: dict[str, Any],
    metadata: dict[str, Any],
    info: DatasetInfo,
    actions: FlatActions,
) -> Episode:
    numbers, number = _numbers(stored), int(stored["id"])
    if lacking := set(info.variable_names) - numbers.keys():
        raise UserError(f"episode {number} lacks {min(lacking)!r} in its infos")
    frames = np.asarray(stored["observations"])
    columns = [numbers[name].astype(np.float32) for name in info.variable_names]
    flat = [actions.from_own(action) for action in stored["actions"]]
    policy = str(noted.get("policy", metadata.get("algorithm_name") or "minari"))
    return Episode(
        episode_id=int(noted.get("episode_id", number)),
        seed=int(noted.get("seed", number)),
        policy=policy.encode()[:POLICY_NAME_BYTES].decode(errors="ignore"),
        frames=frames[..., None] if frames.ndim == 3 else frames,
        action=np.asarray(flat, info.actions.dtype).reshape(-1, *info.actions.shape),
        reward=np.asarray(stored["rewards"], np.float32),
        terminated=np.asarray(stored["terminations"], bool),
        truncated=np.asarray(stored["truncations"], bool),
        variables=np.stack(columns, 1) if columns else np.zeros((len(frames), 0), np.float32),
    )


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
    """What Minari meets in a damaged set becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Minari raises what its parts do
        reason = one_line(error)
        raise UserError(f"{source} cannot be read as a Minari data set: {reason}") from None


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
