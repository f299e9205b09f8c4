"""Fréchet distance and inception score against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.metrics.frechet import frechet_distance
from worldmodel.videogpt.inception import inception_score


def rotation(dimensions: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions)))[0]


def features_of(mean: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """Features of exactly this mean and unbiased covariance."""
    features = np.random.default_rng(seed).normal(size=(4 * len(mean) + 2, len(mean)))
    features -= features.mean(0)
    whitened = features @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(features.T)))).T
    values, axes = np.linalg.eigh(covariance)
    return mean + whitened @ (axes * np.sqrt(values.clip(0))).T


@given(seed=st.integers(0, 10**6), dimensions=st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_gaussians_with_common_axes_have_a_closed_form(seed: int, dimensions: int):
    rng = np.random.default_rng(seed)
    axes = rotation(dimensions, seed)
    means = rng.normal(size=(2, dimensions))
    deviations = rng.uniform(0, 3, (2, dimensions))
    covariances = [axes @ np.diag(d**2) @ axes.T for d in deviations]
    features = [features_of(*moments, seed=1) for moments in zip(means, covariances, strict=True)]
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(*features) == pytest.approx(expected, abs=1e-6)


def test_covariances_that_do_not_commute_agree_with_eigenvalues_of_their_product():
    rng = np.random.default_rng(0)
    covariances = [root @ root.T for root in rng.normal(size=(2, 12, 12))]
    means = rng.normal(size=(2, 12))
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex))
    expected = np.square(means[0] - means[1]).sum()
    expected += np.trace(covariances[0] + covariances[1]) - 2 * roots.sum().real
    features = [features_of(*moments, seed=1) for moments in zip(means, covariances, strict=True)]
    assert frechet_distance(*features) == pytest.approx(expected)


@pytest.mark.parametrize("num_rows", [200, 7])  # more and fewer than columns
def test_features_are_fitted_by_their_mean_and_unbiased_covariance(num_rows: int):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(num_rows, 20)), rng.normal(1.0, 2.0, (num_rows + 3, 20))
    roots = np.sqrt(np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).astype(complex))
    expected = np.square(a.mean(0) - b.mean(0)).sum() - 2 * roots.sum().real
    expected += np.trace(np.cov(a.T) + np.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-5)


def test_many_samples_come_near_the_distance_of_their_gaussians():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.0, 1.0, (20000, 4)), rng.normal(3.0, 2.0, (20000, 4))
    assert frechet_distance(a, b) == pytest.approx(4 * (9 + 1), rel=0.02)


def test_few_clips_make_the_distance_larger():
    rng = np.random.default_rng(3)
    distances = [
        frechet_distance(rng.normal(size=(n, 40)), rng.normal(size=(n, 40))) for n in (50, 200, 800)
    ]
    assert distances[0] > 3 * distances[1] > 9 * distances[2] > 0


@pytest.mark.parametrize("num_rows", [300, 5])
def test_moving_turning_and_stretching_do_what_geometry_says(num_rows: int):
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(num_rows, 30)), rng.normal(0.5, 1.5, (num_rows, 30))
    distance = frechet_distance(a, b)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2.0) == pytest.approx(30 * 4)
    turn = rotation(30, 5)
    assert frechet_distance(a @ turn + 7, b @ turn + 7) == pytest.approx(distance)
    assert frechet_distance(10 * a, 10 * b) == pytest.approx(100 * distance)


def test_a_feature_that_never_changes_is_no_fault():
    a = np.zeros((8, 3))
    b = np.zeros((8, 3))
    b[:, 0] = 5.0
    assert frechet_distance(a, b) == pytest.approx(25.0)


def test_inputs_stay_as_they_are_and_single_precision_is_widened():
    rng = np.random.default_rng(6)
    a, b = (rng.normal(1000.0, 1.0, (60, 6)).astype(np.float32) for _ in range(2))
    before = a.copy(), b.copy()
    found = frechet_distance(a, b)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])
    assert found == frechet_distance(a.astype(np.float64), b.astype(np.float64))


@pytest.mark.parametrize(
    ("a", "b", "complaint"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "don't fit"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "not finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(a: np.ndarray, b: np.ndarray, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        frechet_distance(a, b)


def test_inception_score_of_clips_that_say_nothing_is_one():
    assert inception_score(np.full((40, 7), 1 / 7)) == pytest.approx((1.0, 0.0))
    always_the_same = np.eye(7)[np.zeros(40, int)]
    assert inception_score(always_the_same) == pytest.approx((1.0, 0.0))


def test_inception_score_of_sure_and_even_classes_is_their_number():
    assert inception_score(np.eye(7)[np.arange(70) % 7]) == pytest.approx((7.0, 0.0))


def test_inception_score_of_two_kinds_of_clip_by_hand():
    # KL((p, 1-p) || (1/2, 1/2)) = log 2 - H(p), for either kind.
    p = 0.9
    rows = np.tile([[p, 1 - p], [1 - p, p]], (10, 1))
    expected = 2 * p**p * (1 - p) ** (1 - p)
    assert inception_score(rows, num_splits=2) == pytest.approx((expected, 0.0))


def test_each_split_has_its_own_classes():
    rows = np.eye(4)[[0, 0, 0, 0, 1, 2, 1, 2]]  # scores 1 and 2
    assert inception_score(rows, num_splits=2) == pytest.approx((1.5, 0.5))
    assert inception_score(rows[::-1], num_splits=2) == pytest.approx((1.5, 0.5))


def test_fewer_clips_than_splits_are_refused():
    with pytest.raises(ValueError, match="9 clips can't be cut into 10 splits"):
        inception_score(np.full((9, 2), 0.5))
