"""How every command of the project runs, and what it says and returns when it can't."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from worldmodel.errors import UserError, one_line, os_error

FAILED = 2  # the exit status of errors; 1 is a verdict: a damaged data set, a replay that differs
INTERRUPTED = 130  # as shells say it of Ctrl-C
RESUMES = "stopped; the same command resumes here"
console = Console(stderr=True)


def run_command(work: Callable[[], object], *, stopped: str = RESUMES) -> None:
    """Do a command's work; exits unless it went well.

    The exit status is what `work` returns (0 unless an integer), 2 after an error that a user can
    put right, 130 after Ctrl-C. Errors are one line on stderr: "error: ...".

    Args:
        stopped: what Ctrl-C leaves, for the user.
    """
    try:
        done = work()
        status = done if isinstance(done, int) else 0
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of a pipe has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        _fail(os_error(error))
    except MemoryError as error:
        _fail(f"not enough memory: {one_line(error)}")
    except KeyboardInterrupt:
        say(stopped)
        sys.exit(INTERRUPTED)
    if status:
        sys.exit(status)


def say(text: str) -> None:
    """A line on stderr, above a progress bar where one is shown. Text stays text: no markup, and
    nothing that the terminal would obey."""
    console.print(one_line(text, most=2000), soft_wrap=True, markup=False, highlight=False)


def _fail(message: str) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(FAILED)
