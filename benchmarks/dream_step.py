"""How fast a dream goes on one CPU thread: python -m benchmarks.dream_step

A step is everything a player waits for: the frame's tokens, its pixels, reward and end. Beside
it, in turns on the same machine: the same with PyTorch's head, a plain GPT of the same width
and depth, and the floor that bytes and arithmetic set. Wall-clock times are true only where
nothing else runs; CPU time, of the thread alone, suffers less.
"""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_gpt import PlainGPT
from worldmodel import randomness
from worldmodel.checkpoint import Checkpoint, load_checkpoint
from worldmodel.command import run_command
from worldmodel.dream import Dream, WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation.held_out import wander
from worldmodel.interface.sampling import Sampling
from worldmodel.prior.layers import encode_actions
from worldmodel.storage.provenance import git_commit, machine

WARM_UP_STEPS = 3  # the first compiles
STEPS_A_TURN = 5
BATCH_SIZES = (1, 4, 16)
GEMM_SIZE = 1024
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Options:
    """Measure steps of a dream, batch 1, on one CPU thread."""

    checkpoint: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    steps: int = 200
    """Steps of each variant; the plain GPT makes a tenth of them."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass
class Times:
    """Milliseconds of each step, by the wall's clock and by the thread's."""

    wall_ms: list[float]
    cpu_ms: list[float]

    def summary(self) -> dict[str, float]:
        p50, p99 = np.quantile(self.wall_ms, (0.5, 0.99))
        return {
            "steps": len(self.wall_ms),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "steps_a_second": 1000 * len(self.wall_ms) / sum(self.wall_ms),
            "cpu_ms": float(np.mean(self.cpu_ms)),
            "steps_a_cpu_second": 1000 * len(self.cpu_ms) / sum(self.cpu_ms),
        }


class Dreamer:
    """Goes on dreaming from a checkpoint's first starts, under wandering actions."""

    def __init__(self, model: WorldModel, checkpoint: Checkpoint, batch_size: int) -> None:
        self.model = model
        rows = np.resize(np.arange(len(checkpoint.starts)), batch_size)
        starts = checkpoint.starts
        names = ("frames", "actions", "variables", "poses")
        given = [getattr(starts, name)[rows] for name in names]
        self.dream: Dream = model.start(*map(torch.from_numpy, given))
        self.sampling = checkpoint.world.sampling
        self.rng = randomness.generator(0, "benchmark: dream steps")
        self.batch_size = batch_size

    def __call__(self) -> None:
        actions = wander(self.rng, self.model.config.actions, self.batch_size, 1)[:, 0]
        uniforms = self.rng.random((self.batch_size, self.model.num_uniforms), np.float32)
        _, self.dream = self.model.step(
            self.dream,
            torch.from_numpy(np.ascontiguousarray(actions)),
            torch.from_numpy(uniforms),
            self.sampling,
        )


class PlainDreamer:
    """Frames from a plain GPT of the same width, depth and window, by the same decoder."""

    def __init__(self, model: WorldModel) -> None:
        config, tokenizer = model.config.prior, model.config.tokenizer
        self.model = model
        self.gpt = PlainGPT(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            num_codes=tokenizer.num_codes,
            num_tokens=model.prior.head.num_tokens,
            window=config.window,
            condition_size=model.config.actions.vector_size,
        ).eval()
        self.rng = randomness.generator(0, "benchmark: original")
        self.num_drawn = 0
        self.last_code = torch.zeros(1, dtype=torch.int64)

    def __call__(self) -> None:
        spec, num_tokens = self.model.config.actions, self.gpt.num_tokens
        actions = torch.from_numpy(wander(self.rng, spec, 1, 1)[:, 0])
        uniforms = torch.from_numpy(self.rng.random((1, num_tokens), np.float32))
        first_slot = self.num_drawn % self.model.config.prior.window * num_tokens
        codes = self.gpt.sample_frame(
            first_slot, self.last_code, encode_actions(spec, actions), uniforms, Sampling()
        )
        self.num_drawn, self.last_code = self.num_drawn + 1, codes[:, -1]
        grid, num_books = (
            self.model.config.tokenizer.grid,
            self.model.config.tokenizer.num_codebooks,
        )
        self.model.decode(codes.view(1, *grid, num_books))


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.dream_step", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    if options.steps < 1:
        raise UserError(f"--steps must be at least 1, not {options.steps}")
    results = {
        "checkpoint": options.checkpoint,
        "commit": git_commit(),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        **measure(checkpoint, options.steps),
    }
    print(json.dumps(results, indent=2) if options.json else tables(results))


