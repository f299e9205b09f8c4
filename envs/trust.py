"""Remember which policy files may be loaded: those made on this machine, and those the user trusts.

stable-baselines3's files contain pickles, which can run any code. A file is identified by the
sha256 of its content, which is stored in the user's cache folder.
"""

import contextlib
import os
from pathlib import Path

from worldmodel.storage.files import file_digest

_remembered: set[str] = set()  # in this process


def cache_folder() -> Path:
    """The project's folder in the user's cache."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "videogpt-dream"


def remember(path: Path) -> None:
    """Allow a file to be loaded from now on."""
    digest = file_digest(path)
    _remembered.add(digest)
    # If the cache folder isn't writable, the next process needs --trust again.
    with contextlib.suppress(OSError, RuntimeError):
        note = _note(digest)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def is_remembered(path: Path) -> bool:
    """Whether a file with this content may be loaded."""
    digest = file_digest(path)
    try:
        return digest in _remembered or _note(digest).exists()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return False


def _note(digest: str) -> Path:
    return cache_folder() / "trusted-policies" / digest
