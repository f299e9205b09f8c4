"""A person at the keyboard, in the real game or in a dream of it: `python -m play`."""

import shlex
import shutil
import sys
from pathlib import Path


def command_line(*arguments: str) -> str:
    """What to type here to run `python -m play` with these arguments.

    It names the Python that runs now: another one may lack the packages.
    """
    python = sys.executable
    if python == shutil.which("python"):
        python = "python"
    elif Path(python).is_relative_to(Path.cwd()):
        python = str(Path(python).relative_to(Path.cwd()))
    return shlex.join([python, "-m", "play", *arguments])
