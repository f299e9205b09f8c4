"""Numbers against formulas by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from worldmodel import randomness
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.pictures import (
    psnr,
    squared_errors,
    ssim,
)
from worldmodel.metrics.statistics import (
    BOOTSTRAP_DRAWS,
    auroc,
    bootstrap_means,
    brier,
    calibration,
    calibration_error,
    entropy,
)


def test_psnr_is_ten_times_the_logarithm() -> None:
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(1.0) == 0.0
    assert psnr(0.0) == math.inf


def test_squared_errors_are_means_over_each_frame_in_a_range_of_one() -> None:
    truth = np.zeros((2, 3, 4, 5, 3), np.uint8)
    frames = truth.copy()
    frames[1, 2] = 51  # a fifth of the range
    expected = np.zeros((2, 3))
    expected[1, 2] = 0.04
    np.testing.assert_allclose(squared_errors(frames, truth), expected)
    np.testing.assert_allclose(squared_errors(truth, frames), expected)


def pattern() -> tuple[np.ndarray, np.ndarray]:
    """A frame, and four frames unlike it."""
    y, x = np.mgrid[:24, :32]
    truth = np.stack([8 * y + 3 * x, 5 * x, y * x], -1).astype(np.uint8)
    brighter = np.clip(truth.astype(int) + 20, 0, 255).astype(np.uint8)
    others = [brighter, np.roll(truth, 2, 1), 255 - truth, np.roll(truth[..., ::-1], 3, 0)]
    return truth, np.stack(others)


def test_ssim_keeps_its_values() -> None:
    truth, others = pattern()  # those of a version written by hand after Wang et al. 2004
    expected = [0.9762831227360906, 0.8637589907697293, -0.5198059294465072, 0.605059263056112]
    found = ssim(others, np.broadcast_to(truth, others.shape))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_ssim_is_one_for_equal_frames_symmetric_and_never_more() -> None:
    truth, others = pattern()
    frames = np.stack([truth, *others])
    table = np.stack([ssim(frames, np.broadcast_to(f, frames.shape)) for f in frames])
    np.testing.assert_allclose(np.diag(table), 1.0)
    np.testing.assert_allclose(table, table.T)
    assert (table - np.eye(5) < 0.999).all()


def test_ssim_of_flat_frames_compares_their_brightness() -> None:
    dark, light = (np.full((11, 11, 1), level, np.uint8) for level in (40, 200))
    c1 = 2.55**2
    assert ssim(dark, light) == pytest.approx((2 * 40 * 200 + c1) / (40**2 + 200**2 + c1))


def test_ssim_of_clips_is_that_of_each_frame() -> None:
    clips = np.random.default_rng(4).integers(0, 256, (2, 10, 7, 12, 14, 3), dtype=np.uint8)
    first, second = clips
    found = ssim(first, second)
    assert found.shape == (10, 7)
    assert found[3, 2] == pytest.approx(float(ssim(first[3, 2], second[3, 2])))
    assert ssim(first[:0], second[:0]).shape == (0, 7)


def test_ssim_refuses_what_has_no_window() -> None:
    with pytest.raises(ValueError, match="at least 11x11 pixels, not 10x64"):
        ssim(np.zeros((10, 64, 3), np.uint8), np.zeros((10, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="can't be compared"):
        ssim(np.zeros((3, 16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8))


def test_entropy() -> None:
    assert entropy(np.full(8, 5)) == pytest.approx(math.log(8))
    assert entropy(np.asarray([7, 0, 0])) == 0.0
    assert entropy(np.asarray([1, 3])) == pytest.approx(
        -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    )
    assert entropy(np.zeros(3, int)) == 0.0


def test_auroc_counts_pairs_with_ties_as_half() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 80) / 6, rng.random(80) < 0.3
    pairs = scores[positive][:, None] - scores[~positive]
    assert auroc(scores, positive) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert auroc(positive.astype(float), positive) == 1.0
    assert math.isnan(auroc(scores, np.zeros(80, bool)))


def test_brier_and_calibration_by_hand() -> None:
    probabilities = np.asarray([0.0, 0.25, 0.25, 1.0])
    happened = np.asarray([False, True, False, True])
    assert brier(probabilities, happened) == pytest.approx((0.75**2 + 0.25**2) / 4)
    bins = calibration(probabilities, happened, (0.0, 0.1, 0.25, 0.5, 1.0))
    assert bins == [(0.0, 0.0, 1), (0.25, 0.5, 2), (1.0, 1.0, 1)]


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = Bootstrap(np.arange(400), seed=0).mean(values)
    half_width = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half_width, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half_width, abs=0.05)


def test_clips_of_one_episode_count_as_one() -> None:
    values = np.random.default_rng(2).normal(size=30)
    single = Bootstrap(np.arange(30), seed=0).mean(values)
    repeated = Bootstrap(np.arange(30).repeat(10), seed=0).mean(values.repeat(10))
    assert repeated == pytest.approx(single)
    assert single.num_groups == 30


def test_one_episode_has_no_interval() -> None:
    found = Bootstrap(np.zeros(2, int), seed=0).mean(np.asarray([1.0, 2.0]))
    assert found.value == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_bootstrap_keeps_further_axes_apart() -> None:
    values = np.stack([np.arange(6.0), np.full(6, 4.0)], 1)
    draws = bootstrap_means(values, np.arange(6), seed=3)
    np.testing.assert_allclose(draws[:, 1], 4.0)
    np.testing.assert_allclose(draws[:, 0], bootstrap_means(values[:, 0], np.arange(6), seed=3))


def test_decibels_are_of_the_mean_error_and_differences_are_paired() -> None:
    errors = np.random.default_rng(3).uniform(0.001, 0.1, 50)
    clips = np.arange(50)
    assert Bootstrap(clips, seed=0).psnr(errors).value == pytest.approx(psnr(errors.mean()))
    # Ten times the error everywhere: 10 dB whatever clips are drawn.
    difference = Bootstrap(clips, 0).psnr_gain(errors, 10 * errors)
    np.testing.assert_allclose(difference[:3], 10.0)


def test_auroc_intervals_are_those_of_scikit_learn_with_groups_as_weights() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 9, 200)
    is_positive = rng.random(200) < 0.3
    scores = np.round(is_positive + rng.normal(size=200), 1)  # some are equal
    value, low, high, _ = Bootstrap(groups, 3).auroc(scores, is_positive)
    assert value == pytest.approx(roc_auc_score(is_positive, scores))
    rng = randomness.generator(3, "bootstrap")
    times = rng.multinomial(9, np.full(9, 1 / 9), BOOTSTRAP_DRAWS)
    draws = [roc_auc_score(is_positive, scores, sample_weight=t[groups]) for t in times]
    assert (low, high) == pytest.approx(np.quantile(draws, (0.025, 0.975)))
    assert low < value < high


def test_auroc_has_no_interval_of_one_episode_and_no_value_of_one_kind() -> None:
    scores, groups = np.asarray([0.1, 0.9, 0.4]), np.asarray([0, 0, 0])
    is_positive = np.asarray([False, True, False])
    found = Bootstrap(groups, 0).auroc(scores, is_positive)
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    none = Bootstrap(np.arange(3), 0).auroc(scores, np.zeros(3, bool))
    assert all(math.isnan(end) for end in none[:3])
    # Two of three draws have the only positive or not; those without are left out.
    lonely = Bootstrap(np.arange(3), 0).auroc(scores, is_positive)
    assert lonely == (1.0, 1.0, 1.0, 3)


def test_calibration_error_by_hand() -> None:
    chances = np.asarray([0.1, 0.3, 0.8, 0.8])
    happened = np.asarray([False, True, True, False])
    bins = calibration(chances, happened, (0.0, 0.5, 1.0))
    # Said 0.2, half came; said 0.8, half came.
    assert calibration_error(bins) == pytest.approx((2 * 0.3 + 2 * 0.3) / 4)
    assert calibration_error(calibration(happened * 1.0, happened, (0.0, 0.5, 1.0))) == 0
    assert math.isnan(calibration_error([]))
