"""Cost of training VideoGPT as published: python -m benchmarks.train_step vizdoom-hgs

A step is forward, backward and Adam on one clip, of the tokenizer or of the prior, in fp32 or bf16,
with or without activation checkpointing. Each variant runs in its own process, for its peak of
memory: CPU time of one thread, or wall-clock time of a GPU. The data are noise.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

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
from worldmodel.command import check_numbers
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, Table
from worldmodel.media.frames import clips_to_float
from worldmodel.training.trainer import make_optimizers
from worldmodel.videogpt.configs import PUBLISHED, VideoGPTConfig
from worldmodel.videogpt.model import VideoGPT

VARIANTS = [
    f"{stage} {precision}{recomputed}"
    for stage in ("vqvae", "prior")
    for precision in ("fp32", "bf16")
    for recomputed in ("", " recomputed")
]


@dataclass(frozen=True)
class Options(Output):
    """Measure training steps of VideoGPT as published."""

    preset: tyro.conf.Positional[str] = "vizdoom-hgs"
    """The published preset whose sizes to use."""
    repeats: int = 2
    """Timed steps, after one for warming up."""
    device: Literal["cpu", "cuda"] = "cpu"
    """One CPU thread, or a GPU."""
    variant: str | None = None
    """Measure only this variant, for example "vqvae bf16 recomputed"."""


def measure(options: Options) -> Results:
    if options.preset not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UserError(f"unknown preset {options.preset!r}; the known ones are: {known}")
    check_numbers(options, repeats=1)
    use_device(options.device)
    variants = chosen_variants(VARIANTS, options.variant)
    return {
        "preset": options.preset,
        "device": options.device,
        "variants": in_own_process(measure_here, options, variants),
    }


def measure_here(options: Options, variant: str) -> dict[str, float]:
    """Seconds and peak MiB of one variant, in this process."""
    use_device(options.device)
    stage, precision, *recomputed = variant.split()
    preset = PUBLISHED[options.preset]
    randomness.seed_torch(0, "benchmark: training steps")
    model = VideoGPT(VideoGPTConfig(preset.tokenizer, preset.prior, preset.actions))
    model = model.to(options.device).train()
    module = model.tokenizer if stage == "vqvae" else model.prior
    module.checkpoint_activations = bool(recomputed)
    recipe = preset.tokenizer_recipe if stage == "vqvae" else preset.prior_recipe
    (optimizer,) = make_optimizers(module, recipe, torch.float32)
    clip = torch.randint(0, 256, (1, *preset.tokenizer.clip_shape), dtype=torch.uint8)
    clip = clip.to(options.device)

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=precision == "bf16"):
            loss = _loss(model, module, clip)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    before = memory_now(options.device)
    times = [seconds_of(step, options.device) for _ in range(1 + options.repeats)]
    peak = memory_peak(options.device)
    return {
        "s": sum(times[1:]) / options.repeats,
        "model_mib": before / MEBIBYTE,
        "peak_mib": peak / MEBIBYTE,
    }


def _loss(model: VideoGPT, module: nn.Module, clip: Tensor) -> Tensor:
    if module is model.tokenizer:
        return model.tokenizer(clips_to_float(clip)).loss
    config = model.config
    codes = torch.zeros(1, *config.tokenizer.latent_shape, dtype=torch.int64, device=clip.device)
    actions = torch.zeros(1, clip.shape[1] - 1, *config.actions.shape, device=clip.device)
    if config.actions.kind != "box":
        actions = actions.long()
    classes = torch.zeros(1, dtype=torch.int64, device=clip.device)
    logits = model.prior(codes, model.conditions(clip, actions, classes))
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def tables(results: Results) -> Blocks:
    rows = [
        [name, f"{row['s']:.2f}", f"{row['peak_mib']:.0f}", f"{row['model_mib']:.0f}"]
        for name, row in results["variants"].items()
    ]
    header = [f"{results['preset']}, 1 clip", "s per step", "peak MiB", "before the first step"]
    return [Table(header, rows), measured_on(results)]


if __name__ == "__main__":
    run_benchmark("train_step", Options, measure, tables)
