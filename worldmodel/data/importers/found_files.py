"""The files in a folder of others, wherever links lead."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from worldmodel.data.left_out import Tally
from worldmodel.errors import UserError, os_error

# Reasons to leave something out.
NO_TARGET = "a link whose file is not there"
NO_FILE = "neither a file nor a folder"


def found_files(folder: Path, left_out: Tally) -> list[str]:
    """Paths of all files below a folder, with forward slashes, sorted; through links too.

    Hidden files are nobody's data, and no part of it. A link to a folder that it lies in is passed
    over, since it leads to nothing new.

    Args:
        left_out: gets what is neither a file nor a folder.

    Raises:
        UserError: a folder can't be read.
    """
    names = []
    for name, status in _below(folder, "", ()):
        if status is None:
            left_out.add(NO_TARGET, name)
        elif stat.S_ISREG(status.st_mode):
            names.append(name)
        else:
            left_out.add(NO_FILE, name)
    return sorted(names)


def _below(
    folder: Path, above: str, outer: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Name and status of all but folders; None: a link to nothing."""
    try:
        status = folder.stat()
        entries = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder} can't be read: {os_error(error)}") from None
    identity = (status.st_dev, status.st_ino)
    if identity in outer:
        return
    for name in entries:
        if name.startswith("."):
            continue
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            status = None
        except OSError as error:  # links in a circle, or a folder that may not be entered
            raise UserError(f"{folder / name} can't be read: {os_error(error)}") from None
        if status is not None and stat.S_ISDIR(status.st_mode):
            yield from _below(folder / name, f"{above}{name}/", (*outer, identity))
        else:
            yield f"{above}{name}", status
