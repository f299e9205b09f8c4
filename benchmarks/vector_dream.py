"""Frames per second of batches of dreams: python -m benchmarks.vector_dream

Includes tokens, pixels, rewards, ends and resets. For comparison: single dreams in turn, and the
real game on all cores. One variant after the other.
"""

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from unittest import mock

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import SubprocVecEnv

import envs  # noqa: F401  registers the environments
from benchmarks.measuring import Output, Results, measured_on, run_benchmark
from envs.dream import DreamEnv
from worldmodel import randomness
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, Table

HORIZON = 100  # steps per dream, as in training
WARM_UP_STEPS = 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Options(Output):
    """Measure batches of dreams."""

    checkpoint: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    sizes: tuple[int, ...] = (1, 4, 16, 64)
    """Batch sizes; up to 1,024 on a GPU."""
    seconds: float = 20.0
    """Duration of each variant, after warming up."""
    device: str = "cpu"
    """Device of the dreams: cpu or cuda."""
    real: bool = True
    """Measure the real game too, with one process per core."""


def measure(options: Options) -> Results:
    if min(options.sizes) < 1 or options.seconds <= 0:
        raise UserError("--sizes must be at least 1, --seconds above 0")
    variants: dict[str, Callable[[], Generator[int]]] = {
        f"{size} dreams, one batch": lambda size=size: _dreams(options, size, "vector_entry_point")
        for size in options.sizes
    }
    variants["4 single dreams in turn"] = lambda: _dreams(options, 4, "sync")
    if options.real:
        variants[f"the real game, {os.cpu_count()} processes"] = lambda: _real(options)
    rates = {name: _frames_a_second(start, options.seconds) for name, start in variants.items()}
    return {
        "checkpoint": options.checkpoint,
        "device": options.device,
        "frames_a_second": rates,
        "horizon": HORIZON,
    }


def _frames_a_second(start: Callable[[], Generator[int]], seconds: float) -> float:
    """The speed of a generator that steps and yields the number of frames."""
    with closing(start()) as steps:
        for _ in range(WARM_UP_STEPS):
            next(steps)
        began, frames = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            frames += next(steps)
    return frames / spent


def _dreams(options: Options, size: int, mode: str) -> Generator[int]:
    dreams = gymnasium.make_vec(
        "VideoGPTDream-v0",
        size,
        vectorization_mode=mode,
        checkpoint=options.checkpoint,
        horizon=HORIZON,
        device=options.device,
    )
    dreams.reset(seed=0)
    dreams.action_space.seed(0)
    while True:
        dreams.step(dreams.action_space.sample())
        if options.device != "cpu":
            torch.cuda.synchronize()
        yield size


def _real(options: Options) -> Generator[int]:
    env_id, env_kwargs = DreamEnv(options.checkpoint).recorded_env()
    cores = os.cpu_count() or 1
    with mock.patch.dict(os.environ, ONE_THREAD):  # several threads each would block one another
        games = SubprocVecEnv([lambda: gymnasium.make(env_id, **env_kwargs)] * cores)
    try:
        games.reset()
        rng = randomness.generator(0, "benchmark: games")
        games.action_space.seed(int(rng.integers(2**31)))
        while True:
            games.step(np.stack([games.action_space.sample() for _ in range(cores)]))
            yield cores
    finally:
        games.close()


def tables(results: Results) -> Blocks:
    rows = [[name, f"{rate:.1f}"] for name, rate in results["frames_a_second"].items()]
    dreams = f"{results['checkpoint']}, dreams of {results['horizon']} steps"
    return [f"{dreams}; {measured_on(results)}", Table(["", "frames/s"], rows)]


if __name__ == "__main__":
    run_benchmark("vector_dream", Options, measure, tables)
