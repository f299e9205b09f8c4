"""Cost of causal attention, forward and backward: python -m benchmarks.attention

At the paper's ViZDoom size: 8192 tokens, width 512, 4 heads, batch 1, fp32. Variants: N x N scores
and mask in memory, as in the original; PyTorch's fused dense attention; our sparse attention; and
on a GPU, FlexAttention. Each runs in its own process, for its peak of memory above what was
allocated before: CPU time of one thread, or wall-clock time of a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import (
    MEBIBYTE,
    Output,
    Results,
    chosen_variants,
    in_own_process,
    measured_on,
    memory_now,
    memory_peak,
    run_benchmark,
    seconds_of,
    use_device,
)
from worldmodel import randomness
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, Table
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
class Options(Output):
    """Measure attention, forward and backward."""

    latent_shape: tuple[int, int, int, int] = (8, 32, 32, 1)
    """Frames, rows, columns and codebooks of a clip's codes."""
    width: int = 512
    """Width of the transformer."""
    heads: int = 4
    """Heads of the transformer."""
    repeats: int = 3
    """Timed passes of each variant, after one for warming up."""
    device: Literal["cpu", "cuda"] = "cpu"
    """One CPU thread, or a GPU."""
    variant: str | None = None
    """Measure only this variant, for example "fused, dense"."""


def measure(options: Options) -> Results:
    if min(*options.latent_shape, options.width, options.heads, options.repeats) < 1:
        raise UserError("--latent-shape, --width, --heads and --repeats must be at least 1")
    if options.width % options.heads:
        raise UserError(f"--width {options.width} must be a multiple of --heads {options.heads}")
    use_device(options.device)
    chosen = chosen_variants(list(variants(options)), options.variant)
    return {
        "latent_shape": list(options.latent_shape),
        "width": options.width,
        "heads": options.heads,
        "device": options.device,
        "mean_keys": _mean_keys(options.latent_shape),
        "variants": in_own_process(measure_here, options, chosen),
    }


def variants(options: Options) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """The attention functions, by name."""
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
    """Attention as in the original, with N x N mask, scores and weights in memory."""
    num_tokens = q.shape[-2]
    mask = torch.full((num_tokens, num_tokens), -torch.inf, device=q.device).triu(1)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + mask
    return scores.softmax(-1) @ v


def _mean_keys(latent_shape: LatentShape) -> float:
    """Mean number of keys per query in sparse attention."""
    tokens = torch.arange(int(np.prod(latent_shape)))
    seen = [visible(part[:, None], tokens, latent_shape).sum() for part in tokens.split(256)]
    return float(torch.stack(seen).sum()) / len(tokens)


def measure_here(options: Options, name: str) -> dict[str, float]:
    """Milliseconds per pass, and its peak of memory in mebibytes, without its inputs."""
    use_device(options.device)
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


def tables(results: Results) -> Blocks:
    shape = " x ".join(map(str, results["latent_shape"]))
    whole = results["variants"].get(MATERIALISED)
    rows = []
    for name, row in results["variants"].items():
        faster = memory = ""
        if whole is not None:
            faster = f"{whole['ms'] / row['ms']:.1f}"
            memory = f"{100 * row['peak_mebibytes'] / max(whole['peak_mebibytes'], 1e-9):.1f} %"
        rows.append([name, f"{row['ms']:.0f}", faster, f"{row['peak_mebibytes']:.0f}", memory])
    return [
        f"Causal attention, forward and backward, {np.prod(results['latent_shape'])} tokens "
        f"({shape}), width {results['width']}, {results['heads']} heads, batch 1, fp32; a token "
        f"sees {results['mean_keys']:.0f} keys on average where sparse",
        measured_on(results),
        Table(["attention", "ms", "speed-up", "peak MiB", "relative memory"], rows),
    ]


if __name__ == "__main__":
    run_benchmark("attention", Options, measure, tables)
