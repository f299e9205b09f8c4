"""The training stages of VideoGPT as published: the tokenizer, then the prior on its codes."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel import randomness
from worldmodel.command import progress_bar
from worldmodel.configs.presets import StageRecipe
from worldmodel.data import Clips, ClipSampler, EpisodeReader
from worldmodel.data.episodes import CLASS_VARIABLE
from worldmodel.interface.sampling import Sampling
from worldmodel.media.film import save_png, sheet
from worldmodel.media.frames import clips_to_float, clips_to_uint8
from worldmodel.training.tokenizer_stage import TokenizerStage
from worldmodel.training.trainer import Stage
from worldmodel.videogpt.model import VideoGPT

NUM_VALIDATION_TOKENS = 2**16
PREVIEW_ROWS = 2


class ClipTokenizerStage(TokenizerStage):
    """Trains a VQ-VAE on clips."""

    def to_float(self, clips: Tensor) -> Tensor:
        """Clips (B, T, H, W, C) as the module takes them, (B, C, T, H, W)."""
        return clips_to_float(clips)

    def to_uint8(self, out: Tensor) -> Tensor:
        """The module's output as clips (B, T, H, W, C)."""
        return clips_to_uint8(out)


class VideoPriorStage(Stage):
    """Trains the prior on the codes of clips; the tokenizer is frozen.

    A clip's codes depend on all its frames, so each clip is encoded when it is needed.
    """

    name = "prior"

    def __init__(
        self,
        model: VideoGPT,
        reader: EpisodeReader,
        recipe: StageRecipe,
        *,
        memory_limit_bytes: int,
        device: torch.device,
    ) -> None:
        self.model, self.module, self.recipe, self.device = model, model.prior, recipe, device
        self.inputs = model.tokenizer.digest()
        self.module.code_vectors.copy_(model.tokenizer.code_vectors())
        self.clips = ClipSampler(reader, "train", recipe.num_frames, memory_limit_bytes)
        self.validation = ClipSampler(reader, "validation", recipe.num_frames, memory_limit_bytes)
        num_tokens = math.prod(model.config.tokenizer.latent_shape)
        num_clips = min(64, max(PREVIEW_ROWS, NUM_VALIDATION_TOKENS // num_tokens))
        self.validation_rows = self.validation.draw(
            randomness.generator(0, "clip validation"), num_clips
        )

    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        rows = self.clips.draw(rng, self.recipe.batch_size)[part]
        nats = self._nats(module, self.clips.read(rows))
        return {"loss": nats, "bits_a_token": nats.detach() / math.log(2)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Nats and bits per token."""
        total = 0.0
        for row in self.validation_rows:
            total += float(self._nats(self.module, self.validation.read(row[None])))
        nats = total / len(self.validation_rows)
        return {"nats_a_token": nats, "bits_a_token": nats / math.log(2)}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Pairs of rows: a clip as the tokenizer shows it, and a sample under its conditions."""
        clips = self.validation.read(self.validation_rows[:PREVIEW_ROWS])
        frames, actions, classes = clip_tensors(clips, self.clips.reader, self.device)
        real = self.model.decode(self.model.encode(frames))
        sampled = sample_clips(
            self.model,
            (frames, actions, classes),
            rng=randomness.generator(0, "clip preview"),
            sampling=Sampling(),
        )
        pairs = zip(real.cpu().numpy(), sampled.cpu().numpy(), strict=True)
        save_png(path, sheet([row for pair in pairs for row in pair], scale=2))

    def _nats(self, module: nn.Module, clips: Clips) -> Tensor:
        frames, actions, classes = clip_tensors(clips, self.clips.reader, self.device)
        codes = self.model.encode(frames)
        logits = module(codes, self.model.conditions(frames, actions, classes))
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def clip_tensors(
    clips: Clips, reader: EpisodeReader, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (B, T, H, W, C), actions (B, T-1, *shape) and classes (B,), 0 where there are none."""
    names = reader.info.variable_names
    classes = np.zeros(len(clips.frames), np.int64)
    if CLASS_VARIABLE in names:
        classes = clips.variables[:, 0, names.index(CLASS_VARIABLE)].astype(np.int64)
    arrays = (clips.frames, clips.action, classes)
    frames, actions, labels = (torch.from_numpy(array).to(device) for array in arrays)
    return frames, actions, labels


@torch.no_grad()
def sample_clips(
    model: VideoGPT,
    given: tuple[Tensor, Tensor, Tensor],
    *,
    rng: np.random.Generator,
    sampling: Sampling,
) -> Tensor:
    """New clips, uint8 (B, T, H, W, C), under the conditions of given ones; shows progress.

    Args:
        given: frames, actions and classes as `clip_tensors` returns them.
    """
    frames, actions, classes = given
    num_tokens = math.prod(model.config.tokenizer.latent_shape)
    uniforms = torch.from_numpy(rng.random((len(frames), num_tokens), np.float32))
    with progress_bar(transient=True) as bar:
        task = bar.add_task("sampling", total=num_tokens)
        codes = model.prior.sample(
            model.conditions(frames, actions, classes),
            uniforms.to(frames.device),
            sampling,
            on_token=lambda: bar.advance(task),
        )
    return model.decode(codes)
