"""What a preset as published is, before any data: its parts, its sizes, its costs."""

import math
from typing import Any

import torch

from worldmodel.training.costs import costs, latents
from worldmodel.videogpt.attention import sparse_attention
from worldmodel.videogpt.configs import VideoGPTConfig
from worldmodel.videogpt.gpt import Conditions
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.presets import PublishedPreset


def describe(name: str, preset: PublishedPreset) -> dict[str, Any]:
    """Sizes and costs of a preset, in JSON's types; see `costs`."""
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
        "preset": name,
        "data": preset.data,
        "source": preset.source,
        "clip_shape": list(tokenizer.clip_shape),
        "conditions": " and ".join(text for text in named.values() if text) or "none",
        "condition_size": config.condition_size,
        **latents(tokenizer),
        "tokens": math.prod(tokenizer.latent_shape),
        "tokens_of": "a clip",
        "tokens_a_frame": math.prod(tokenizer.latent_shape) / num_frames,
        **costs(
            {
                "vqvae": (
                    model.tokenizer,
                    preset.tokenizer_recipe,
                    lambda: model.tokenizer(clips).loss,
                ),
                "prior": (
                    model.prior,
                    preset.prior_recipe,
                    lambda: model.prior(codes, conditions).float().mean(),
                ),
            }
        ),
        "config": {"vqvae": vars(tokenizer), "prior": vars(preset.prior)},
    }
