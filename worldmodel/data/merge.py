"""Join data sets that were recorded separately, on several machines for example."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldmodel.command import track
from worldmodel.data.episodes import UNFINISHED, DatasetInfo, Episode, read_info
from worldmodel.data.reader import EpisodeReader
from worldmodel.data.writer import EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.interface.pose import NO_POSE


def merge(folders: list[Path], out: Path, *, unknown_poses: bool = False) -> tuple[int, int]:
    """Write the episodes of all `folders` to `out`; go on there when stopped before.

    Episodes keep their ids; one whose id is taken by an earlier folder gets a new one behind
    the highest. An episode that is the same as an earlier one, byte for byte, is left out:
    otherwise the two could end up in different splits. What each folder's meta.json says of
    its policies is kept under "merged".

    Args:
        unknown_poses: sets that tell no pose may be joined to those that do; in their episodes it
            is unknown.

    Returns:
        Number of episodes in `out`, and number left out.

    Raises:
        UserError: the sets differ in kind, one is half imported, or `out` holds something else.
    """
    if len(folders) < 2:
        raise UserError("merge needs two data sets or more")
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise UserError(f"--out {out} is one of the sets to merge: choose a new folder")
    for folder in folders:
        if (folder / UNFINISHED).exists():
            raise UserError(
                f"the import of {folder} still runs or was stopped: finish it with the same command"
            )
    readers = [EpisodeReader(folder) for folder in folders]
    pose = next((reader.info.pose for reader in readers if reader.info.pose), NO_POSE)
    infos = [
        replace(reader.info, pose=pose) if unknown_poses and not reader.info.pose else reader.info
        for reader in readers
    ]
    for reader, info in zip(readers[1:], infos[1:], strict=True):
        differences = infos[0].differences(info)
        if differences:
            hint = ""
            if bool(infos[0].pose) != bool(info.pose):
                hint = "; --unknown-poses joins sets of which only some tell a pose"
            raise UserError(
                f"{readers[0].folder} and {reader.folder} cannot be joined: "
                f"{'; '.join(differences)}{hint}"
            )
    info = replace(_merged_info(readers), pose=infos[0].pose)
    _refuse_foreign(out, info)
    new_ids = _new_ids(readers)
    seen: set[bytes] = set()
    num_left_out = 0
    with EpisodeWriter(out, info) as writer:
        jobs = [(reader, i) for reader in readers for i in range(len(reader))]
        for (reader, i), episode_id in track(
            list(zip(jobs, new_ids, strict=True)),
            "merging",
        ):
            episode = reader.episode(i)
            content = _digest(episode)
            if content in seen:
                num_left_out += 1
            elif episode_id not in writer.done:
                told = episode.pose
                if told.shape[1] < len(info.pose):
                    told = np.full((len(told), len(info.pose)), np.nan, np.float32)
                writer.append(replace(episode, episode_id=episode_id, pose=told))
            seen.add(content)
        return len(writer.done), num_left_out


def _new_ids(readers: list[EpisodeReader]) -> list[int]:
    """An id for each episode of each reader, in order; all different."""
    old_ids = [int(row["episode_id"]) for reader in readers for row in reader.index]
    next_free = max(old_ids) + 1
    taken: set[int] = set()
    new_ids = []
    for old_id in old_ids:
        if old_id in taken:
            old_id, next_free = next_free, next_free + 1
        taken.add(old_id)
        new_ids.append(old_id)
    return new_ids


def _merged_info(readers: list[EpisodeReader]) -> DatasetInfo:
    parts = [
        {
            "folder": reader.folder.name,
            "num_episodes": len(reader),
            "policies": reader.info.policies,
            "versions": reader.info.versions,
        }
        for reader in readers
    ]
    # The first may have been recorded before there were controls, or names for all values.
    infos = [reader.info for reader in readers]
    controls = next((info.controls for info in infos if info.controls), {})
    actions = next((info.actions for info in infos if info.actions.choices), infos[0].actions)
    return replace(infos[0], controls=controls, actions=actions, policies={"merged": parts})


def _refuse_foreign(out: Path, info: DatasetInfo) -> None:
    """Only an empty folder, or the same merge stopped half way, may be written to."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if (out / "meta.json").exists() and read_info(out).to_json() == info.to_json():
        return
    raise UserError(f"{out} is not empty and holds no part of this merge: choose a new folder")


def _digest(episode: Episode) -> bytes:
    content = hashlib.blake2b(digest_size=16)
    content.update(str(episode.seed).encode())
    content.update(episode.frames.tobytes())
    content.update(episode.action.tobytes())
    return content.digest()
