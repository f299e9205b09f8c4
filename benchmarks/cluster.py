"""Recording on a Ray cluster against local processes: python -m benchmarks.cluster

A cluster of two machines of one core each, both on 127.0.0.1. Both play the same episodes of Health
Gathering Supreme, in turns; then the cluster plays them again and loses one of its machines on the
way. Targets: 0.85 of the local frames/s, and the same episodes to the bit.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.measuring import Output, Results, measured_on, run_benchmark
from collect.recorder import RANDOM, EpisodePlayer, Job, Players
from worldmodel import randomness
from worldmodel.command import check_numbers
from worldmodel.data import Episode
from worldmodel.evaluation.tables import Blocks
from worldmodel.parallel import Workers

TARGET = 0.85
NUM_WORKERS = 2
ENV_ID = "DoomHealthGatheringSupreme-v0"


@dataclass(frozen=True)
class Options(Output):
    """Compare recording on a Ray cluster with recording in local processes."""

    episodes: int = 200
    """Episodes to play each time."""
    length: int = 100
    """Maximum number of steps per episode."""
    rounds: int = 3
    """How often both play all of them."""


def measure(options: Options) -> Results:
    check_numbers(options, episodes=NUM_WORKERS, length=1, rounds=1)
    jobs = [
        Job(
            i,
            randomness.integer(0, "environment", i),
            randomness.integer(0, "player", i),
            RANDOM,
            options.length,
        )
        for i in range(options.episodes)
    ]
    here: list[float] = []
    there: list[float] = []
    digests: list[dict[int, str]] = []
    with cluster() as (address, lose_machine):
        for _ in range(options.rounds):
            for speeds, ray in ((here, None), (there, address)):
                with players(ray) as workers:
                    speed, digest = played(workers, jobs)
                speeds.append(speed)
                digests.append(digest)
        with players(address) as workers:
            _, digest = played(workers, jobs, halfway=lose_machine)
        digests.append(digest)
    return {
        "episodes": options.episodes,
        "local": here,
        "ray": there,
        "ratio": median(there) / median(here),
        "same": all(digest == digests[0] for digest in digests),
    }


def players(ray: str | None) -> Players:
    return Workers(partial(EpisodePlayer, ENV_ID, {}), NUM_WORKERS, ray=ray)


@contextmanager
def cluster() -> Iterator[tuple[str, Any]]:
    """Its address, and a function that kills one of its two machines."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    try:
        assert cluster.address is not None
        yield cluster.address, partial(cluster.remove_node, lost, allow_graceful=False)
    finally:
        cluster.shutdown()


def played(
    workers: Players, jobs: list[Job], halfway: Any = lambda: None
) -> tuple[float, dict[int, str]]:
    """Play all jobs.

    Args:
        halfway: called when half of them have been played.

    Returns:
        Frames per second, without the start of the processes, and a digest of each episode.
    """
    for _ in workers.run(jobs[:NUM_WORKERS]):  # starts the processes
        pass
    digests, num_frames, start = {}, 0, time.perf_counter()
    for count, episode in enumerate(workers.run(jobs), 1):
        digests[episode.episode_id] = digest_of(episode)
        num_frames += episode.length
        if count == len(jobs) // 2:
            halfway()
    return num_frames / (time.perf_counter() - start), digests


def digest_of(episode: Episode) -> str:
    arrays = (
        episode.frames,
        episode.action,
        episode.reward,
        episode.terminated,
        episode.truncated,
        episode.variables,
        episode.pose,
    )
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()


def tables(results: Results) -> Blocks:
    return [
        f"{results['episodes']} episodes by {NUM_WORKERS} processes, frames/s in rounds:",
        *(
            f"{name}: median {median(results[name]):.0f} "
            f"({', '.join(f'{speed:.0f}' for speed in results[name])})"
            for name in ("local", "ray")
        ),
        f"Ray over local: {results['ratio']:.2f} (target {TARGET})",
        "the same episodes to the bit, also where a machine was lost: "
        + ("yes" if results["same"] else "NO"),
        measured_on(results),
    ]


if __name__ == "__main__":
    run_benchmark("cluster", Options, measure, tables)
