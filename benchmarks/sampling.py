"""How fast the published prior draws codes: python -m benchmarks.sampling

At the paper's ViZDoom size on one CPU thread: 16 layers, width 512, 8192 codes, batch 1. Beside
our cache, in turns on the same machine and with the same weights: a cache that attends its whole
length under a mask for every code, as the original does. Early, in the middle and late in a
clip, since the past grows. Weights are random and the past counts as filled.
"""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
import tyro
from torch import Tensor

from worldmodel import randomness
from worldmodel.command import run_command
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import draw_codes
from worldmodel.prior.layers import normalise
from worldmodel.storage.provenance import git_commit, machine
from worldmodel.videogpt.attention import visible
from worldmodel.videogpt.configs import PUBLISHED, VideoGPTConfig
from worldmodel.videogpt.gpt import GPT, Conditions, GPTCache
from worldmodel.videogpt.gpt_layers import PriorBlock, merge_heads, split_heads

SAMPLING = Sampling()
ACTIONS = ActionSpec("discrete", (4,))  # of health gathering
CODES_A_TURN = 8
ATTENTIONS: tuple[Literal["dense", "sparse"], ...] = ("dense", "sparse")

# The code before position i, and i -> logits of the code there
Draw = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Options:
    """Measure drawing of codes, batch 1."""

    preset: str = "vizdoom-hgs"
    """One of the published presets, for its sizes."""
    tokens: int = 64
    """Codes drawn by each variant at each of three places in the clip."""
    device: Literal["cpu", "cuda"] = "cpu"
    """One CPU thread, or a GPU."""
    json: bool = False
    """Print JSON instead of a table."""


class WholeLength:
    """The same prior, whose cache attends to all N tokens under a mask for every code.

    Keys and values lie as the scores want them, and the mask is made once a code: this is as
    fast as such a cache gets in plain PyTorch.
    """

    def __init__(self, prior: GPT, cache: GPTCache, keys_values: Tensor) -> None:
        self.prior, self.cache = prior, cache
        self.keys_values = keys_values  # (L, 2, B, heads, N, hs)

    def __call__(self, codes: Tensor, i: int) -> Tensor:
        """Logits of code i, given the code before it."""
        prior, num_heads = self.prior, self.prior.config.heads
        tokens = torch.arange(prior.num_tokens, device=codes.device)
        seen = tokens <= i
        if prior.config.attention == "sparse":
            seen = visible(torch.full_like(tokens, i), tokens, prior.latent_shape)

        def attend(kept: Tensor, qkv: Tensor) -> Tensor:
            q, k, v = split_heads(qkv, 3, num_heads)
            keys, values = kept
            keys[:, :, i : i + 1], values[:, :, i : i + 1] = k, v
            scores = q @ keys.mT / q.shape[-1] ** 0.5
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            return merge_heads(weights @ values)

        x = prior.vectors(codes[:, None], i - 1) + self.cache.positions[i]
        for block, of_block, kept in zip(
            prior.blocks, self.cache.blocks, self.keys_values, strict=True
        ):
            x = cast(PriorBlock, block).step(x, of_block, partial(attend, kept), 0.0)
        head = prior.heads[i % prior.num_books]
        return head(normalise(x, self.cache.norm))[:, 0]


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.sampling", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    if complaint := _complaint(options):
        raise UserError(f"{complaint}")
    torch.set_num_threads(1)
    results = {
        "commit": git_commit(),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        **measure(options),
    }
    print(json.dumps(results, indent=2) if options.json else table(results))


def _complaint(options: Options) -> str | None:
    """What is wrong with the options."""
    if options.preset not in PUBLISHED:
        return f"--preset must be one of {', '.join(PUBLISHED)}, not {options.preset}"
    most = int(np.prod(PUBLISHED[options.preset].tokenizer.latent_shape)) // 3
    if not 1 <= options.tokens <= most:
        return f"--tokens must be from 1 to {most}, not {options.tokens}"
    if options.device == "cuda" and not torch.cuda.is_available():
        return "there is no CUDA device here: leave --device out"
    return None


