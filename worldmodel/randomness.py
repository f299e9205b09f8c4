"""Random numbers: every stream is a named child of one SeedSequence.

    actions = randomness.generator(seed, "player actions", episode_id)

Two generators made from the same integer are identical: a player whose actions and hold lengths
both came from `default_rng(seed)` chose its third action by the length of its first hold. And lists
of numbers don't make distinct streams: `SeedSequence([s, 1])` equals `SeedSequence([s, 1, 0])`.
Here each part of a child's path is hashed to a fixed number of words, so that different paths are
different streams. Nothing else in the project makes generators from integers;
`tests/test_randomness.py` checks that.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

WORDS_PER_PART = 2  # of 32 bits


def sequence(seed: int, *path: str | int) -> np.random.SeedSequence:
    """The SeedSequence of a child.

    Args:
        seed: of all random numbers of a run, not negative.
        path: names and numbers that identify this child; a name first.
    """
    if not path or not isinstance(path[0], str):
        raise TypeError("a stream needs a name")
    words = [word for part in path for word in _words(part)]
    return np.random.SeedSequence(seed, spawn_key=words)


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """The generator of a child, see `sequence`."""
    return np.random.default_rng(sequence(seed, *path))


def integer(seed: int, *path: str | int, bits: int = 31) -> int:
    """A seed for what takes an integer, such as an environment or torch, in [0, 2**bits)."""
    low, high = (int(word) for word in sequence(seed, *path).generate_state(2))
    return (low | high << 32) & ((1 << bits) - 1)


def torch_generator(seed: int, *path: str | int) -> "torch.Generator":
    """The same for torch, on the CPU."""
    import torch  # late: most callers of this module don't need it

    return torch.Generator().manual_seed(integer(seed, *path, bits=63))


def seed_torch(seed: int, *path: str | int) -> None:
    """Seed torch's global generators, for weights and dropout, with a child's seed."""
    import torch

    torch.manual_seed(integer(seed, *path, bits=63))


def _words(part: str | int) -> list[int]:
    """A part of a path as words; names and numbers are hashed differently."""
    kind = "name" if isinstance(part, str) else "number"
    content = f"{kind} {part}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(content, digest_size=4 * WORDS_PER_PART).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, len(digest), 4)]
