"""The part "fvd": Fréchet video distance, of clips from real ones in a network's features."""

from typing import Any

import numpy as np

from worldmodel.command import track
from worldmodel.errors import UserError
from worldmodel.evaluation.held_out import HeldOut
from worldmodel.evaluation.report import Section
from worldmodel.evaluation.tables import Blocks, Table, number
from worldmodel.metrics.features import FeatureNetwork
from worldmodel.metrics.frechet import frechet_distance

MIN_CLIPS = 4
CLIPS_AT_ONCE = 8  # an I3D takes 100 MB a clip
READING = (
    "How far the features of samples lie from those of real clips as a whole; beside it the same "
    "distance between real clips, which no model can be expected to beat."
)


def measure_fvd(
    real: np.ndarray,
    training: np.ndarray,
    reconstructed: np.ndarray,
    sampled: np.ndarray | None,
    network: FeatureNetwork,
) -> dict[str, Any]:
    """FVD (samples against real), R-FVD (reconstructions against real) and FVD* (samples against
    reconstructions) of n clips, and the distance of real clips from real clips (VideoGPT Table 5).

    Args:
        real: uint8 (n, T, H, W, C), test clips in random order.
        training: uint8 (m, T, H, W, C), clips of the training split, so of other episodes: test
            clips against these are the floor. It has fewer clips where m is below n.
        reconstructed, sampled: uint8 (n, T, H, W, C), one each of every test clip. Without
            samples there is R-FVD alone.

    Raises:
        UserError: there are too few clips, or the network refuses them.
    """
    n = len(real)
    num_sampled = n if sampled is None else len(sampled)
    if num_sampled != n or len(reconstructed) != n or min(n, len(training)) < MIN_CLIPS:
        raise UserError(
            f"{network.metric} needs {MIN_CLIPS} test clips and training clips at least, and "
            f"a reconstruction and a sample of each test clip: not {n}, {len(training)}, "
            f"{len(reconstructed)} and {num_sampled}"
        )
    floor_n = min(n, len(training))
    of_real = features_of(real, network, "features of test clips")
    of_training = features_of(training[:floor_n], network, "features of training clips")
    of_reconstructed = features_of(reconstructed, network, "features of reconstructions")
    numbers = {
        **source_of(network, real.shape[1]),
        "num_clips": n,
        "r_fvd": frechet_distance(of_reconstructed, of_real),
        "real_floor": frechet_distance(of_real[:floor_n], of_training),
        "real_floor_num_clips": floor_n,
    }
    if sampled is not None:
        of_sampled = features_of(sampled, network, "features of samples")
        numbers["fvd"] = frechet_distance(of_sampled, of_real)
        numbers["fvd_star"] = frechet_distance(of_sampled, of_reconstructed)
    return numbers


def measure_dreams(held_out: HeldOut, network: FeatureNetwork) -> dict[str, Any]:
    """Of as many frames of each test clip's future as the protocol takes; the floor compares them
    with the same of training clips."""
    wanted = network.protocol.num_frames
    if held_out.settings.horizon < wanted:
        raise UserError(f"{network.metric} needs {wanted} frames: --horizon {wanted} at least")
    future = slice(held_out.num_given, held_out.num_given + wanted)
    _, training = held_out.draw("train")
    return measure_fvd(
        held_out.real[:, :wanted],
        training.frames[:, future],
        held_out.reconstructions[:, future],
        held_out.dreams.frames[:, :wanted],
        network,
    )


def fvd_blocks(n: dict[str, Any]) -> Blocks:
    """The table of `measure_fvd`."""
    name, clips = n["metric"], str(n["num_clips"])
    rows = [
        [name, "samples against real", clips, number(n["fvd"], 1)],
        [f"R-{name}", "reconstructions against real", clips, number(n["r_fvd"], 1)],
        [f"{name}*", "samples against reconstructions", clips, number(n["fvd_star"], 1)],
        [
            "floor",
            "real test clips against real training clips",
            str(n["real_floor_num_clips"]),
            number(n["real_floor"], 1),
        ],
    ]
    floor = "" if n["real_floor_num_clips"] == n["num_clips"] else " The floor has fewer clips."
    return [
        Table(["", "of", "clips on either side", "distance"], rows),
        f"{source_line(n)} A distance grows as clips get fewer: compare it only at one number of "
        f"clips, and with the floor.{floor}",
    ]


def features_of(clips: np.ndarray, network: FeatureNetwork, what: str) -> np.ndarray:
    starts = range(0, len(clips), CLIPS_AT_ONCE)
    parts = [network.features(clips[i : i + CLIPS_AT_ONCE]) for i in track(starts, what)]
    return np.concatenate(parts)


def source_of(network: FeatureNetwork, num_frames: int) -> dict[str, Any]:
    protocol = network.protocol
    return {
        "metric": network.metric,
        "network": network.name,
        "weights_sha256": network.sha256,
        "num_frames": num_frames,
        "protocol": protocol.name,
        "protocol_num_clips": protocol.num_clips,
        "protocol_num_frames": protocol.num_frames,
    }


def source_line(n: dict[str, Any]) -> str:
    return (
        f"{n['network']} (sha256 {n['weights_sha256'][:12]}), {n['num_frames']} frames a clip; "
        f"preprocessing of {n['protocol']}, which takes {n['protocol_num_clips']} clips of "
        f"{n['protocol_num_frames']} frames."
    )


SECTION = Section(fvd_blocks, READING)
