"""What a preset is, before any data: its parts, sizes, and what a step of training costs."""

import math
from collections.abc import Callable
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

from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import Preset
from worldmodel.configs.recipe import StageRecipe
from worldmodel.dream import WorldModel
from worldmodel.training.prior_losses import prior_losses
from worldmodel.videogpt.attention import sparse_attention
from worldmodel.videogpt.configs import VideoGPTConfig
from worldmodel.videogpt.gpt import Conditions
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.presets import PublishedPreset

# Of the operations that PyTorch's counter leaves out. Masked products count like others.
ATTENTION_FLOPS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
# Parts of configs that have lines of their own.
SHOWN_ELSEWHERE = {"clip_shape", "frame_shape", "num_actions", "on_class", "given_frames"}
BYTES_A_PARAMETER = 16  # in fp32: weight, gradient, and the two moments of Adam


def describe(name: str, preset: Preset | PublishedPreset) -> dict[str, Any]:
    """Sizes and costs of a preset, in JSON's types.

    FLOPs are those of matrix products and convolutions, forward and backward, two for a
    multiplication and addition. Memory is that of weights, gradients and Adam's moments in fp32,
    and of the activations kept for the backward pass; a codebook's distances come on top.
    """
    described = _published(preset) if isinstance(preset, PublishedPreset) else _dream(preset)
    configs = {"vqvae": vars(preset.tokenizer), "prior": vars(preset.prior)}
    return {"preset": name, **described, "config": configs}


def to_lines(described: dict[str, Any]) -> list[str]:
    """The same for people."""
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
    return lines


def _published(preset: PublishedPreset) -> dict[str, Any]:
    tokenizer = preset.tokenizer
    names = ("a", "b") if preset.prior.on_class else ()
    config = VideoGPTConfig(tokenizer, preset.prior, preset.actions, names)
    model = VideoGPT(config).eval()
    num_frames, height, width, channels = tokenizer.clip_shape
    clips = torch.zeros(1, channels, num_frames, height, width)
    codes = torch.zeros(1, *tokenizer.latent_shape, dtype=torch.int64)
    given = clips[:, :, : preset.prior.given_frames] if preset.prior.given_frames else None
    vector = torch.zeros(1, config.condition_size) if config.condition_size else None
    conditions = Conditions(vector=vector, frames=given)
    if preset.prior.attention == "sparse":  # who sees whom is worked out, and kept, outside fakes
        tokens = torch.zeros(1, 1, codes.numel(), 1)
        sparse_attention(tokens, tokens, tokens, tokenizer.latent_shape)
    named = {
        "actions": f"{preset.prior.num_actions} actions of {preset.actions.vector_size}"
        if preset.prior.num_actions
        else "",
        "class": "the class" if preset.prior.on_class else "",
        "frames": f"{preset.prior.given_frames} given frame"
        + f"{'s' * (preset.prior.given_frames > 1)}"
        if preset.prior.given_frames
        else "",
    }
    return {
        "data": preset.data,
        "source": preset.source,
        "clip_shape": list(tokenizer.clip_shape),
        "conditions": " and ".join(text for text in named.values() if text) or "none",
        "condition_size": config.condition_size,
        **_sizes(model, list(tokenizer.grid), tokenizer.num_codebooks, tokenizer.num_codes),
        "tokens": math.prod(tokenizer.latent_shape),
        "tokens_of": "a clip",
        "tokens_a_frame": math.prod(tokenizer.latent_shape) / num_frames,
        **_costs(
            preset,
            vqvae=(model.tokenizer, lambda: model.tokenizer(clips).loss),
            prior=(model.prior, lambda: model.prior(codes, conditions).float().mean()),
        ),
    }


def _dream(preset: Preset) -> dict[str, Any]:
    tokenizer = preset.tokenizer
    config = WorldModelConfig(
        preset.actions,
        preset.variable_names,
        tokenizer,
        preset.prior,
        preset.pose,
        preset.sharp_frames,
    )
    model = WorldModel(config).eval()
    height, width, channels = tokenizer.frame_shape
    num_frames = preset.prior_recipe.num_frames
    frames = torch.zeros(preset.tokenizer_recipe.num_frames, channels, height, width)
    codes = torch.zeros(1, num_frames, *tokenizer.grid, tokenizer.num_codebooks, dtype=torch.int64)

    def loss_of_prior() -> Tensor:
        return prior_losses(
            model.prior,
            model.prior,
            codes=codes,
            past_codes=codes[:, :-1],
            actions=torch.zeros(1, num_frames - 1, preset.actions.vector_size),
            reward=torch.zeros(1, num_frames - 1),
            terminated=torch.zeros(1, num_frames - 1, dtype=torch.bool),
            variables=torch.zeros(1, num_frames, len(preset.variable_names)),
            weights=torch.ones(1, num_frames - 1),
        ).loss

    tokens = math.prod(tokenizer.grid) * tokenizer.num_codebooks
    return {
        "data": preset.data,
        "source": "a dream, to be lived in step by step",
        "clip_shape": [num_frames, *tokenizer.frame_shape],
        "conditions": f"each frame's action of {preset.actions.vector_size}",
        "condition_size": preset.actions.vector_size,
        **_sizes(model, list(tokenizer.grid), tokenizer.num_codebooks, tokenizer.num_codes),
        "tokens": tokens,
        "tokens_of": "a frame",
        "tokens_a_frame": tokens,
        **_costs(
            preset,
            vqvae=(model.tokenizer, lambda: model.tokenizer(frames).loss),
            prior=(model.prior, loss_of_prior),
        ),
    }


def _sizes(
    model: WorldModel | VideoGPT, grid: list[int], num_codebooks: int, num_codes: int
) -> dict[str, Any]:
    stages = {"vqvae": model.tokenizer, "prior": model.prior}
    return {
        "latent_shape": grid if num_codebooks == 1 else [*grid, num_codebooks],
        "codebooks": num_codebooks,
        "codes": num_codes,
        "parameters": {stage: _count(module) for stage, module in stages.items()},
        "parts": {stage: _parts(module) for stage, module in stages.items()},
    }


def _costs(
    preset: Preset | PublishedPreset, **stages: tuple[nn.Module, Callable[[], Tensor]]
) -> dict[str, Any]:
    recipes: dict[str, StageRecipe] = {
        "vqvae": preset.tokenizer_recipe,
        "prior": preset.prior_recipe,
    }
    steps = {}
    for stage, (module, loss) in stages.items():
        flops, activations = _cost_of_a_clip(loss)
        batch_size = recipes[stage].batch_size
        steps[stage] = {
            "flops": batch_size * flops,
            "flops_a_clip": flops,
            "memory_bytes": BYTES_A_PARAMETER * _count(module) + batch_size * activations,
            "activation_bytes_a_clip": activations,
        }
    return {"step": steps, "recipe": {stage: vars(recipe) for stage, recipe in recipes.items()}}


def _cost_of_a_clip(loss: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs forward and backward, and bytes kept in between, each tensor counted once."""
    kept: dict[int, tuple[Any, int]] = {}  # holding the storage keeps its address its own

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = (storage, storage.nbytes())
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS)
    with FakeTensorMode(allow_non_fake_inputs=True), counter:  # only shapes are worked out
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss()
        value.backward()
    return counter.get_total_flops(), sum(num_bytes for _, num_bytes in kept.values())


def _parts(module: nn.Module) -> dict[str, int]:
    """Parameters of each part that has any, the module's own ones last."""
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
