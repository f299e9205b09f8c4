"""The numbers of VideoGPT's tables against sums by hand."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from worldmodel.errors import UserError
from worldmodel.evaluation.fvd import fvd_blocks, measure_fvd
from worldmodel.evaluation.report import to_json
from worldmodel.evaluation.tables import to_lines
from worldmodel.metrics.features import VIDEOGPT, FeatureNetwork
from worldmodel.metrics.frechet import frechet_distance
from worldmodel.metrics.statistics import next_of_another
from worldmodel.videogpt.inception import TGANV2, inception_score_blocks, measure_inception_score
from worldmodel.videogpt.measures import (
    likelihood_blocks,
    measure_likelihood,
    measure_reconstruction,
    reconstruction_blocks,
)

COLOURS = FeatureNetwork(
    "mean colours",
    "Fréchet distance",
    VIDEOGPT,
    "abc0123456789",
    lambda clips: clips.mean((1, 2, 3), dtype=np.float64),
)


def through_json(numbers: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(to_json(numbers), allow_nan=False))


def cells(lines: list[str]) -> list[list[str]]:
    """The rows of the table in `lines`, which are all as long as its header."""
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {len(rows[0])}
    return [[cell.strip() for cell in row] for row in rows]


def random_clips(num_clips: int, seed: int, frames: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_clips, frames, 12, 12, 3), dtype=np.uint8)


def test_reconstruction_by_hand():
    real = random_clips(6, 0)
    reconstructed = real.copy()
    real[:3, 0], reconstructed[:3, 0] = 0, 51  # a fifth of the range: 0.04 in 3 of 24 frames
    counts = np.asarray([[1, 1, 1, 1, 0], [8, 0, 0, 0, 0]])
    found = measure_reconstruction(
        real, reconstructed, np.arange(6), data_variance=0.1, counts=counts, seed=0
    )
    error = 0.04 * 3 / 24
    assert (found["num_clips"], found["num_frames"]) == (6, 24)
    assert found["nmse"].value == pytest.approx(error / 0.1)
    assert found["nmse"].low < found["nmse"].value < found["nmse"].high
    assert found["psnr"].value == pytest.approx(-10 * math.log10(error))
    c1 = 2.55**2
    assert found["ssim"].value == pytest.approx((21 + 3 * c1 / (51**2 + c1)) / 24)
    assert (found["codes_used"], found["num_codes"]) == (5, 10)
    assert found["unigram_nats"] == pytest.approx(math.log(4) / 2)
    assert found["perplexity"] == pytest.approx(2.0)
    row = cells(to_lines(reconstruction_blocks(through_json(found))))[2]
    assert row[0] == "6"
    assert row[1].startswith("0.0500 (n=6")
    assert row[4] == "5 of 10"


def test_clips_of_one_episode_have_no_interval():
    clips = random_clips(3, 1)
    found = measure_reconstruction(
        clips, clips, np.zeros(3), data_variance=0.06, counts=np.ones((1, 4)), seed=0
    )
    assert found["psnr"].value == math.inf
    assert "(n=1, too few" in to_lines(reconstruction_blocks(through_json(found)))[2]


def likelihood_toy(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes of two codebooks of 5 that stay for a while, for tests and for training."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 5, (16, 4, 2, 3, 2))
    for t in range(1, 4):
        stays = rng.random((16, 2, 3, 2)) < 0.7
        codes[:, t] = np.where(stays, codes[:, t - 1], codes[:, t])
    codes[..., 1] = np.minimum(codes[..., 1], 2)
    return codes[:6], codes[6:]


def likelihood_by_hand(
    codes: np.ndarray, train: np.ndarray
) -> tuple[float, float, float, list[float]]:
    """Mean nats of the unigram, of the position's unigram, and of copying with 0.00 to 0.99."""
    by_book, by_place = Counter(), Counter()
    for clip in train:
        for place, code in np.ndenumerate(clip):
            by_book[place[-1], code] += 1
            by_place[place, code] += 1
    num_clips, num_latents = len(train), 4 * 2 * 3
    unigram, position, copied = [], [], [[] for _ in range(100)]
    for clip in codes:
        for place, code in np.ndenumerate(clip):
            t, y, x, book = place
            chance = (by_book[book, code] + 1) / (num_clips * num_latents + 5)
            unigram.append(-math.log(chance))
            position.append(-math.log((by_place[place, code] + 1) / (num_clips + 5)))
            for hundredth, nats in enumerate(copied):
                a = hundredth / 100 if t > 0 else 0.0
                same = t > 0 and clip[t - 1, y, x, book] == code
                nats.append(-math.log(a * same + (1 - a) * chance))
    mean = [float(np.mean(nats)) for nats in copied]
    return float(np.mean(unigram)), float(np.mean(position)), min(mean), mean