@torch.no_grad()
def measure(options: Options) -> dict[str, Any]:
    """Milliseconds a code of every variant at every place."""
    randomness.seed_torch(0, "benchmark: sampling")
    preset = PUBLISHED[options.preset]
    config, sizes = VideoGPTConfig(preset.tokenizer, preset.prior, ACTIONS), preset.prior
    prior = GPT(config).to(options.device).eval()
    nothing = torch.zeros(1, 0, dtype=torch.int64, device=options.device)
    _, cache = prior.prefill(_conditions(config, options.device), nothing)
    cache.keys_values.normal_()
    head_size = sizes.width // sizes.heads
    shape = (sizes.layers, 2, 1, sizes.heads, prior.num_tokens, head_size)
    whole_length = torch.randn(shape, device=options.device)
    draws: dict[str, Draw] = {}
    for attention in ATTENTIONS:
        # Weights and storage are shared: what they hold does not change how long it takes.
        variant = copy.copy(prior)
        variant.config = replace(sizes, attention=attention)
        draws[f"ours, {attention}"] = _ours(variant, cache)
        draws[f"whole length, {attention}"] = WholeLength(variant, cache, whole_length)
    last = prior.num_tokens - options.tokens
    places = {"early": options.tokens, "middle": last // 2, "late": last}
    by_place = {
        place: _in_turns(draws, first, options.tokens, options.device)
        for place, first in places.items()
    }
    return {
        "preset": options.preset,
        "device": options.device,
        "parameters": sum(p.numel() for p in prior.parameters()),
        "latent_shape": list(prior.latent_shape),
        "tokens": options.tokens,
        "places": places,
        "ms": {name: {place: ms[name] for place, ms in by_place.items()} for name in draws},
    }


def _ours(prior: GPT, cache: GPTCache) -> Draw:
    def logits_of(codes: Tensor, i: int) -> Tensor:
        return prior.decode_one_token(replace(cache, length=i), codes)[0]

    return logits_of


def _in_turns(draws: dict[str, Draw], first: int, num_codes: int, device: str) -> dict[str, float]:
    """Milliseconds a code of each variant, a few codes of each at a time: what else runs hits all
    alike."""
    ms = dict.fromkeys(draws, 0.0)
    codes = torch.zeros(1, dtype=torch.int64, device=device)
    for logits_of in draws.values():  # warm up
        logits_of(codes, first)
    for begin in range(first, first + num_codes, CODES_A_TURN):
        end = min(begin + CODES_A_TURN, first + num_codes)
        for name, logits_of in draws.items():
            began = _milliseconds(device)
            for i in range(begin, end):
                uniforms = torch.rand(1, device=device)
                codes = draw_codes(logits_of(codes, i), uniforms, SAMPLING)
            ms[name] += _milliseconds(device) - began
    return {name: total / num_codes for name, total in ms.items()}


def _milliseconds(device: str) -> float:
    """CPU time of this thread, or the wall's once the GPU is done."""
    if device == "cpu":
        return 1e3 * time.thread_time()
    torch.cuda.synchronize()
    return 1e3 * time.perf_counter()


def _conditions(config: VideoGPTConfig, device: str) -> Conditions:
    _, height, width, channels = config.tokenizer.clip_shape
    size, num_frames = config.condition_size, config.prior.given_frames
    vector = torch.rand(1, size, device=device) if size else None
    frames = torch.rand(1, channels, num_frames, height, width, device=device) - 0.5
    return Conditions(vector, frames if num_frames else None)


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    on, places = results["machine"], results["places"]
    where = on["gpu"] if results["device"] == "cuda" else f"one thread of {on['cpu']}"
    shape = " x ".join(map(str, results["latent_shape"]))
    first_codes = ", ".join(f"{place} from {first}" for place, first in places.items())
    lines = [
        f"{results['preset']}, {results['parameters'] / 1e6:.1f}M parameters, clips of {shape} "
        f"codes, batch 1, fp32; {results['tokens']} codes each ({first_codes})",
        "",
        f"{where}, torch {on['torch']}, commit {(results['commit'] or 'unknown')[:12]}, load "
        f"average {results['load_average']:.1f}",
        "",
        "| codes a second | " + " | ".join(places) + " | all three | times as fast |",
        "| --- | " + " | ".join("---" for _ in places) + " | --- | --- |",
    ]
    mean_ms = {name: float(np.mean(list(ms.values()))) for name, ms in results["ms"].items()}
    for name, ms in results["ms"].items():
        whole = mean_ms["whole length, " + name.split(", ")[1]]
        rates = " | ".join(f"{1e3 / ms[place]:.1f}" for place in places)
        lines.append(
            f"| {name} | {rates} | {1e3 / mean_ms[name]:.1f} | {whole / mean_ms[name]:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
