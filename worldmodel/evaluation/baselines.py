"""What codes cost those who know nothing of their order, or only that pictures stay alike."""

import math

import numpy as np

# 0 too: copying is never worse than the unigram. 1 is none: other codes would be impossible.
COPY_WEIGHTS = np.linspace(0.0, 0.99, 100)


def unigram_chances(
    codes: np.ndarray, train_codes: np.ndarray, num_codes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each code by its codebook's counts in the training codes, and by its
    position's; each count one larger than seen, so that none is zero.

    Args:
        codes, train_codes: (n, ..., q) and (m, ..., q), of clips or of frames.
        num_codes: K.

    Returns:
        Two arrays like `codes`.
    """
    num_books = codes.shape[-1]
    num_tokens = math.prod(codes.shape[1:])
    found = []
    for num_places, per_count in ((num_books, num_tokens // num_books), (num_tokens, 1)):
        places = np.arange(num_tokens) % num_places
        keys = places * num_codes + train_codes.reshape(-1, num_tokens)
        counts = np.bincount(keys.ravel(), minlength=num_places * num_codes)
        here = counts[places * num_codes + codes.reshape(-1, num_tokens)]
        found.append((here + 1) / (len(train_codes) * per_count + num_codes))
    return found[0].reshape(codes.shape), found[1].reshape(codes.shape)


def best_copy(is_copy: np.ndarray, unigram: np.ndarray) -> tuple[np.ndarray, float]:
    """-log p of codes by copying those one frame before with the probability that suits these
    codes best, else by the unigram.

    Args:
        is_copy: whether each code is that of its place one frame before.
        unigram: probability of each code, of the same shape.

    Returns:
        -log p like `unigram`, and the probability of copying.
    """
    costs = [-np.log(a * is_copy + (1 - a) * unigram).sum() for a in COPY_WEIGHTS]
    best = float(COPY_WEIGHTS[int(np.argmin(costs))])
    return -np.log(best * is_copy + (1 - best) * unigram), best
