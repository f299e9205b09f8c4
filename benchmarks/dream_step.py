"""Speed of a dream on one CPU thread: python -m benchmarks.dream_step

A step is everything that a player waits for: the frame's tokens, its pixels, reward and end. For
comparison: PyTorch's head, a plain GPT of the same width and depth, and the lower bound given by
memory bandwidth and arithmetic. Variants alternate. Wall-clock times are only meaningful on an idle
machine; CPU times are less affected.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Output, Results, in_turns, measured_on, run_benchmark, timed
from benchmarks.plain_gpt import PlainGPT
from worldmodel import randomness
from worldmodel.checkpoint import Checkpoint, load_checkpoint
from worldmodel.command import check_numbers
from worldmodel.dream import Dream, WorldModel
from worldmodel.evaluation.held_out import wander
from worldmodel.evaluation.tables import Blocks, Table
from worldmodel.interface.sampling import Sampling
from worldmodel.prior.layers import encode_actions

WARM_UP_STEPS = 3  # the first one compiles
STEPS_A_TURN = 5
BATCH_SIZES = (1, 4, 16)
GEMM_SIZE = 1024
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Options(Output):
    """Measure steps of a dream, batch 1, on one CPU thread."""

    checkpoint: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    steps: int = 200
    """Steps of each variant; of the plain GPT a tenth."""


class Dreamer:
    """Each call steps dreams from a checkpoint's first starts, with random held actions."""

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

    @torch.inference_mode()  # as in the environment
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
    """Each call samples and decodes a frame of a plain GPT of the same width, depth and window."""

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
        self.num_frames = 0
        self.last_code = torch.zeros(1, dtype=torch.int64)

    def __call__(self) -> None:
        spec, num_tokens = self.model.config.actions, self.gpt.num_tokens
        actions = torch.from_numpy(wander(self.rng, spec, 1, 1)[:, 0])
        uniforms = torch.from_numpy(self.rng.random((1, num_tokens), np.float32))
        first_slot = self.num_frames % self.model.config.prior.window * num_tokens
        codes = self.gpt.sample_frame(
            first_slot, self.last_code, encode_actions(spec, actions), uniforms, Sampling()
        )
        self.num_frames, self.last_code = self.num_frames + 1, codes[:, -1]
        tokenizer = self.model.config.tokenizer
        self.model.decode(codes.view(1, *tokenizer.grid, tokenizer.num_codebooks))


