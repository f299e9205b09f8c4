"""What a training step costs, computed without data, and a preset's description as text."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from worldmodel.storage.files import parse_json

# Operations that PyTorch's counter leaves out. Masked products count like others.
ATTENTION_FLOPS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
# Entries of configs that have lines of their own.
SHOWN_ELSEWHERE = {"clip_shape", "frame_shape", "num_actions", "on_class", "given_frames"}
LEARNING_CURVE = Path(__file__).with_name("learning_curve.json")  # of benchmarks.learning_curve
JUDGED_AT = "8"  # steps ahead, on the learning curve
BYTES_A_PARAMETER = 16  # in fp32: weight, gradient, and the two moments of Adam


def to_lines(described: dict[str, Any]) -> list[str]:
    """A description as lines of text."""
    shape = "x".join(str(size) for size in described["latent_shape"])
    lines = [
        f"preset       {described['preset']}: {described['source']}",
        f"data         {described['data']}",
        f"frames       {'x'.join(str(size) for size in described['clip_shape'])}",
        f"latents      {shape}, {described['codebooks']} codebook"
        f"{'s' * (described['codebooks'] > 1)} of {described['codes']} codes",
        f"tokens       {described['tokens']} {described['tokens_of']}, "
        f"{described['tokens_a_frame']:g} a frame",
        f"conditions   {described['conditions']}",
        "",
    ]
    for stage in ("vqvae", "prior"):
        recipe, cost = described["recipe"][stage], described["step"][stage]
        lines += [
            f"{stage:12} {_short(described['parameters'][stage])} parameters: "
            + ", ".join(f"{k} {_short(n)}" for k, n in described["parts"][stage].items()),
            "  config     "
            + ", ".join(
                f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
                for k, v in described["config"][stage].items()
                if k not in SHOWN_ELSEWHERE
            ),
            f"  a step     {recipe['batch_size']} clips, {_short(cost['flops'])} FLOPs, "
            f"{cost['memory_bytes'] / 2**30:.2f} GiB "
            f"({cost['activation_bytes_a_clip'] / 2**30:.2f} GiB a clip)",
            f"  training   {recipe['steps']} steps at {recipe['learning_rate']:g}, "
            f"{_short(recipe['steps'] * cost['flops'])} FLOPs in all",
        ]
    if "frames_to_learn_from" in described:
        lines += ["", *compared(described["frames_to_learn_from"])]
    return lines


def compared(num_frames: int) -> list[str]:
    """What so many frames may be enough for, by the dreams of one world."""
    curve = parse_json(LEARNING_CURVE.read_bytes())
    longest = max(row["minutes"] for row in curve["rows"])
    rows = sorted(
        (row for row in curve["rows"] if row["minutes"] == longest), key=lambda row: row["frames"]
    )
    frames = [f"{row['frames']:,.0f}" for row in rows]
    gains = [f"{row['above_copying'][JUDGED_AT]['value']:.1f}" for row in rows]
    return [
        f"learns from  {num_frames:,} frames",
        f"  compare    {curve['env_id']}: {longest:g} minutes of one core on "
        f"{' / '.join(frames)} frames gave dreams {' / '.join(gains)} dB better than copying the "
        f"last frame, {JUDGED_AT} steps ahead",
    ]


def described(
    name: str,
    preset: Any,
    *,
    model: Any,
    losses: tuple[Callable[[], Tensor], Callable[[], Tensor]],
    source: str,
    clip_shape: Sequence[int],
    conditions: str,
    condition_size: int,
    frames_of_tokens: int,
) -> dict[str, Any]:
    """Sizes and costs of a preset, in JSON's types.

    FLOPs count matrix products and convolutions, forward and backward, two per multiplication and
    addition. Memory counts weights, gradients and Adam's moments in fp32, and the activations
    saved for the backward pass; a codebook's distances come on top.

    Args:
        model: made of the preset.
        losses: of tokenizer and prior, for one clip.
        frames_of_tokens: frames that one grid of tokens stands for.
    """
    sizes, books = preset.tokenizer, preset.tokenizer.num_codebooks
    tokens = math.prod(sizes.grid) * books
    stages = {
        "vqvae": (model.tokenizer, preset.tokenizer_recipe, losses[0]),
        "prior": (model.prior, preset.prior_recipe, losses[1]),
    }
    steps = {}
    for stage, (module, recipe, loss) in stages.items():
        flops, activations = _cost_of_a_clip(loss)
        steps[stage] = {
            "flops": recipe.batch_size * flops,
            "flops_a_clip": flops,
            "memory_bytes": BYTES_A_PARAMETER * _count(module) + recipe.batch_size * activations,
            "activation_bytes_a_clip": activations,
        }
    return {
        "preset": name,
        "data": preset.data,
        "source": source,
        "clip_shape": list(clip_shape),
        "conditions": conditions,
        "condition_size": condition_size,
        "latent_shape": [*sizes.grid, books] if books > 1 else list(sizes.grid),
        "codebooks": books,
        "codes": sizes.num_codes,
        "tokens": tokens,
        "tokens_of": "a frame" if frames_of_tokens == 1 else "a clip",
        "tokens_a_frame": tokens / frames_of_tokens,
        "config": {"vqvae": vars(sizes), "prior": vars(preset.prior)},
        "parameters": {stage: _count(module) for stage, (module, *_) in stages.items()},
        "parts": {stage: _parts(module) for stage, (module, *_) in stages.items()},
        "step": steps,
        "recipe": {stage: vars(recipe) for stage, (_, recipe, _) in stages.items()},
    }


def _cost_of_a_clip(loss: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs forward and backward, and bytes saved in between, each tensor counted once."""
    saved: dict[int, Any] = {}  # holds the storages, so that no address is used twice

    def save(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS)
    with FakeTensorMode(allow_non_fake_inputs=True), counter:  # computes shapes alone
        with saved_tensors_hooks(save, lambda tensor: tensor):
            value = loss()
        value.backward()
    return counter.get_total_flops(), sum(storage.nbytes() for storage in saved.values())


def _parts(module: nn.Module) -> dict[str, int]:
    """Parameters of each child that has any, the module's own ones last."""
    parts = {name: _count(part) for name, part in module.named_children()}
    parts["its own"] = sum(p.numel() for p in module.parameters(recurse=False))
    return {name: count for name, count in parts.items() if count}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _short(number: float) -> str:
    """Three digits and a letter: 51.1M."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"
