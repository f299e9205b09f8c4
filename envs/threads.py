"""How many threads a dream takes: one, whatever the rest of the process has.

A step is many small operations. Shared out among threads they are no faster on an idle machine,
and beside one busy process up to 30 times slower, for each waits for the slowest thread. And sums
that are shared out round differently: with one thread a dream is the same on every machine of a
kind.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_num_within = 0
_outside = 1  # threads that the process had before the first entered

# A forked child has none of its parent's threads. It would wait for them for ever: with Gymnasium's
# AsyncVectorEnv, with stable-baselines3's SubprocVecEnv. So children of a process that knows dreams
# have one.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch uses one thread; afterwards as many as before. Takes microseconds.

    torch keeps a number for each thread of Python, and one for threads that are new: that is the
    process's own again once nobody is within any more.
    """
    global _num_within, _outside
    with _lock:
        if _num_within == 0:
            _outside = torch.get_num_threads()
        _num_within += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _num_within -= 1
            torch.set_num_threads(_outside)