def measure(options: Options) -> Results:
    check_numbers(options, steps=1)
    torch.set_num_threads(1)
    checkpoint, steps = load_checkpoint(options.checkpoint), options.steps
    model = checkpoint.model
    torch_head = copy.deepcopy(model)
    torch_head.prior.sample_tokens = torch_head.prior.head.sample  # instead of the compiled head
    variants = {
        "as played": Dreamer(model, checkpoint, 1),
        "with PyTorch's head": Dreamer(torch_head, checkpoint, 1),
        "plain GPT, same width and layers": PlainDreamer(model),
    }
    num_steps = dict(zip(variants, (steps, steps, max(1, steps // 10)), strict=True))
    if model.config.prior.recalled:
        without_recall = copy.deepcopy(model)
        without_recall.prior.config = replace(without_recall.prior.config, recalled=0)
        variants["without older frames"] = Dreamer(without_recall, checkpoint, 1)
        num_steps["without older frames"] = steps
    times = in_turns(variants, num_steps, turn=STEPS_A_TURN, warm_up=WARM_UP_STEPS)
    batched = {}
    for size in BATCH_SIZES:
        calls, num_calls = {"": Dreamer(model, checkpoint, size)}, {"": max(1, steps // size)}
        summary = in_turns(calls, num_calls, warm_up=WARM_UP_STEPS)[""].summary()
        batched[str(size)] = {
            "frames_a_second": size * summary["steps_a_second"],
            "frames_a_cpu_second": size * summary["steps_a_cpu_second"],
        }
    return {
        "checkpoint": options.checkpoint,
        "variants": {name: of_variant.summary() for name, of_variant in times.items()},
        "parts_ms": _parts(model, checkpoint, steps),
        "floor": _floor(model, checkpoint),
        "batched": batched,
    }


def _parts(model: WorldModel, checkpoint: Checkpoint, steps: int) -> dict[str, float]:
    """CPU milliseconds per step of the head, the decoder, and the rest (the backbone)."""
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
    watched.draw_newest = timed("decoder", watched.draw_newest)
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
    """The lower bound of a step's time: each part reads its weights or does its arithmetic.

    The backbone and the decoder read their weights once per frame and multiply at the rate of a
    large matrix product; the head reads its weights for each token, from the CPU's cache. Rates are
    the best ones measured in this run, in CPU time, on as many bytes as the part has.
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
    if checkpoint.world.sampling.guidance:  # two contexts; one read of the weights could do
        head_flops *= 2
    decoder_flops = _flops(lambda: model.draw_newest(recent))
    head_bytes = FLOAT_BYTES * sum(
        p.numel() for p in [*head.blocks.parameters(), *head.logits.parameters()]
    )
    all_flops = _flops(_two_dreams_in_torch(copy.deepcopy(model), checkpoint)) // 2
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


def _two_dreams_in_torch(model: WorldModel, checkpoint: Checkpoint) -> Callable[[], None]:
    """A step of two dreams, which PyTorch computes: what is compiled isn't counted."""
    model.prior.sample_tokens = model.prior.head.sample
    return Dreamer(model, checkpoint, 2)


def _flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _gemm_rate() -> float:
    """Floating-point operations per second of a large matrix product."""
    a, b = torch.randn(GEMM_SIZE, GEMM_SIZE), torch.randn(GEMM_SIZE, GEMM_SIZE)
    return 2 * GEMM_SIZE**3 / _best_seconds(lambda: a @ b, 10)


def _read_rate(num_bytes: int) -> float:
    """Bytes per second of matrix-vector products with a matrix of so many bytes."""
    width = 256
    matrix = torch.randn(max(1, num_bytes // (FLOAT_BYTES * width)), width)
    vector = torch.randn(width)
    return matrix.numel() * FLOAT_BYTES / _best_seconds(lambda: matrix @ vector, 20)


def _best_seconds(call: Callable[[], Any], repeats: int) -> float:
    return min(timed(call)[1] for _ in range(repeats))


def tables(results: Results) -> Blocks:
    floor = results["floor"]
    columns = ("p50_ms", "p99_ms", "steps_a_second", "cpu_ms", "steps_a_cpu_second")
    variants = [
        [name, *(f"{row[column]:.1f}" for column in columns)]
        for name, row in results["variants"].items()
    ]
    variants.append(["lower bound", f"{floor['ms']:.1f}", "", f"{1e3 / floor['ms']:.1f}", "", ""])
    parts = [
        [
            name,
            f"{cpu_ms:.1f}",
            f"{(row := floor['parts'][name])['ms']:.2f}",
            f"{row['megabytes_read']:.1f}",
            f"{row['gigabytes_a_second']:.0f}",
            f"{row['gigaflop']:.3f}",
        ]
        for name, cpu_ms in results["parts_ms"].items()
    ]
    batched = [
        [size, f"{row['frames_a_second']:.1f}", f"{row['frames_a_cpu_second']:.1f}"]
        for size, row in results["batched"].items()
    ]
    return [
        f"{results['checkpoint']}, {measured_on(results)}",
        Table(
            ["batch 1", "p50 ms", "p99 ms", "steps/s", "CPU ms", "steps per CPU-second"], variants
        ),
        Table(["part", "CPU ms", "lower bound ms", "MB read", "at GB/s", "GFLOP"], parts),
        f"matrix products: {floor['gemm_gigaflops']:.0f} GFLOP/s",
        Table(["batch", "frames/s", "frames per CPU-second"], batched),
    ]


if __name__ == "__main__":
    run_benchmark("dream_step", Options, measure, tables)
