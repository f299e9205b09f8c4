"""Frames a second of many dreams at once: python -m benchmarks.vector_dream

All included: tokens, pixels, rewards, ends, new beginnings. Beside it one dream alone, a vector
of single dreams, and the real game on all cores; one after the other on the same machine.
"""

import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
import tyro
from stable_baselines3.common.vec_env import SubprocVecEnv

import envs  # noqa: F401  registers the environments
from envs.dream import DreamEnv
from worldmodel import randomness
from worldmodel.command import run_command
from worldmodel.errors import UserError
from worldmodel.storage.provenance import git_commit, machine

HORIZON = 100  # a dream begins anew after so many steps, as in training
WARM_UP_STEPS = 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Options:
    """Measure vectors of dreams."""

    checkpoint: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    sizes: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of dreams; 1,024 on a GPU."""
    seconds: float = 20.0
    """Of each variant, after warming up."""
    device: str = "cpu"
    """Of the dreams: cpu or cuda."""
    real: bool = True
    """Measure the real game too, one process a core."""
    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.vector_dream", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    if min(options.sizes) < 1 or options.seconds <= 0:
        raise UserError("--sizes must be at least 1, --seconds above 0")
    results = measure(options)
    print(json.dumps(results, indent=2) if options.json else table(results))


def measure(options: Options) -> dict[str, Any]:
    """Frames a second of each variant, and where they were measured."""
    variants: dict[str, Callable[[], Generator[int]]] = {
        f"{size} dreams, one batch": lambda size=size: _dreams(options, size, "vector_entry_point")
        for size in options.sizes
    }
    variants["4 single dreams in turn"] = lambda: _dreams(options, 4, "sync")
    if options.real:
        variants[f"the real game, {os.cpu_count()} processes"] = lambda: _real(options)
    rates = {}
    for name, start in variants.items():
        rates[name] = _frames_a_second(start, options.seconds)
    return {
        "checkpoint": options.checkpoint,
        "device": options.device,
        "frames_a_second": rates,
        "horizon": HORIZON,
        "load_average": os.getloadavg()[0],
        "commit": git_commit(),
        "machine": machine(),
    }


def _frames_a_second(start: Callable[[], Generator[int]], seconds: float) -> float:
    """`start` makes a generator that steps, and says how many frames each step gave."""
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
    with mock.patch.dict(os.environ, ONE_THREAD):  # two threads each would wait for one another
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


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    on = results["machine"]
    lines = [
        f"{results['checkpoint']}, {on['gpu'] if results['device'] != 'cpu' else on['cpu']}, "
        f"{on['threads']} threads, torch {on['torch']}, commit "
        f"{(results['commit'] or 'unknown')[:12]}, load average {results['load_average']:.1f}; "
        f"dreams of {results['horizon']} steps",
        "",
        "| | frames/s |",
        "| --- | --- |",
    ]
    lines += [f"| {name} | {rate:.1f} |" for name, rate in results["frames_a_second"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
