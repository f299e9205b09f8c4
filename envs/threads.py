"""How many threads a dream takes: one, whatever the rest of the process has.

A step is many small operations. Shared out among threads they are no faster on an idle machine,
and beside one busy process up to 30 times slower, for each waits for the slowest thread. And sums
that are shared out round differently: with one thread a dream is the same on every machine of a
kind.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# A forked child has none of its parent's threads. It would wait for them for ever: with Gymnasium's
# AsyncVectorEnv, with stable-baselines3's SubprocVecEnv.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch uses one thread; afterwards as many as before. Takes microseconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
