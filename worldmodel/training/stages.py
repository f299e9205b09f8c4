"""The two things to train: the tokenizer on frames, then the prior on their codes."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from worldmodel import randomness
from worldmodel.action_vectors import encode_actions
from worldmodel.configs import StageRecipe
from worldmodel.data import Clips, ClipSampler, EpisodeReader
from worldmodel.data.progress import track
from worldmodel.errors import UserError
from worldmodel.film import save_png, sheet
from worldmodel.frames import clips_to_float, clips_to_uint8, to_float, to_uint8
from worldmodel.metrics import psnr
from worldmodel.model import WorldModel, dream_along, prior_losses
from worldmodel.prior.sampling import Sampling
from worldmodel.tensors import save_tensors
from worldmodel.vqvae import VQVAE, VideoVQVAE

NUM_VALIDATION_FRAMES = 512
NUM_VALIDATION_CLIPS = 64
PREVIEW_ROWS = 4
PREVIEW_FRAMES = 16


class TokenizerStage:
    """Trains a VQ-VAE: on single frames for dreams, on whole clips as published."""

    name = "tokenizer"
    inputs = ""  # frames only

    def __init__(
        self,
        module: VQVAE | VideoVQVAE,
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

    def losses(
        self, module: nn.Module, rng: np.random.Generator, share: slice
    ) -> dict[str, Tensor]:
        rows = self.clips.draw(rng, self.recipe.batch_size)[share]
        clips = torch.from_numpy(self.clips.read(rows).frames)
        out = module(self._to_float(clips.to(self.device)))
        return {"loss": out.loss, "nmse": out.nmse, "commitment": out.commitment_loss}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR in dB of the mean squared error, and how many codes are in use."""
        squared_error, num_values, used = 0.0, 0, set()
        for clips in self.validation_clips.split(max(1, 64 // self.recipe.num_frames)):
            codes = self.module.encode(self._to_float(clips.to(self.device)))
            again = self._to_uint8(self.module.decode(codes)).cpu()
            squared_error += float((again.double() - clips.double()).square().sum()) / 255**2
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
        codes = self.module.encode(self._to_float(clips.to(self.device)))
        again = self._to_uint8(self.module.decode(codes)).cpu()
        rows = [clips.flatten(0, 1).numpy(), again.flatten(0, 1).numpy()]
        save_png(path, sheet(rows, scale=2))

    def _to_float(self, clips: Tensor) -> Tensor:
        """As the module takes them: (B, C, T, H, W), or single frames (B T, C, H, W)."""
        if isinstance(self.module, VideoVQVAE):
            return clips_to_float(clips)
        return to_float(clips.flatten(0, 1))

    def _to_uint8(self, out: Tensor) -> Tensor:
        """What the module gives, as clips (B, T, H, W, C)."""
        if isinstance(self.module, VideoVQVAE):
            return clips_to_uint8(out)
        return to_uint8(out).unflatten(0, (-1, self.recipe.num_frames))


class PriorStage:
    """Trains the prior on the codes of clips; the tokenizer stands still."""

    name = "prior"

    def __init__(
        self,
        model: WorldModel,
        reader: EpisodeReader,
        recipe: StageRecipe,
        *,
        codes_path: Path,
        device: torch.device,
    ) -> None:
        self.model, self.module, self.recipe, self.device = model, model.prior, recipe, device
        self.inputs = model.tokenizer.digest()
        codes = encode_all(model.tokenizer, reader, codes_path, device)
        ends = np.cumsum(reader.index["episode_length"] + 1)

        def codes_of(i: int) -> np.ndarray:
            return codes[ends[i] - reader.index["episode_length"][i] - 1 : ends[i]]

        self.clips = ClipSampler(reader, "train", recipe.num_frames, frames_of=codes_of)
        validation = ClipSampler(reader, "validation", recipe.num_frames, frames_of=codes_of)
        self.validation = validation
        rng = randomness.generator(0, "prior validation")
        self.validation_rows = validation.draw_evenly(rng, NUM_VALIDATION_CLIPS)
        self._measure_outcomes()

    def losses(
        self, module: nn.Module, rng: np.random.Generator, share: slice
    ) -> dict[str, Tensor]:
        # Drawn for the whole batch, so that the share of one process is what it would be in
        # a single one.
        rows = self.clips.draw_evenly(rng, self.recipe.batch_size)
        clips, weights = self.clips.read(rows[share]), self.clips.step_weights(rows[share])
        shape = (len(rows), *clips.frames.shape[1:])
        rates = rng.random((*shape[:2], 1, 1, 1)) * self.recipe.corruption
        corrupted = (rng.random(shape) < rates)[share]
        others = rng.integers(self.module.num_codes, size=shape)[share]
        past = np.where(corrupted, others, clips.frames)[:, :-1]
        return self._losses(module, clips, past, weights)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        parts = np.array_split(self.validation_rows, max(1, len(self.validation_rows) // 16))
        for rows in parts:
            clips = self.validation.read(rows)
            weights = self.validation.step_weights(rows)
            losses = self._losses(self.module, clips, clips.frames[:, :-1], weights)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(rows)
        return {name: total / len(self.validation_rows) for name, total in totals.items()}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Pairs of rows: what came, as the tokenizer sees it, and a dream under its actions."""
        clips = self.validation.read(self.validation_rows[:PREVIEW_ROWS])
        num_given = max(1, clips.frames.shape[1] - PREVIEW_FRAMES)
        codes = torch.from_numpy(clips.frames.astype(np.int64)).to(self.device)
        actions = torch.from_numpy(clips.action).to(self.device)
        variables = torch.from_numpy(clips.variables).to(self.device)
        real = self.model.decode(codes)
        dream = self.model.start(
            real[:, :num_given], actions[:, : num_given - 1], variables[:, :num_given]
        )
        steps = dream_along(
            self.model,
            dream,
            actions[:, num_given - 1 :],
            rng=randomness.generator(0, "prior preview"),
            sampling=Sampling(temperature=0.8),
        )
        dreamed = torch.stack([step.frames for step in steps], 1)
        rows = []
        for truth, dreamt in zip(real.cpu().numpy(), dreamed.cpu().numpy(), strict=True):
            rows += [truth[num_given:], dreamt]
        save_png(path, sheet(rows, scale=2))

    def _losses(
        self, module: nn.Module, clips: Clips, past: np.ndarray, weights: np.ndarray
    ) -> dict[str, Tensor]:
        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        losses = prior_losses(
            module,
            self.module,
            codes=tensor(clips.frames.astype(np.int64)),
            past_codes=tensor(past.astype(np.int64)),
            actions=encode_actions(self.model.config.actions, tensor(clips.action)),
            reward=tensor(clips.reward),
            terminated=tensor(clips.terminated),
            variables=tensor(clips.variables),
            weights=tensor(weights),
        )
        value_names = ("reward", *self.model.config.variable_names)
        return {
            "loss": losses.loss,
            "nats_a_token": losses.token_nats,
            "end_nats": losses.end_nats,
            **{f"{n}_nats": v for n, v in zip(value_names, losses.value_nats, strict=True)},
        }

    def _measure_outcomes(self) -> None:
        """Ranges of rewards and variables, from the training episodes."""
        reader = self.clips.reader
        steps = [reader.steps(int(i)) for i in self.clips.episodes]
        rewards = np.concatenate([step["reward"] for step in steps])
        variables = np.concatenate([step["variables"] for step in steps])
        changes = np.concatenate([np.diff(step["variables"], axis=0) for step in steps])
        prior = self.module
        prior.outcome.set_bins([rewards, *changes.T])
        if variables.shape[1]:
            mean, std = variables.mean(0), variables.std(0).clip(1e-3)
            prior.standardise_by(torch.from_numpy(mean), torch.from_numpy(std))
            prior.variable_low.copy_(torch.from_numpy(variables.min(0)))
            prior.variable_high.copy_(torch.from_numpy(variables.max(0)))


@torch.no_grad()
def encode_all(
    tokenizer: VQVAE, reader: EpisodeReader, path: Path, device: torch.device
) -> np.ndarray:
    """Codes (frames, h, w, q) of every episode in the order of the index, kept at `path`.

    The file is used again as long as tokenizer and data are the same.
    """
    key = f"{tokenizer.digest()} {reader.digest()}"
    try:
        with safe_open(path, "np") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("codes")
    except (OSError, SafetensorError):
        pass  # not made yet, or cut short: made now
    tokenizer.eval()
    parts = []
    for i in track(range(len(reader)), "encoding the episodes"):
        frames = torch.from_numpy(reader.frames(i))
        parts += [tokenizer.encode(to_float(part.to(device))).cpu() for part in frames.split(128)]
    codes = torch.cat(parts).to(torch.int16)
    save_tensors(path, {"codes": codes}, {"key": key})
    return codes.numpy()
