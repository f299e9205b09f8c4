"""Steps of training VideoGPT as published: python -m benchmarks.train_step vizdoom-hgs

One clip a step, forward, backward and Adam, of the tokenizer and of the prior, in fp32 and bf16,
with and without recomputed activations; each in a process of its own, for its peak of memory. One
CPU thread, CPU time; or a GPU, wall-clock time. The data are noise: what is measured is the cost.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cost import MEBIBYTE, in_a_process, memory_now, memory_peak, seconds_of
from worldmodel import randomness
from worldmodel.command import run_command
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import table
from worldmodel.media.frames import clips_to_float
from worldmodel.storage.provenance import git_commit, machine
from worldmodel.training.trainer import make_optimizers
from worldmodel.videogpt.configs import PUBLISHED, VideoGPTConfig
from worldmodel.videogpt.model import VideoGPT

STAGES = ("vqvae", "prior")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Options:
    """Measure steps of training VideoGPT as published."""

    preset: tyro.conf.Positional[str] = "vizdoom-hgs"
    """Which sizes."""
    repeats: int = 2
    """Timed steps, after one that isn't."""
    device: Literal["cpu", "cuda"] = "cpu"
    """One CPU thread, or a GPU."""
    variant: str | None = None
    """Measure this variant alone, in this process, and print JSON."""
    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.train_step", description=__doc__)
    run_command(lambda: run(options))


def run(options: Options) -> None:
    """Do what the options say."""
    if options.preset not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UserError(f"unknown preset {options.preset!r}; the known ones are: {known}")
    if options.repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {options.repeats}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is at hand: leave --device out")
    torch.set_num_threads(1)
    if options.variant is not None:
        print(json.dumps(measure_here(options, options.variant)))
        return
    arguments = [options.preset, "--repeats", str(options.repeats), "--device", options.device]
    rows = {name: in_a_process("benchmarks.train_step", arguments, name) for name in variants()}
    results = {
        "preset": options.preset,
        "commit": git_commit(),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "variants": rows,
    }
    print(json.dumps(results, indent=2) if options.json else as_table(results))


def variants() -> list[str]:
    """Names as "vqvae bf16 recomputed"."""
    return [
        f"{stage} {precision}{recomputed}"
        for stage in STAGES
        for precision in PRECISIONS
        for recomputed in ("", " recomputed")
    ]


def measure_here(options: Options, variant: str) -> dict[str, float]:
    """Seconds and peak MiB of one variant, in this process."""
    stage, precision, *recomputed = variant.split()
    preset = PUBLISHED[options.preset]
    randomness.seed_torch(0, "benchmark: training steps")
    model = VideoGPT(VideoGPTConfig(preset.tokenizer, preset.prior, preset.actions))
    model = model.to(options.device).train()
    module = model.tokenizer if stage == "vqvae" else model.prior
    module.checkpoint_activations = bool(recomputed)
    recipe = preset.tokenizer_recipe if stage == "vqvae" else preset.prior_recipe
    (optimizer,) = make_optimizers(module, recipe)
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


def as_table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [
        [name, f"{row['s']:.2f}", f"{row['peak_mib']:.0f}", f"{row['model_mib']:.0f}"]
        for name, row in results["variants"].items()
    ]
    on = results["machine"]
    return "\n".join(
        [
            *table([f"{results['preset']}, 1 clip", "s a step", "peak MiB", "before it"], rows),
            "",
            f"{on['gpu'] or on['cpu']}, torch {on['torch']}, commit "
            f"{(results['commit'] or 'unknown')[:12]}, load average {results['load_average']:.1f}",
        ]
    )


if __name__ == "__main__":
    main()
