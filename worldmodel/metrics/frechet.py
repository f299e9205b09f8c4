"""Fréchet distance of features, in float64.

The Fréchet distance of samples is biased: the fewer the clips, the larger it comes out. Two
samples of one 400-dimensional Gaussian are about 300 apart with 256 each and 40 with 2048 each, in
units where its variance is 1. So a distance is worth nothing without its number of clips and the
distance of real clips from real clips.
"""

from typing import NamedTuple

import numpy as np


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two samples, with unbiased covariances.

    Args:
        features_a, features_b: (n, d) and (m, d), at least two rows each. They stay as they are;
            fewer rows than columns are allowed.

    Raises:
        ValueError: the shapes don't fit, or a feature is not finite.
    """
    for features in (features_a, features_b):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features should be (n, d), n at least 2, not {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("features are not finite")
    if features_a.shape[1] != features_b.shape[1]:
        raise ValueError(f"features of {features_a.shape} don't fit those of {features_b.shape}")
    return _distance(_fit(features_a), _fit(features_b))


class _Gaussian(NamedTuple):
    mean: np.ndarray  # (d,)
    root: np.ndarray  # (d, r), root @ root.T is the covariance


def _fit(features: np.ndarray) -> _Gaussian:
    features = features.astype(np.float64)
    mean = features.mean(0)
    _, scales, axes = np.linalg.svd(features - mean, full_matrices=False)
    return _Gaussian(mean, axes.T * (scales / np.sqrt(len(features) - 1)))


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    # The trace of the square root of S_a S_b is the sum of the singular values of R_a' R_b: the
    # eigenvalues of the symmetric R_a' S_b R_a are their squares. No complex roots, and a
    # covariance may lack rank.
    overlap = np.linalg.svd(a.root.T @ b.root, compute_uv=False).sum()
    spread = np.square(a.root).sum() + np.square(b.root).sum() - 2 * overlap
    return float(max(np.square(a.mean - b.mean).sum() + spread, 0.0))
