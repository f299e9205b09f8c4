"""A small process that cleans up after a ViZDoom engine when its owner is gone.

A killed Python process leaves its engine running (it ignores SIGTERM) and its shared memory in
/dev/shm. `EngineGuard` starts this file as a separate interpreter; when the owner closes the pipe
or dies, by any signal, it kills every engine whose command line names the guarded folder, and
removes the engine's shared memory and the folder. The owner reports its engines through the pipe,
in case they die together.
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
    """A private folder for one engine, and the process that cleans up after it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vizdoom-"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal must not reach it
        )
        self._pipe = process.stdin
        # Runs once: at close(), when the guard is garbage-collected, or at exit.
        self._finish = weakref.finalize(self, process.communicate)

    def note_engines(self) -> None:
        """Report the running engines to the process, in case they are killed before it looks."""
        assert self._pipe is not None
        for _, instance_id in engines_using(str(self.folder)):
            self._pipe.write(f"{instance_id}\n".encode())
        self._pipe.flush()

    def close(self) -> None:
        """Clean up now and wait for it. Calling it again does nothing."""
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
        instance_ids: of engines that may already be dead.
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
    reported = b""
    while os.getppid() == owner:
        # The pipe closes when the owner ends, unless a process that it forked has a copy: so the
        # parent's id is checked as well.
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if readable:
            part = os.read(sys.stdin.fileno(), 4096)
            if not part:
                break
            reported += part
    clean_up(folder, set(reported.decode().split()))


if __name__ == "__main__":
    main()