def measure(checkpoint: Checkpoint, steps: int) -> dict[str, Any]:
    """Everything that the tables show."""
    model = checkpoint.model
    torch_head = copy.deepcopy(model)
    torch_head.prior.sample_tokens = torch_head.prior.head.sample  # what a batch of one passes by
    variants = {
        "as played": Dreamer(model, checkpoint, 1),
        "with PyTorch's head": Dreamer(torch_head, checkpoint, 1),
        "plain GPT, same width and layers": PlainDreamer(model),
    }
    shares = dict(zip(variants, (steps, steps, max(1, steps // 10)), strict=True))
    if model.config.prior.recalled:
        forgetful = copy.deepcopy(model)
        forgetful.prior.config = replace(forgetful.prior.config, recalled=0)
        variants["without older frames"] = Dreamer(forgetful, checkpoint, 1)
        shares["without older frames"] = steps
    times = _in_turns(variants, shares)
    batched = {
        str(size): _in_turns({"": Dreamer(model, checkpoint, size)}, {"": max(1, steps // size)})[
            ""
        ]
        for size in BATCH_SIZES
    }
    return {
        "variants": {name: of_variant.summary() for name, of_variant in times.items()},
        "parts_ms": _parts(model, checkpoint, steps),
        "floor": _floor(model, checkpoint),
        "batched": {
            size: {
                "frames_a_second": int(size) * of_size.summary()["steps_a_second"],
                "frames_a_cpu_second": int(size) * of_size.summary()["steps_a_cpu_second"],
            }
            for size, of_size in batched.items()
        },
    }


def _in_turns(variants: dict[str, Callable[[], None]], steps: dict[str, int]) -> dict[str, Times]:
    """Time each variant's steps, a few of each at a time: what else runs hits all alike."""
    times = {name: Times([], []) for name in variants}
    for step in variants.values():
        for _ in range(WARM_UP_STEPS):
            step()
    while any(len(times[name].wall_ms) < steps[name] for name in variants):
        for name, step in variants.items():
            for _ in range(min(STEPS_A_TURN, steps[name] - len(times[name].wall_ms))):
                wall, cpu = time.perf_counter(), time.thread_time()
                step()
                times[name].wall_ms.append(1e3 * (time.perf_counter() - wall))
                times[name].cpu_ms.append(1e3 * (time.thread_time() - cpu))
    return times


def _parts(model: WorldModel, checkpoint: Checkpoint, steps: int) -> dict[str, float]:
    """CPU milliseconds a step of the head, of the decoder, and of the rest: the backbone."""
    spent = {"head": 0.0, "decoder": 0.0}

    def timed(name: str, call: Callable) -> Callable:
        def run(*arguments):
            began = time.thread_time()
            result = call(*arguments)
            spent[name] += 1e3 * (time.thread_time() - began)
            return result

        return run

    watched = copy.deepcopy(model)
    watched.prior.sample_tokens = timed("head", watched.prior.sample_tokens)
    watched._draw = timed("decoder", watched._draw)
    dreamer = Dreamer(watched, checkpoint, 1)
    for _ in range(WARM_UP_STEPS):
        dreamer()
    spent.update(head=0.0, decoder=0.0)
    began = time.thread_time()
    for _ in range(steps):
        dreamer()
    total = 1e3 * (time.thread_time() - began) / steps
    parts = {name: value / steps for name, value in spent.items()}
    return {"backbone, reward, end": total - sum(parts.values()), **parts}


def _floor(model: WorldModel, checkpoint: Checkpoint) -> dict[str, Any]:
    """The least that a step can take: each part's weights read, or its arithmetic done.

    The backbone and the decoder read their weights once a frame and multiply at the rate of
    a large matrix product; the head reads its weights for each token, from a cache that holds
    them. Rates are the best measured in this run, in CPU time, on as many bytes as the part has.
    """
    gemm = _gemm_rate()
    dream = Dreamer(model, checkpoint, 1)
    recent = dream.dream.recent
    head = model.prior.head
    num_tokens = head.num_tokens
    action = encode_actions(
        model.config.actions, torch.from_numpy(wander(dream.rng, model.config.actions, 1, 1)[:, 0])
    )
    context = torch.zeros(1, num_tokens, model.config.prior.head_width)
    uniforms = torch.rand(1, num_tokens)
    head_flops = _flops(lambda: head.sample(context, action, uniforms, Sampling()))
    if checkpoint.world.sampling.guidance:  # two contexts, for which weights could be read once
        head_flops *= 2
    decoder_flops = _flops(lambda: model._draw(recent))
    head_bytes = FLOAT_BYTES * sum(
        p.numel() for p in [*head.blocks.parameters(), *head.logits.parameters()]
    )
    all_flops = _flops(_with_head(copy.deepcopy(model), checkpoint))
    not_read = ("head.", "place.locator.")  # by the backbone, in a step
    backbone = [p for name, p in model.prior.named_parameters() if not name.startswith(not_read)]
    backbone_bytes = FLOAT_BYTES * sum(p.numel() for p in backbone)
    backbone_bytes += FLOAT_BYTES * dream.dream.memory.keys_values.numel()
    decoder = model.tokenizer.decoder if model.sharp is None else model.sharp
    decoder_bytes = FLOAT_BYTES * sum(p.numel() for p in decoder.parameters())
    parts = {
        "backbone, reward, end": (backbone_bytes, all_flops - head_flops - decoder_flops, 1),
        "head": (head_bytes, head_flops, num_tokens),
        "decoder": (decoder_bytes, decoder_flops, 1),
    }
    rows = {}
    for name, (num_bytes, flops, reads) in parts.items():
        bandwidth = _read_rate(num_bytes)
        reading, multiplying = reads * num_bytes / bandwidth, flops / gemm
        rows[name] = {
            "megabytes_read": reads * num_bytes / 1e6,
            "gigabytes_a_second": bandwidth / 1e9,
            "gigaflop": flops / 1e9,
            "ms": 1e3 * max(reading, multiplying),
        }
    return {
        "gemm_gigaflops": gemm / 1e9,
        "parts": rows,
        "ms": sum(row["ms"] for row in rows.values()),
    }


def _with_head(model: WorldModel, checkpoint: Checkpoint) -> Callable[[], None]:
    """A step whose head PyTorch runs, so that its arithmetic is counted."""
    model.prior.sample_tokens = model.prior.head.sample
    return Dreamer(model, checkpoint, 1)


def _flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _gemm_rate() -> float:
    """Floating-point operations a second of a large matrix product, the best of several."""
    a, b = torch.randn(GEMM_SIZE, GEMM_SIZE), torch.randn(GEMM_SIZE, GEMM_SIZE)
    return 2 * GEMM_SIZE**3 / _best_seconds(lambda: a @ b, 10)


def _read_rate(num_bytes: int) -> float:
    """Bytes a second of products of matrices with vectors that together have so many bytes."""
    width = 256
    matrix = torch.randn(max(1, num_bytes // (FLOAT_BYTES * width)), width)
    vector = torch.randn(width)
    return matrix.numel() * FLOAT_BYTES / _best_seconds(lambda: matrix @ vector, 20)


def _best_seconds(call: Callable[[], Any], repeats: int) -> float:
    best = np.inf
    for _ in range(repeats):
        began = time.thread_time()
        call()
        best = min(best, time.thread_time() - began)
    return float(best)


def tables(results: dict[str, Any]) -> str:
    """The results for people."""
    on, floor = results["machine"], results["floor"]
    lines = [
        f"{results['checkpoint']}, one thread of {on['cpu']}, {on['system']}, torch {on['torch']}, "
        f"Python {on['python']}, commit {(results['commit'] or 'unknown')[:12]}, load average "
        f"{results['load_average']:.1f}",
        "",
        "| batch 1 | p50 ms | p99 ms | steps/s | CPU ms | steps a CPU-second |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in results["variants"].items():
        lines.append(
            f"| {name} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['steps_a_second']:.1f} | "
            f"{row['cpu_ms']:.1f} | {row['steps_a_cpu_second']:.1f} |"
        )
    lines.append(f"| floor | {floor['ms']:.1f} | | {1e3 / floor['ms']:.1f} | | |")
    lines += ["", "| part | CPU ms | floor ms | MB read | at GB/s | GFLOP |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, cpu_ms in results["parts_ms"].items():
        row = floor["parts"][name]
        lines.append(
            f"| {name} | {cpu_ms:.1f} | {row['ms']:.2f} | {row['megabytes_read']:.1f} | "
            f"{row['gigabytes_a_second']:.0f} | {row['gigaflop']:.3f} |"
        )
    lines += ["", f"matrix products: {floor['gemm_gigaflops']:.0f} GFLOP/s", ""]
    lines += ["| batch | frames/s | frames a CPU-second |", "| --- | --- | --- |"]
    for size, row in results["batched"].items():
        lines.append(
            f"| {size} | {row['frames_a_second']:.1f} | {row['frames_a_cpu_second']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
