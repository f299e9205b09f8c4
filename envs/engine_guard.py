"""A tiny process that outlives a ViZDoom engine's owner and cleans up after it.

A killed Python process leaves its engine running (it ignores SIGTERM) and its shared
memory in /dev/shm. `EngineGuard` starts this file as a separate interpreter; when the
owner closes the pipe or dies, by whatever signal, it kills every engine whose command
line names the guarded folder, removes the engine's shared memory, and the folder. An engine that
died together with its owner is known from what the owner said through the pipe.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

POLL_S = 0.5


class EngineGuard:
    """A private folder for one engine, and the process that cleans up when its owner is gone."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vizdoom-"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal must not reach it
        )
        self._pipe = process.stdin
        # Runs once: at close(), when the guard is forgotten, or when the interpreter ends.
        self._finish = weakref.finalize(self, process.communicate)

    def note_engines(self) -> None:
        """Tell the process of the engines that run now: they may be killed before it looks."""
        assert self._pipe is not None
        for _, instance_id in engines_using(str(self.folder)):
            self._pipe.write(f"{instance_id}\n".encode())
        self._pipe.flush()

    def close(self) -> None:
        """Clean up now, and wait until it is done. May be called again."""
        self._finish()


def engines_using(folder: str) -> list[tuple[int, str]]:
    """(process id, instance id) of each running engine whose command line names `folder`."""
    engines = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended, or belongs to someone else
            continue
        if "+viz_instance_id" in arguments and any(a.startswith(folder) for a in arguments):
            engines.append((int(entry.name), arguments[arguments.index("+viz_instance_id") + 1]))
    return engines


def clean_up(folder: str, instance_ids: set[str]) -> None:
    """Kill the engines of `folder`, remove their shared memory, then the folder.

    Args:
        instance_ids: of engines that may have died already.
    """
    for process_id, instance_id in engines_using(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
        instance_ids.add(instance_id)
    for instance_id in instance_ids:
        for leftover in Path("/dev/shm").glob(f"ViZDoom*{instance_id}"):
            leftover.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    owner, folder = int(sys.argv[1]), sys.argv[2]
    said = b""
    while os.getppid() == owner:
        # The pipe closes when the owner ends, unless a process it forked still holds a copy:
        # hence the look at the parent's id as well.
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if readable:
            part = os.read(sys.stdin.fileno(), 4096)
            if not part:
                break
            said += part
    clean_up(folder, set(said.decode().split()))


if __name__ == "__main__":
    main()
