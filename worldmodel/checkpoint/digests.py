"""Which files belong together: config.json names the digests of the others."""

import hashlib
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError

HELD_TOGETHER = ("weights.safetensors", "starts.safetensors")


def file_digest(path: Path) -> str:
    """sha256 of a file, as hex.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder: Path) -> str:
    """sha256 of a checkpoint's weights."""
    return file_digest(folder / "weights.safetensors")


def check_digests(folder: Path, config: dict[str, Any]) -> None:
    """Raises UserError where a file is not the one that config.json was written with. Older
    checkpoints name no digests."""
    digests = config.get("files", {})
    for name in HELD_TOGETHER:
        if name in digests and digests[name] != file_digest(folder / name):
            raise UserError(
                f"{folder}: {name} is not the file that config.json was written with: the folder "
                "holds files of two checkpoints, or damaged ones. Copy it again whole"
            )
