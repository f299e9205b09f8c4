"""Recording and training by processes, and on a Ray cluster: python -m benchmarks.cluster

The cluster has two machines of one core each, both on this one. It and local processes play the
same episodes of Health Gathering Supreme, in turns; then the cluster plays them again and loses one
of its machines on the way. Targets: 0.85 of the local frames/s, and the same episodes to the bit.
Then dream-doom's tokenizer trains on them with one process and with two.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import Output, Results, measured_on, run_benchmark
from collect.recorder import RANDOM, EpisodePlayer, Job, Players, describe
from worldmodel import randomness
from worldmodel.command import check_numbers
from worldmodel.data import Episode, EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks
from worldmodel.parallel import Workers
from worldmodel.training.trainer import LOG_EVERY

TARGET = 0.85
ENV_ID = "DoomHealthGatheringSupreme-v0"


@dataclass(frozen=True)
class Options(Output):
    """Compare recording on a Ray cluster with recording in local processes."""

    episodes: int = 200
    """Episodes to play each time."""
    length: int = 100
    """Maximum number of steps per episode."""
    rounds: int = 3
    """How often each plays all of them."""
    train_steps: int = 41
    """Steps that the tokenizer trains for; 0 leaves training out. Speed is noted after the first
    step and every 20 steps."""


def measure(options: Options) -> Results:
    check_numbers(options, episodes=2, length=1, rounds=1, train_steps=0)
    if 0 < options.train_steps <= LOG_EVERY:
        raise UserError(f"--train-steps must be 0, or more than {LOG_EVERY}")
    jobs = [
        Job(
            i,
            randomness.integer(0, "benchmark: environment", i),
            randomness.integer(0, "benchmark: player", i),
            RANDOM,
            options.length,
        )
        for i in range(options.episodes)
    ]
    speeds: dict[str, list[float]] = {"1 process": [], "2 processes": [], "Ray": []}
    digests: list[dict[int, str]] = []
    with cluster() as (address, lose_machine), tempfile.TemporaryDirectory() as folder:
        ways = [(1, None), (2, None), (2, address)]
        for _ in range(options.rounds):
            for name, (num_workers, ray) in zip(speeds, ways, strict=True):
                with players(num_workers, ray) as workers:
                    speed, digest = played(workers, jobs)
                speeds[name].append(speed)
                digests.append(digest)
        with players(2, address) as workers:
            _, digest = played(workers, jobs, halfway=lose_machine)
        digests.append(digest)
        training = {}
        if options.train_steps:
            data = Path(folder, "data")
            with players(2) as workers, EpisodeWriter(data, describe(ENV_ID, {}, {})) as writer:
                for episode in workers.run(jobs):
                    writer.append(episode)
            for num_processes in (1, 2):
                out = Path(folder, str(num_processes))
                training[num_processes] = trained(data, out, num_processes, options.train_steps)
    return {
        "episodes": options.episodes,
        "frames_a_second": speeds,
        "ray_over_local": median(speeds["Ray"]) / median(speeds["2 processes"]),
        "same": all(digest == digests[0] for digest in digests),
        "training_steps_a_second": training,
    }


def players(num_workers: int, ray: str | None = None) -> Players:
    return Workers(partial(EpisodePlayer, ENV_ID, {}), num_workers, ray=ray)


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
    for _ in workers.run(jobs[:2]):  # starts the processes
        pass
    digests, num_frames, start = {}, 0, time.perf_counter()
    for count, episode in enumerate(workers.run(jobs), 1):
        digests[episode.episode_id] = digest_of(episode)
        num_frames += episode.length
        if count == len(jobs) // 2:
            halfway()
    return num_frames / (time.perf_counter() - start), digests


def trained(data: Path, out: Path, num_processes: int, num_steps: int) -> float:
    """Steps per second of dream-doom's tokenizer, without the first."""
    command = [sys.executable, "-m"]
    if num_processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
        command += ["-m"]
    command += ["worldmodel.train", "dream-doom", "--stage", "tokenizer"]
    command += ["--data", str(data), "--out", str(out), "--tokenizer-steps", str(num_steps)]
    command += ["--validate-minutes", "1000"]
    one_thread = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **one_thread})
    lines = (out / "training" / "tokenizer.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


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
        digest.update(array.tobytes())
    return digest.hexdigest()


def tables(results: Results) -> Blocks:
    return [
        f"{results['episodes']} episodes, frames/s in rounds:",
        *(
            f"{name}: median {median(speeds):.0f} ({', '.join(f'{speed:.0f}' for speed in speeds)})"
            for name, speeds in results["frames_a_second"].items()
        ),
        f"Ray over 2 processes: {results['ray_over_local']:.2f} (target {TARGET})",
        *(
            f"training steps/s, {number} processes of one thread: {speed:.3f}"
            for number, speed in results["training_steps_a_second"].items()
        ),
        "the same episodes to the bit, also where a machine was lost: "
        + ("yes" if results["same"] else "NO"),
        measured_on(results),
    ]


if __name__ == "__main__":
    run_benchmark("cluster", Options, measure, tables)
