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


def merge(folders: list[Path], out: Path, *, unknown_poses: bool = False) -> tuple[int, int]:
    """Write the episodes of all `folders` to `out`; resumes where it was stopped.

    Episodes keep their ids; one whose id is taken by an earlier folder gets a new one behind
    the highest. An episode that is the same as an earlier one, byte for byte, is left out:
    otherwise the two could end up in different splits. What each folder's meta.json says of
    its policies is kept under "merged".

    Args:
        unknown_poses: sets without poses may be joined to sets with poses; in their episodes the
            pose is unknown.

    Returns:
        Number of episodes in `out`, and number left out.

    Raises:
        UserError: the sets differ in kind, one is half imported, or `out` holds something else.
    """
    readers = _opened(folders, out)
    info = _merged_info(readers, unknown_poses=unknown_poses)
    _refuse_foreign(out, info)
    jobs = [(reader, i) for reader in readers for i in range(len(reader))]
    seen: set[bytes] = set()
    with EpisodeWriter(out, info) as writer:
        for (reader, i), new_id in track(
            list(zip(jobs, _new_ids(readers), strict=True)), "merging"
        ):
            episode = reader.episode(i)
            content = _digest(episode)
            if content not in seen and new_id not in writer.done:
                pose = episode.pose
                if pose.shape[1] < len(info.pose):
                    pose = np.full((len(pose), len(info.pose)), np.nan, np.float32)
                writer.append(replace(episode, episode_id=new_id, pose=pose))
            seen.add(content)
        return len(writer.done), len(jobs) - len(seen)


def _opened(folders: list[Path], out: Path) -> list[EpisodeReader]:
    if len(folders) < 2:
        raise UserError("merge needs two data sets or more")
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise UserError(f"--out {out} is one of the sets to merge: choose a new folder")
    for folder in folders:
        if (folder / UNFINISHED).exists():
            raise UserError(
                f"the import of {folder} still runs or was stopped: finish it with the same command"
            )
    return [EpisodeReader(folder) for folder in folders]


def _merged_info(readers: list[EpisodeReader], *, unknown_poses: bool) -> DatasetInfo:
    """The description of the joined set. Raises UserError where the sets differ in kind."""
    infos = [reader.info for reader in readers]
    pose = next((info.pose for info in infos if info.pose), infos[0].pose)
    if unknown_poses:
        infos = [info if info.pose else replace(info, pose=pose) for info in infos]
    for reader, info in zip(readers, infos, strict=True):
        if differences := infos[0].differences(info):
            hint = ""
            if bool(infos[0].pose) != bool(info.pose):
                hint = "; --unknown-poses joins sets of which only some tell a pose"
            raise UserError(
                f"{readers[0].folder} and {reader.folder} cannot be joined: "
                f"{'; '.join(differences)}{hint}"
            )
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
    controls = next((info.controls for info in infos if info.controls), {})
    actions = next((info.actions for info in infos if info.actions.choices), infos[0].actions)
    return replace(infos[0], controls=controls, actions=actions, policies={"merged": parts})


def _new_ids(readers: list[EpisodeReader]) -> list[int]:
    """An id for each episode of each reader, in order; all different."""
    old_ids = [int(row["episode_id"]) for reader in readers for row in reader.index]
    next_free = max(old_ids) + 1
    new_ids: dict[int, None] = {}
    for old_id in old_ids:
        if old_id in new_ids:
            old_id, next_free = next_free, next_free + 1
        new_ids[old_id] = None
    return list(new_ids)


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
