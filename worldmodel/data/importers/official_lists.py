"""Official lists of which videos are for training and which for the test."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from worldmodel.data.importers.pipeline import OfficialSplit
from worldmodel.errors import UserError
from worldmodel.storage.files import read_bytes

MAX_LIST_BYTES = 2**26


def official_splits(
    names: Sequence[str], lists: Mapping[OfficialSplit, Sequence[Path]]
) -> tuple[dict[str, OfficialSplit], list[str]]:
    """Look up which list each video is in.

    A line is a path or a URL, then perhaps a class number (UCF-101) or, behind a tab, a
    description (TGIF). A path means the video whose path ends like it, as far as both go; a
    URL the video of its file name.

    Args:
        names: paths of the videos that there are, with forward slashes.
        lists: files of each split.

    Returns:
        The split of each name that is listed; and the listed ones that are not among the names.

    Raises:
        UserError: a list can't be read, means several videos by one line, or one video is
            in lists of both splits.
    """
    of_file_name: dict[str, list[str]] = defaultdict(list)
    for name in names:
        of_file_name[name.rsplit("/", 1)[-1]].append(name)
    splits: dict[str, OfficialSplit] = {}
    missing: list[str] = []
    for split, paths in lists.items():
        for path in paths:
            for entry in _entries(path):
                candidates = of_file_name.get(entry.name, [])
                found = [name for name in candidates if _ends_alike(entry, name)]
                if not found:
                    missing.append(str(entry))
                elif len(found) > 1:
                    raise UserError(f"{path}: {entry} may mean {found[0]} or {found[1]}")
                elif splits.setdefault(found[0], split) != split:
                    raise UserError(f"{found[0]} is listed for training and for the test")
    return splits, missing


def _entries(path: Path) -> Iterator[PurePosixPath]:
    content = read_bytes(path, most_bytes=MAX_LIST_BYTES)
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as a list of videos: {error}") from None
    for line in lines:
        entry = re.sub(r"\s+\d+$", "", line.split("\t")[0].strip()).replace("\\", "/")
        if "://" in entry:  # only the file name is kept by whoever downloads
            entry = entry.split("?")[0].rsplit("/", 1)[-1]
        if entry:
            yield PurePosixPath(entry)


def _ends_alike(entry: PurePosixPath, name: str) -> bool:
    left, right = entry.parts, PurePosixPath(name).parts
    shorter = min(len(left), len(right))
    return left[-shorter:] == right[-shorter:]
