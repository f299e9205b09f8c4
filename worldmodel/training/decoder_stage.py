"""The optional last stage: a decoder of sharp pictures.

Tokenizer and prior are frozen. Decoded pairs of consecutive frames are compared with the recorded
ones by their squared error, by a network trained on ImageNet (`metrics.perceptual`), and by a
discriminator trained along (Esser et al. 2021, VQGAN: hinge loss, weighted by gradients); it sees
pairs, so texture must move as it does in the game. Some codes are sampled from the prior after the
recorded past: they too should decode to the recorded frame.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from worldmodel import randomness
from worldmodel.configs.presets import StageRecipe
from worldmodel.data import ClipSampler
from worldmodel.dream import WorldModel, dream_along
from worldmodel.interface.sampling import Sampling
from worldmodel.media.film import save_png, sheet
from worldmodel.media.frames import to_float, to_uint8
from worldmodel.metrics.perceptual import LITE0, LITE2, EfficientNetLite, load_network
from worldmodel.metrics.pictures import fine_energy, psnr
from worldmodel.training.codes import CodedEpisodes
from worldmodel.training.trainer import Stage

PERCEPTUAL_WEIGHT = 1.0  # relative to the normalised squared error
ADVERSARIAL_WEIGHT = 0.5  # times the ratio of the gradients' norms at the picture
MATCHING_WEIGHT = 0.1  # of the discriminator's features
ADVERSARY_FROM, ADVERSARY_FULL_FROM = 300, 800  # steps; between them its weight rises
CHANNELS = (48, 96, 192)  # of the discriminator
SAMPLED_FRACTION = 0.25  # of the pairs: their codes are sampled from the prior
NUM_SAMPLED, SAMPLED_EVERY = 256, 1000  # pairs in stock, and steps until others are sampled
SAMPLING = Sampling()
NUM_VALIDATION_PAIRS = 128
PREVIEW_PAIRS = 8


class Discriminator(nn.Module):
    """Distinguishes recorded from decoded pairs of frames, patch by patch."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        widths = (2 * num_channels, *CHANNELS)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
            for inputs, outputs in zip(widths, CHANNELS, strict=False)
        )
        self.verdict = spectral_norm(nn.Conv2d(CHANNELS[-1], 1, 3, padding=1))

    def forward(
        self, pairs: Float[Tensor, "B two C H W"]
    ) -> tuple[Float[Tensor, "B 1 h w"], list[Tensor]]:
        """Logits, above 0 for what looks recorded, and the features of each layer."""
        x, features = pairs.flatten(1, 2), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.verdict(x), features


class Sharpening(nn.Module):
    """The sharp decoder and its adversary: what this stage trains.

    Args:
        model: has a sharp decoder.
        network: compares pictures; frozen.
    """

    def __init__(self, model: WorldModel, network: EfficientNetLite) -> None:
        super().__init__()
        assert model.sharp is not None
        self.sharp = model.sharp
        self.discriminator = Discriminator(model.config.tokenizer.frame_shape[2])
        # In a tuple, so that they are no submodules: neither trained nor saved here.
        self._frozen = (model.tokenizer, network)

    def forward(
        self,
        codes: Int[Tensor, "B R1 h w q"],
        frames: Float[Tensor, "B two C H W"],
        adversary: float,
    ) -> dict[str, Tensor]:
        """Losses of pairs.

        Args:
            codes: of R + 1 consecutive frames, of which the last two are decoded.
            frames: the last two as recorded.
            adversary: weight of the discriminator, 0 to 1.
        """
        tokenizer, network = self._frozen
        seen = torch.stack([codes[:, :-1], codes[:, 1:]], 1).flatten(0, 1)
        decoded = self.sharp(tokenizer.codebooks, seen).float().unflatten(0, frames.shape[:2])
        pictures = decoded.detach().requires_grad_()  # gradients are weighted here
        nmse = F.mse_loss(pictures, frames) / tokenizer.data_variance
        perceptual = network.distance(pictures.flatten(0, 1), frames.flatten(0, 1)).mean()
        difference = nmse + PERCEPTUAL_WEIGHT * perceptual
        (gradient,) = torch.autograd.grad(difference, pictures)
        logits, features = self.discriminator(pictures)
        real_logits, real_features = self.discriminator(frames)
        matching = torch.stack(
            [F.l1_loss(x, real.detach()) for x, real in zip(features, real_features, strict=True)]
        ).mean()
        (fooling,) = torch.autograd.grad(-logits.mean(), pictures, retain_graph=True)
        (alike,) = torch.autograd.grad(matching, pictures, retain_graph=True)
        weight = ADVERSARIAL_WEIGHT * gradient.norm() / (fooling.norm() + 1e-8)
        gradient = gradient + adversary * (weight * fooling + MATCHING_WEIGHT * alike)
        hinge = (1 - real_logits).relu().mean() + (1 + logits).relu().mean()
        # Has the gradient of the decoder's losses; its value is subtracted.
        surrogate = (decoded * gradient).sum()
        return {
            "loss": difference.detach() + hinge + surrogate - surrogate.detach(),
            "nmse": nmse.detach(),
            "perceptual": perceptual.detach(),
            "matching": matching.detach(),
            "discriminator": hinge.detach(),
        }