def test_likelihood_beside_baselines_counted_one_by_one():
    codes, train = likelihood_toy()
    nats = np.random.default_rng(1).uniform(0, 2, (6, 48))
    found = measure_likelihood(
        nats,
        codes,
        train,
        np.asarray([0, 0, 1, 1, 2, 3]),
        num_codes=5,
        clip_shape=(8, 16, 24, 3),
        seed=0,
    )
    unigram, position, copying, by_weight = likelihood_by_hand(codes, train)
    assert found["unigram_nats"].value == pytest.approx(unigram)
    assert found["position_unigram_nats"].value == pytest.approx(position)
    assert found["copy_nats"].value == pytest.approx(copying)
    assert found["copy_weight"] == pytest.approx(np.argmin(by_weight) / 100)
    assert 0.5 < found["copy_weight"] < 0.95
    assert found["nats_a_token"].value == pytest.approx(nats.mean())
    assert found["bits_a_token"].value == pytest.approx(nats.mean() * 1.442695, rel=1e-6)
    per_channel = nats.sum() / math.log(2) / (6 * 8 * 16 * 24 * 3)
    assert found["bits_a_pixel_channel"].value == pytest.approx(per_channel)
    for name in ("nats_a_token", "bits_a_token", "bits_a_pixel_channel", "copy_nats"):
        assert found[name].low < found[name].value < found[name].high
    assert found["bits_a_token"].low == pytest.approx(found["nats_a_token"].low / math.log(2))
    rows = cells(to_lines(likelihood_blocks(through_json(found))))
    assert rows[2][0] == "prior"
    assert rows[2][1].startswith(f"{nats.mean():.3f} (n=4")
    assert rows[-1][2] == f"{unigram / math.log(2):.3f}"


def test_what_exchanged_conditions_cost_is_the_difference():
    codes, train = likelihood_toy()
    nats = np.random.default_rng(2).uniform(0, 2, (6, 48))
    exchanged = nats + 0.25
    exchanged[:, :12] += 1.0  # the first of four latent frames
    sizes = {"num_codes": 5, "clip_shape": (8, 16, 24, 3), "seed": 0}
    found = measure_likelihood(nats, codes, train, np.arange(6), exchanged_nats=exchanged, **sizes)
    assert found["exchanged_nats"].value == pytest.approx(nats.mean() + 0.5)
    assert found["exchange_costs"][:3] == pytest.approx((0.5, 0.5, 0.5))  # paired: no spread
    assert found["exchange_costs_first_frame"][:3] == pytest.approx((1.25, 1.25, 1.25))
    lines = to_lines(likelihood_blocks(through_json(found)))
    assert cells(lines)[3][0] == "prior under another clip's conditions"
    assert "loses 0.500 (n=6, too few for an interval) nats a token" in lines[-1]
    assert "in the first latent frame 1.250" in lines[-1]
    alone = measure_likelihood(nats, codes, train, np.arange(6), **sizes)
    assert "exchanged_nats" not in alone
    assert "of another clip" not in "".join(to_lines(likelihood_blocks(through_json(alone))))


def test_conditions_are_exchanged_with_another_episode():
    episodes = np.asarray([3, 3, 1, 3, 3])
    others = next_of_another(episodes)
    assert others is not None
    assert others.tolist() == [2, 2, 3, 2, 2]
    assert next_of_another(np.asarray([4, 4])) is None


def test_a_uniform_prior_costs_the_logarithm_of_the_codes():
    codes, train = likelihood_toy(2)
    nats = np.full((6, 48), math.log(5))
    found = measure_likelihood(
        nats, codes, train, np.arange(6), num_codes=5, clip_shape=(8, 16, 16, 3), seed=0
    )
    np.testing.assert_allclose(found["bits_a_token"][:3], math.log2(5))


def test_copying_suits_codes_that_stay_and_no_others():
    train = np.random.default_rng(3).integers(0, 8, (50, 4, 2, 2, 1))
    still = np.repeat(train[:10, :1], 4, 1)

    def measured(codes: np.ndarray) -> dict[str, Any]:
        return measure_likelihood(
            np.ones((10, codes[0].size)),
            codes,
            train,
            np.arange(10),
            num_codes=8,
            clip_shape=(4, 8, 8, 3),
            seed=0,
        )

    assert measured(still)["copy_weight"] == 0.99
    assert measured(still)["copy_nats"].value < 0.3 * measured(still)["unigram_nats"].value
    jumping = (still + np.arange(4)[:, None, None, None]) % 8
    assert measured(jumping)["copy_weight"] == 0.0
    assert measured(jumping)["copy_nats"] == measured(jumping)["unigram_nats"]


