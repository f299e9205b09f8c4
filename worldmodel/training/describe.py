"""What a dream's preset is, before any data: its parts, its sizes, its costs."""

import math
from typing import Any

import torch
from torch import Tensor

from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import Preset
from worldmodel.dream import WorldModel
from worldmodel.training.costs import costs, latents
from worldmodel.training.prior_losses import prior_losses


def describe(name: str, preset: Preset) -> dict[str, Any]:
    """Sizes and costs of a dream's preset, in JSON's types; see `costs`."""
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
        "preset": name,
        "data": preset.data,
        "source": "a dream, to be lived in step by step",
        "clip_shape": [num_frames, *tokenizer.frame_shape],
        "conditions": f"each frame's action of {preset.actions.vector_size}",
        "condition_size": preset.actions.vector_size,
        **latents(tokenizer),
        "tokens": tokens,
        "tokens_of": "a frame",
        "tokens_a_frame": tokens,
        **costs(
            {
                "vqvae": (
                    model.tokenizer,
                    preset.tokenizer_recipe,
                    lambda: model.tokenizer(frames).loss,
                ),
                "prior": (model.prior, preset.prior_recipe, loss_of_prior),
            }
        ),
        "config": {"vqvae": vars(tokenizer), "prior": vars(preset.prior)},
    }