class DecoderStage(Stage):
    """Trains the sharp decoder; tokenizer and prior are frozen.

    Each process weights the adversary and estimates spectral norms on its own part of a batch:
    unlike in the other stages, training in several processes is not exactly the same as in one.
    """

    name = "decoder"

    def __init__(
        self,
        model: WorldModel,
        coded: CodedEpisodes,
        recipe: StageRecipe,
        memory_limit_bytes: int,
    ) -> None:
        self.model, self.coded, self.recipe = model, coded, recipe
        self.device = coded.device
        self.judge = load_network(LITE2, self.device)
        self.network = load_network(LITE0, self.device)
        self.module = Sharpening(model, self.network).to(self.device)
        self.inputs = model.tokenizer.digest()
        num_frames = model.config.sharp_frames + 1
        self.clips = ClipSampler(coded.reader, "train", num_frames, memory_limit_bytes)
        validation = ClipSampler(coded.reader, "validation", num_frames, memory_limit_bytes=0)
        rng = randomness.generator(0, "decoder validation")
        rows = validation.draw(rng, NUM_VALIDATION_PAIRS)
        self.validation = (self._codes(rows), self._frames(validation, rows))
        self._adversary = 0.0
        lengths = coded.reader.index["episode_length"][self.clips.episodes] + 1
        wanted = min(model.config.prior.window + 2, int(np.median(lengths)))
        self._sampled_clips = ClipSampler(
            coded.reader,
            "train",
            max(wanted, num_frames),
            frames_of=coded.codes_of,
            with_pose=model.prior.place is not None,
        )
        self._stock = -1  # number of the sampled stock

    def prepare(self, step: int) -> None:
        rise = (step - ADVERSARY_FROM) / (ADVERSARY_FULL_FROM - ADVERSARY_FROM)
        self._adversary = float(np.clip(rise, 0, 1))
        if self._stock != step // SAMPLED_EVERY:
            self._stock = step // SAMPLED_EVERY
            self._sample()

    @torch.no_grad()
    def _sample(self) -> None:
        """Sample the last two frames of clips from the prior: a stock that depends on its number
        alone."""
        rng = randomness.generator(0, "sampled codes", self._stock)
        rows = self._sampled_clips.draw(rng, NUM_SAMPLED)
        clips, prior = self._sampled_clips.read(rows), self.model.prior
        codes, actions, variables, poses = (
            torch.from_numpy(np.ascontiguousarray(part)).to(self.device)
            for part in (clips.frames.astype(np.int64), clips.action, clips.variables, clips.pose)
        )
        was_training = prior.training
        prior.eval()
        dream = self.model.start_from(
            codes[:, :-2], actions[:, :-2], variables[:, :-2], poses[:, :-2]
        )
        where = poses[:, -2:] if prior.place is not None else None
        steps = dream_along(
            self.model, dream, actions[:, -2:], rng=rng, sampling=SAMPLING, poses=where
        )
        sampled = torch.stack([step.codes for step in steps], 1)
        prior.train(was_training)
        num_frames = self.clips.num_frames
        self._sampled_codes = torch.cat([codes[:, :-2], sampled], 1)[:, -num_frames:]
        self._sampled_rows = rows + np.array([0, codes.shape[1] - num_frames])

    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        num_sampled = round(SAMPLED_FRACTION * self.recipe.batch_size)
        rows = self.clips.draw(rng, self.recipe.batch_size - num_sampled)
        chosen = rng.integers(NUM_SAMPLED, size=num_sampled)
        codes = torch.cat([self._codes(rows), self._sampled_codes[chosen]])
        rows = np.concatenate([rows, self._sampled_rows[chosen]])
        frames = self._frames(self.clips, rows[part])
        return module(codes[part], frames, self._adversary)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR in dB, perceptual distances by the network of the loss and by another one, and the
        energy of the upper half of the spatial frequencies relative to that of recorded frames."""
        codes, frames = self.validation
        decoded, judged, trained = [], [], []
        for some, real in zip(codes.split(32), frames.split(32), strict=True):
            decoded.append(to_float(self._decoded(some)))
            pair = (decoded[-1].flatten(0, 1), real.flatten(0, 1))
            judged.append(self.judge.distance(*pair))
            trained.append(self.network.distance(*pair))
        pictures = torch.cat(decoded)
        energy, wanted = (
            fine_energy(part.flatten(0, 1).cpu().numpy()).mean() for part in (pictures, frames)
        )
        return {
            "psnr": psnr(float((pictures - frames).square().mean())),
            "perceptual": float(torch.cat(trained).mean()),
            "judged": float(torch.cat(judged).mean()),
            "fine_energy": float(energy / wanted),
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Recorded frames, then decoded by the tokenizer, then by the sharp decoder."""
        codes, frames = (part[:PREVIEW_PAIRS] for part in self.validation)
        rows = [to_uint8(frames), self.model.decode(codes[:, -2:]), self._decoded(codes)]
        save_png(path, sheet([row.flatten(0, 1).cpu().numpy() for row in rows], scale=2))

    def _decoded(self, codes: Tensor) -> Tensor:
        """Pictures (B, 2, H, W, C) of the last two of R + 1 frames."""
        return self.model.draw(codes)[:, -2:]

    def _codes(self, rows: np.ndarray) -> Tensor:
        num_frames = self.model.config.sharp_frames + 1
        at = np.array([self.coded.first(int(i)) + start for i, start in rows])
        codes = self.coded.codes[at[:, None] + np.arange(num_frames)]
        return torch.from_numpy(codes.astype(np.int64)).to(self.device)

    def _frames(self, clips: ClipSampler, rows: np.ndarray) -> Tensor:
        """The last two frames of each clip, (B, 2, C, H, W)."""
        return to_float(torch.from_numpy(clips.read(rows).frames[:, -2:]).to(self.device))