def test_nats_of_other_clips_than_the_codes_are_refused():
    codes, train = likelihood_toy()
    with pytest.raises(ValueError, match="codes"):
        measure_likelihood(
            np.ones((6, 47)),
            codes,
            train,
            np.arange(6),
            num_codes=5,
            clip_shape=(8, 16, 16, 3),
            seed=0,
        )


def test_distances_compare_what_their_names_say():
    real, training = random_clips(20, 4), random_clips(25, 7)
    reconstructed, sampled = random_clips(20, 5), random_clips(20, 6)
    reconstructed[..., 0] //= 2
    sampled[..., 1] //= 3
    found = measure_fvd(real, training, reconstructed, sampled, COLOURS)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return frechet_distance(*(of.astype(float).mean((1, 2, 3)) for of in (a, b)))

    assert found["fvd"] == pytest.approx(distance(real, sampled))
    assert found["r_fvd"] == pytest.approx(distance(real, reconstructed))
    assert found["fvd_star"] == pytest.approx(distance(reconstructed, sampled))
    assert found["real_floor"] == pytest.approx(distance(real, training[:20]))
    assert found["real_floor"] < 0.01 * min(found["fvd"], found["r_fvd"], found["fvd_star"])
    assert (found["num_clips"], found["real_floor_num_clips"]) == (20, 20)
    lines = to_lines(fvd_blocks(through_json(found)))
    rows = cells(lines)
    assert [row[2] for row in rows[2:]] == ["20"] * 4
    assert rows[2][3] == f"{found['fvd']:.1f}"
    assert rows[5][1] == "real test clips against real training clips"
    assert "256 clips of 16 frames" in lines[-1]
    assert "The floor has fewer clips" not in lines[-1]
    without_samples = measure_fvd(real, training, reconstructed, None, COLOURS)
    assert without_samples == {k: v for k, v in found.items() if k not in ("fvd", "fvd_star")}


def test_with_few_training_clips_the_floor_has_fewer_and_says_so():
    real = random_clips(9, 7)
    found = measure_fvd(real, random_clips(5, 8), real, real, COLOURS)
    assert found["r_fvd"] == pytest.approx(0, abs=1e-9)
    assert (found["num_clips"], found["real_floor_num_clips"]) == (9, 5)
    assert "The floor has fewer clips" in to_lines(fvd_blocks(through_json(found)))[-1]


def test_a_distance_of_other_features_is_never_called_fvd():
    real = random_clips(8, 8)
    lines = to_lines(fvd_blocks(through_json(measure_fvd(real, real, real, real, COLOURS))))
    assert "FVD" not in "\n".join(lines)
    assert "Fréchet distance*" in "\n".join(lines)


@pytest.mark.parametrize(
    "numbers", [(20, 20, 19, 20), (20, 20, 20, 19), (3, 20, 3, 3), (20, 3, 20, 20)]
)
def test_numbers_of_clips_that_do_not_fit_are_refused(numbers: tuple[int, int, int, int]):
    real, training, reconstructed, sampled = (random_clips(n, 9) for n in numbers)
    counts = "{}, {}, {} and {}".format(*numbers)
    with pytest.raises(UserError, match=f"not {counts}$"):
        measure_fvd(real, training, reconstructed, sampled, COLOURS)


def test_inception_score_of_clips_that_are_surely_one_class():
    def logits(clips: np.ndarray) -> np.ndarray:
        return 1000.0 * np.eye(5)[clips[:, 0, 0, 0, 0] % 5] + 3000  # too large for a plain exp

    network = FeatureNetwork("first pixel", "Inception score", TGANV2, "abc", logits)
    clips = np.zeros((40, 2, 4, 4, 3), np.uint8)
    clips[:, 0, 0, 0, 0] = np.arange(40)
    found = measure_inception_score(clips, np.repeat(clips[:1], 12, 0), network, num_splits=4)
    assert found["sampled"]["mean"] == pytest.approx(5.0)
    assert found["sampled"]["standard_deviation"] == pytest.approx(0.0, abs=1e-9)
    assert found["real"] == {
        "mean": pytest.approx(1.0),
        "standard_deviation": pytest.approx(0.0),
        "num_clips": 12,
    }
    rows = cells(to_lines(inception_score_blocks(through_json(found))))
    assert rows[2:] == [["samples", "40", "5.00 ± 0.00"], ["real clips", "12", "1.00 ± 0.00"]]
    with pytest.raises(UserError, match="at least 10 clips, not 9"):
        measure_inception_score(clips[:9], clips, network)
