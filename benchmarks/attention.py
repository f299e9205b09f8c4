"""Causal attention over a clip's tokens, forward and backward: python -m benchmarks.attention

At the paper's ViZDoom size: 8192 tokens, width 512, 4 heads, batch 1, fp32. Side by side: scores
and a float mask of N x N made in full, as in the original; PyTorch's fused dense attention; our
sparse attention; and FlexAttention where it has a backward pass. Each in a process of its own,
for its peak of memory; what is there before (inputs, PyTorch itself) doesn't count. One CPU
thread, CPU time; or a GPU, wall-clock time.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.cost import MEBIBYTE, in_a_process, memory_now, memory_peak, seconds_of
from worldmodel import randomness
from worldmodel.command import run_command
from worldmodel.errors import UserError
from worldmodel.storage.provenance import git_commit, machine
from worldmodel.videogpt.attention import (
    LatentShape,
    dense_attention,
    flex_sparse_attention,
    gathered_sparse_attention,
    visible,
)

MATERIALISED, DENSE = "materialised, dense", "fused, dense"
GATHERED, FLEX = "gathered, sparse", "FlexAttention, sparse"


@dataclass(frozen=True)
class Options:
    """Measure attention, forward and backward."""

    latent_shape: tuple[int, int, int, int] = (8, 32, 32, 1)
    """Frames, rows, columns and codebooks of a clip's codes."""
    width: int = 512
    """Of the transformer."""
    heads: int = 4
    """Of the transformer."""
    repeats: int = 3
    """Timed passes of each variant, after one that isn't."""
    device: Literal["cpu", "cuda"] = "cpu"
    """One CPU thread, or a GPU."""
    variant: str | None = None
    """Measure this variant alone, in this process, and print JSON."""
    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.attention", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    if complaint := _complaint(options):
        raise UserError(f"{complaint}")
    torch.set_num_threads(1)
    if options.variant is not None:
        print(json.dumps(measure_here(options, options.variant)))
        return
    results = {
        "commit": git_commit(),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        **measure(options),
    }
    print(json.dumps(results, indent=2) if options.json else table(results))


def _complaint(options: Options) -> str | None:
    """What is wrong with the options."""
    if min(*options.latent_shape, options.width, options.heads, options.repeats) < 1:
        return "--latent-shape, --width, --heads and --repeats must be at least 1"
    if options.width % options.heads:
        return f"--width {options.width} can't be shared by --heads {options.heads}"
    if options.device == "cuda" and not torch.cuda.is_available():
        return "there is no CUDA device here: leave --device out"
    if options.variant not in (None, *variants(options)):
        return f"--variant must be one of {', '.join(variants(options))}, not {options.variant}"
    return None


def variants(options: Options) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """What is measured, by name."""
    shape: LatentShape = options.latent_shape
    found = {
        MATERIALISED: materialised_attention,
        DENSE: dense_attention,
        GATHERED: lambda q, k, v: gathered_sparse_attention(q, k, v, shape),
    }
    if options.device == "cuda":  # on a CPU it has no backward pass (torch 2.13)
        found[FLEX] = lambda q, k, v: flex_sparse_attention(q, k, v, shape)
    return found


def materialised_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in the original: a float mask, scores and weights, N x N each."""
    num_tokens = q.shape[-2]
    mask = torch.full((num_tokens, num_tokens), -torch.inf, device=q.device).triu(1)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + mask
    return scores.softmax(-1) @ v


def measure(options: Options) -> dict[str, Any]:
    """Every variant in a process of its own."""
    arguments = ["--latent-shape", *map(str, options.latent_shape)]
    for name in ("width", "heads", "repeats", "device"):
        arguments += [f"--{name}", str(getattr(options, name))]
    rows = {
        name: in_a_process("benchmarks.attention", arguments, name) for name in variants(options)
    }
    return {**described(options), "variants": rows}


def described(options: Options) -> dict[str, Any]:
    """The sizes measured, and how many keys of all that sparse attention sees."""
    return {
        "latent_shape": list(options.latent_shape),
        "width": options.width,
        "heads": options.heads,
        "device": options.device,
        "mean_keys": _mean_keys(options.latent_shape),
    }


def _mean_keys(latent_shape: LatentShape) -> float:
    """Keys that sparse attention sees, a query."""
    tokens = torch.arange(int(np.prod(latent_shape)))
    seen = [visible(part[:, None], tokens, latent_shape).sum() for part in tokens.split(256)]
    return float(torch.stack(seen).sum()) / len(tokens)


def measure_here(options: Options, name: str) -> dict[str, float]:
    """Milliseconds of a pass, and the most mebibytes that it took on top of its inputs."""
    randomness.seed_torch(0, "benchmark: attention")
    attend = variants(options)[name]
    num_tokens, head_size = int(np.prod(options.latent_shape)), options.width // options.heads
    shape = (1, num_tokens, 3, options.heads, head_size)
    qkv = torch.randn(shape, device=options.device, requires_grad=True)
    grad = torch.randn(1, options.heads, num_tokens, head_size, device=options.device)

    def work() -> None:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        torch.autograd.grad(attend(q, k, v), qkv, grad)

    before = memory_now(options.device)
    times = [seconds_of(work, options.device) for _ in range(1 + options.repeats)]
    peak = memory_peak(options.device) - before
    return {"ms": 1e3 * float(np.median(times[1:])), "peak_mebibytes": peak / MEBIBYTE}


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    on = results["machine"]
    where = on["gpu"] if results["device"] == "cuda" else f"one thread of {on['cpu']}"
    shape = " x ".join(map(str, results["latent_shape"]))
    lines = [
        f"Causal attention, forward and backward, {np.prod(results['latent_shape'])} tokens "
        f"({shape}), width {results['width']}, {results['heads']} heads, batch 1, fp32; a token "
        f"sees {results['mean_keys']:.0f} keys on average where sparse",
        "",
        f"{where}, torch {on['torch']}, commit {(results['commit'] or 'unknown')[:12]}, load "
        f"average {results['load_average']:.1f}",
        "",
        "| attention | ms | times as fast | peak MiB | of its memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    whole = results["variants"][MATERIALISED]
    for name, row in results["variants"].items():
        share = row["peak_mebibytes"] / whole["peak_mebibytes"] if whole["peak_mebibytes"] else 0
        lines.append(
            f"| {name} | {row['ms']:.0f} | {whole['ms'] / row['ms']:.1f} | "
            f"{row['peak_mebibytes']:.0f} | {100 * share:.1f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
