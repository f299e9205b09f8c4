"""The first stage: the tokenizer learns single frames."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel import randomness
from worldmodel.configs.presets import StageRecipe
from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.errors import UserError
from worldmodel.media.film import save_png, sheet
from worldmodel.media.frames import to_float, to_uint8
from worldmodel.metrics.pictures import psnr
from worldmodel.training.trainer import Stage

NUM_VALIDATION_FRAMES = 512
PREVIEW_FRAMES = 16


class TokenizerStage(Stage):
    """Trains a VQ-VAE on single frames."""

    name = "tokenizer"

    def __init__(
        self,
        module: Any,
        reader: EpisodeReader,
        recipe: StageRecipe,
        *,
        memory_limit_bytes: int,
        device: torch.device,
    ) -> None:
        self.module, self.recipe, self.device = module, recipe, device
        self.clips = ClipSampler(reader, "train", recipe.num_frames, memory_limit_bytes)
        validation = ClipSampler(reader, "validation", recipe.num_frames, memory_limit_bytes)
        rng = randomness.generator(0, "tokenizer validation")
        rows = validation.draw(rng, -(-NUM_VALIDATION_FRAMES // recipe.num_frames))
        self.validation_clips = torch.from_numpy(validation.read(rows).frames)
        sample = self.clips.read(self.clips.draw(rng, 2000 // recipe.num_frames)).frames
        if sample.min() == sample.max():
            raise UserError(
                f"{reader.folder}: every pixel of {len(sample)} clips has the same value, so there "
                "is nothing to learn: look at what was recorded"
            )
        module.data_variance.fill_(float(to_float(torch.from_numpy(sample)).var()))

    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        rows = self.clips.draw(rng, self.recipe.batch_size)[part]
        clips = torch.from_numpy(self.clips.read(rows).frames)
        out = module(self.to_float(clips.to(self.device)))
        return {"loss": out.loss, "nmse": out.nmse, "commitment": out.commitment_loss}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR in dB of the mean squared error, and the number of codes in use."""
        squared_error, num_values, used = 0.0, 0, set()
        for clips in self.validation_clips.split(max(1, 64 // self.recipe.num_frames)):
            codes = self.module.encode(self.to_float(clips.to(self.device)))
            decoded = self.to_uint8(self.module.decode(codes)).cpu()
            squared_error += float((decoded.double() - clips.double()).square().sum()) / 255**2
            num_values += clips.numel()
            used |= set(codes.unique().tolist())
        mean_squared_error = squared_error / num_values
        return {
            "psnr": psnr(mean_squared_error),
            "nmse": mean_squared_error / float(self.module.data_variance),
            "codes_used": len(used),
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Real frames above their reconstructions."""
        num_clips = max(1, PREVIEW_FRAMES // self.recipe.num_frames)
        clips = self.validation_clips[:: max(1, len(self.validation_clips) // num_clips)]
        clips = clips[:num_clips]
        codes = self.module.encode(self.to_float(clips.to(self.device)))
        decoded = self.to_uint8(self.module.decode(codes)).cpu()
        rows = [clips.flatten(0, 1).numpy(), decoded.flatten(0, 1).numpy()]
        save_png(path, sheet(rows, scale=2))

    def to_float(self, clips: Tensor) -> Tensor:
        """Clips (B, T, H, W, C) as the module takes them: single frames (B T, C, H, W)."""
        return to_float(clips.flatten(0, 1))

    def to_uint8(self, out: Tensor) -> Tensor:
        """The module's output as clips (B, T, H, W, C)."""
        return to_uint8(out).unflatten(0, (-1, self.recipe.num_frames))
