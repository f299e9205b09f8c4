"""Policy files that may be loaded: those made on this machine, and those that its user trusts.

stable-baselines3's files carry pickles, which run what whoever made them likes. A file is known by
the sha256 of its content, noted in the user's cache folder.
"""

import contextlib
import hashlib
import os
from pathlib import Path

_remembered: set[str] = set()  # in this process


def cache_folder() -> Path:
    """The project's folder in the user's cache."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "videogpt-dream"


def remember(path: Path) -> None:
    """Note that a file may be loaded from now on."""
    digest = _digest(path)
    _remembered.add(digest)
    # A home that can't be written to costs a --trust in the next process, no more.
    with contextlib.suppress(OSError, RuntimeError):
        note = _note(digest)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def is_remembered(path: Path) -> bool:
    """Whether a file of this very content may be loaded."""
    digest = _digest(path)
    try:
        return digest in _remembered or _note(digest).exists()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(digest: str) -> Path:
    return cache_folder() / "trusted-policies" / digest
