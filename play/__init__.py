"""Play a real game or a dream of it with keyboard and mouse: `python -m play`."""

import shlex
import shutil
import sys
from pathlib import Path


def command_line(*arguments: str) -> str:
    """The shell command for `python -m play` with these arguments, using the current Python."""
    python = sys.executable
    if python == shutil.which("python"):
        python = "python"
    elif Path(python).is_relative_to(Path.cwd()):
        python = str(Path(python).relative_to(Path.cwd()))
    return shlex.join([python, "-m", "play", *arguments])
