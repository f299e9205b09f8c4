"""Speed of sampling from the published prior: python -m benchmarks.sampling

At the paper's ViZDoom size on one CPU thread: 16 layers, width 512, 8192 codes, batch 1. Compares
our cache with one that attends to its full length under a mask for every code, as the original
does, with the same weights, at three positions in the clip, because the past grows. Variants
alternate. The weights are random, and the past counts as filled.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import (
    Output,
    Results,
    in_turns,
    measured_on,
    run_benchmark,
    use_device,
)
from worldmodel import randomness
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, Table
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import draw_codes
from worldmodel.prior.layers import normalise
from worldmodel.videogpt.attention import visible
from worldmodel.videogpt.configs import PUBLISHED, VideoGPTConfig
from worldmodel.videogpt.gpt import GPT, Conditions, GPTCache
from worldmodel.videogpt.gpt_layers import PriorBlock, merge_heads, split_heads

SAMPLING = Sampling()
ACTIONS = ActionSpec("discrete", (4,))  # of Health Gathering
CODES_A_TURN = 8
ATTENTIONS: tuple[Literal["dense", "sparse"], ...] = ("dense", "sparse")

# (the code before position i, i) -> the logits at i
Logits = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Options(Output):
    """Measure the sampling of codes, batch 1."""

    preset: str = "vizdoom-hgs"
    """The published preset whose sizes to use."""
    tokens: int = 64
    """Codes sampled by each variant at each of three positions in the clip."""
    device: Literal["cpu", "cuda"] = "cpu"
    """One CPU thread, or a GPU."""


class WholeLength:
    """The same prior with a cache that attends to all N tokens under a mask for every code.

    The layout of keys and values suits the scores, and the mask is made once per code: as fast as
    such a cache can be in plain PyTorch.
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

        def attend(cached: Tensor, qkv: Tensor) -> Tensor:
            q, k, v = split_heads(qkv, 3, num_heads)
            keys, values = cached
            keys[:, :, i : i + 1], values[:, :, i : i + 1] = k, v
            scores = q @ keys.mT / q.shape[-1] ** 0.5
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            return merge_heads(weights @ values)

        x = prior.vectors(codes[:, None], i - 1) + self.cache.positions[i]
        for block, of_block, cached in zip(
            prior.blocks, self.cache.blocks, self.keys_values, strict=True
        ):
            x = cast(PriorBlock, block).step(x, of_block, partial(attend, cached), 0.0)
        head = prior.heads[i % prior.num_books]
        return head(normalise(x, self.cache.norm))[:, 0]


@torch.no_grad()
def measure(options: Options) -> Results:
    if options.preset not in PUBLISHED:
        raise UserError(f"--preset must be one of {', '.join(PUBLISHED)}, not {options.preset}")
    most = int(np.prod(PUBLISHED[options.preset].tokenizer.latent_shape)) // 3
    if not 2 <= options.tokens <= most:
        raise UserError(f"--tokens must be from 2 to {most}, not {options.tokens}")
    use_device(options.device)
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
    variants: dict[str, Logits] = {}
    for attention in ATTENTIONS:
        # Weights and storage are shared, because their content does not affect the time.
        variant = copy.copy(prior)
        variant.config = replace(sizes, attention=attention)
        variants[f"ours, {attention}"] = _ours(variant, cache)
        variants[f"whole length, {attention}"] = WholeLength(variant, cache, whole_length)
    last = prior.num_tokens - options.tokens
    places = {"early": options.tokens, "middle": last // 2, "late": last}
    by_place = {place: _ms_a_code(variants, first, options) for place, first in places.items()}
    return {
        "preset": options.preset,
        "device": options.device,
        "parameters": sum(p.numel() for p in prior.parameters()),
        "latent_shape": list(prior.latent_shape),
        "tokens": options.tokens,
        "places": places,
        "ms": {name: {place: ms[name] for place, ms in by_place.items()} for name in variants},
    }


def _ours(prior: GPT, cache: GPTCache) -> Logits:
    def logits_of(codes: Tensor, i: int) -> Tensor:
        return prior.decode_one_token(replace(cache, length=i), codes)[0]

    return logits_of


def _ms_a_code(variants: dict[str, Logits], first: int, options: Options) -> dict[str, float]:
    """Milliseconds per code of each variant: CPU time, or wall-clock time of a GPU."""

    def sampler(logits_of: Logits) -> Callable[[], None]:
        """Each call samples the next code."""
        positions = count(first)
        codes = torch.zeros(1, dtype=torch.int64, device=options.device)

        @torch.no_grad()
        def sample() -> None:
            nonlocal codes
            logits = logits_of(codes, next(positions))
            codes = draw_codes(logits, torch.rand(1, device=options.device), SAMPLING)

        return sample

    times = in_turns(
        {name: sampler(logits_of) for name, logits_of in variants.items()},
        dict.fromkeys(variants, options.tokens - 1),  # the first one warms up
        turn=CODES_A_TURN,
        device=options.device,
    )
    return {
        name: float(np.mean(of.cpu_ms if options.device == "cpu" else of.wall_ms))
        for name, of in times.items()
    }


def _conditions(config: VideoGPTConfig, device: str) -> Conditions:
    _, height, width, channels = config.tokenizer.clip_shape
    size, num_frames = config.condition_size, config.prior.given_frames
    vector = torch.rand(1, size, device=device) if size else None
    frames = torch.rand(1, channels, num_frames, height, width, device=device) - 0.5
    return Conditions(vector, frames if num_frames else None)


def tables(results: Results) -> Blocks:
    places = results["places"]
    shape = " x ".join(map(str, results["latent_shape"]))
    first_codes = ", ".join(f"{place} from {first}" for place, first in places.items())
    mean_ms = {name: float(np.mean(list(ms.values()))) for name, ms in results["ms"].items()}
    rows = []
    for name, ms in results["ms"].items():
        whole = mean_ms["whole length, " + name.split(", ")[1]]
        rates = [*(1e3 / ms[place] for place in places), 1e3 / mean_ms[name]]
        rows.append([name, *(f"{x:.1f}" for x in (*rates, whole / mean_ms[name]))])
    return [
        f"{results['preset']}, {results['parameters'] / 1e6:.1f}M parameters, clips of {shape} "
        f"codes, batch 1, fp32; {results['tokens']} codes each ({first_codes})",
        measured_on(results),
        Table(["codes per second", *places, "all three", "speed-up"], rows),
    ]


if __name__ == "__main__":
    run_benchmark("sampling", Options, measure, tables)
