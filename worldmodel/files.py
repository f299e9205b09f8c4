"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at `path`; it is moved there at the end. Until then, and
    where writing fails, the old file stays.

    Raises:
        OSError: the folder can't be made, or the file can't be put there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this process alone: another may be writing the same file.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
