"""Run dreams on one thread, whatever the rest of the process uses.

A step is many small operations. With several threads they are no faster on an idle machine, and up
to 30 times slower beside one busy process, because each waits for the slowest thread. Also, the
rounding of sums depends on the number of threads: with one, a dream is reproducible.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_num_within = 0
_outside = 1  # the number of threads before the first entered

# A forked child, as in Gymnasium's AsyncVectorEnv, has none of its parent's threads and would wait
# for them forever. So forked children get one thread.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in this context, afterwards as many as before. Takes microseconds.

    torch has a setting per Python thread, and one for new threads; the last to leave restores that.
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
