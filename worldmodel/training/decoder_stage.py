"""The last thing to train, where it is asked for: a decoder whose pictures are sharp.

Codes, and all that predicts them, stand still. Pairs of consecutive frames are compared with the
recorded ones by their squared error, by a network that ImageNet taught (`metrics.perceptual`),
and by a discriminator that learns meanwhile to tell them apart (Esser et al. 2021, VQGAN: hinge
loss, weighed by gradients): it sees pairs, so texture must move as it does in the game. Some codes
are the prior's, drawn after the recorded past: their picture should be the recorded frame, too.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from worldmodel import randomness
from worldmodel.configs.recipe import StageRecipe
from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.media.film import save_png, sheet
from worldmodel.media.frames import to_float, to_uint8
from worldmodel.metrics.perceptual import (
    LITE0,
    LITE2,
    EfficientNetLite,
    load_network,
)
from worldmodel.metrics.pictures import fine_energy, psnr
from worldmodel.training.coded_episodes import CodedEpisodes
from worldmodel.training.own_dreams import OwnDreams
from worldmodel.training.trainer import Stage

PERCEPTUAL_WEIGHT = 1.0  # beside the normalised squared error
ADVERSARIAL_WEIGHT = 0.5  # times the ratio of the gradients' lengths at the picture
MATCHING_WEIGHT = 0.1  # of the discriminator's features
ADVERSARY_BEGINS, ADVERSARY_WHOLE = 300, 800  # steps; between them its weight rises
CHANNELS = (48, 96, 192)  # of the discriminator
DRAWN_SHARE = 0.25  # of the pairs whose codes the prior drew
NUM_DRAWN, DRAWN_EVERY = 256, 1000  # pairs at a time, and steps until they are drawn again
NUM_VALIDATION_PAIRS = 128
PREVIEW_PAIRS = 8


class Discriminator(nn.Module):
    """Tells recorded pairs of frames from decoded ones, patch by patch."""

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
        """Above 0 for what looks recorded; and the features of each layer."""
        x, features = pairs.flatten(1, 2), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.verdict(x), features


class Sharpening(nn.Module):
    """The sharp decoder and its adversary: all that this stage trains.

    Args:
        model: with a sharp decoder.
        network: that compares pictures; frozen.
    """

    def __init__(self, model: WorldModel, network: EfficientNetLite) -> None:
        super().__init__()
        assert model.sharp is not None
        self.sharp = model.sharp
        self.discriminator = Discriminator(model.config.tokenizer.frame_shape[2])
        # Others' modules: neither trained nor saved here.
        self._others = (model.tokenizer, network)

    def forward(
        self,
        codes: Int[Tensor, "B R1 h w q"],
        frames: Float[Tensor, "B two C H W"],
        adversary: float,
    ) -> dict[str, Tensor]:
        """Losses of pairs.

        Args:
            codes: of R + 1 consecutive frames, for pictures of the last two.
            frames: the recorded ones.
            adversary: 0 to 1, how much the discriminator counts.
        """
        tokenizer, network = self._others
        seen = torch.stack([codes[:, :-1], codes[:, 1:]], 1).flatten(0, 1)
        drawn = self.sharp(tokenizer.codebooks, seen).float().unflatten(0, frames.shape[:2])
        at = drawn.detach().requires_grad_()  # gradients at the picture
        nmse = F.mse_loss(at, frames) / tokenizer.data_variance
        perceptual = network.distance(at.flatten(0, 1), frames.flatten(0, 1)).mean()
        compared = nmse + PERCEPTUAL_WEIGHT * perceptual
        (gradient,) = torch.autograd.grad(compared, at)
        verdict, features = self.discriminator(at)
        real, wanted = self.discriminator(frames)
        matching = torch.stack(
            [F.l1_loss(mine, its.detach()) for mine, its in zip(features, wanted, strict=True)]
        ).mean()
        (against,) = torch.autograd.grad(-verdict.mean(), at, retain_graph=True)
        (towards,) = torch.autograd.grad(matching, at, retain_graph=True)
        weight = ADVERSARIAL_WEIGHT * gradient.norm() / (against.norm() + 1e-8)
        gradient = gradient + adversary * (weight * against + MATCHING_WEIGHT * towards)
        hinge = (1 - real).relu().mean() + (1 + verdict).relu().mean()
        # Its gradient is that of the decoder's losses, its value nothing.
        pull = (drawn * gradient).sum()
        return {
            "loss": compared.detach() + hinge + pull - pull.detach(),
            "nmse": nmse.detach(),
            "perceptual": perceptual.detach(),
            "matching": matching.detach(),
            "discriminator": hinge.detach(),
        }


class DecoderStage(Stage):
    """Trains the sharp decoder; tokenizer and prior stand still.

    The adversary is weighed, and its spectral norms are estimated, on each process's share of a
    batch by itself: unlike in the other stages, several shares are not quite one.
    """

    name = "decoder"

    def __init__(
        self,
        model: WorldModel,
        reader: EpisodeReader,
        recipe: StageRecipe,
        *,
        codes_path: Path,
        fabric: Fabric,
        memory_limit_bytes: int,
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, fabric.device
        self.judge = load_network(LITE2, fabric.device)
        self.module = Sharpening(model, load_network(LITE0, fabric.device)).to(fabric.device)
        self.inputs = model.tokenizer.digest()
        self.coded = CodedEpisodes(model.tokenizer, reader, codes_path, fabric)
        num_frames = model.config.sharp_frames + 1
        self.clips = ClipSampler(reader, "train", num_frames, memory_limit_bytes)
        validation = ClipSampler(reader, "validation", num_frames, memory_limit_bytes=0)
        rng = randomness.generator(0, "decoder validation")
        rows = validation.draw(rng, NUM_VALIDATION_PAIRS)
        self.validation = (self._codes(rows), self._frames(validation, rows))
        window = model.config.prior.window
        self.drawn = OwnDreams(
            model, self.coded, NUM_DRAWN, window + 2, dreamed_steps=2, goes_on=0.0
        )
        self._adversary = 0.0

    @property
    def kept(self) -> dict[str, Tensor]:
        return self.drawn.kept

    def prepare(self, step: int) -> None:
        rise = (step - ADVERSARY_BEGINS) / (ADVERSARY_WHOLE - ADVERSARY_BEGINS)
        self._adversary = float(np.clip(rise, 0, 1))
        if step // DRAWN_EVERY >= int(self.drawn.kept["renewed"]):
            self.drawn.renew()

    def losses(
        self, module: nn.Module, rng: np.random.Generator, share: slice
    ) -> dict[str, Tensor]:
        num_drawn = round(DRAWN_SHARE * self.recipe.batch_size)
        rows = self.clips.draw(rng, self.recipe.batch_size - num_drawn)
        codes = self._codes(rows)
        kept, num_frames = self.drawn.kept, self.clips.num_frames
        if num_drawn:
            chosen = rng.integers(NUM_DRAWN, size=num_drawn)
            codes = torch.cat([codes, kept["codes"][chosen, -num_frames:].long()])
            firsts = kept["episodes"][chosen].numpy()
            firsts = firsts + np.array([0, self.drawn.num_frames - num_frames])
            rows = np.concatenate([rows, firsts])
        frames = self._frames(self.clips, rows[share])
        return module(codes[share].to(self.device), frames, self._adversary)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR in dB, perceptual distances by the network that trains and by another one, and the
        energy of the upper half of the spatial frequencies over that of recorded frames."""
        codes, frames = self.validation
        drawn, judged, trained = [], [], []
        network = self.module._others[1]
        for some, real in zip(codes.split(32), frames.split(32), strict=True):
            drawn.append(to_float(self._drawn(some)))
            pair = (drawn[-1].flatten(0, 1), real.flatten(0, 1))
            judged.append(self.judge.distance(*pair))
            trained.append(network.distance(*pair))
        pictures = torch.cat(drawn)
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
        """Recorded frames, the tokenizer's own pictures of them, and the sharp ones."""
        codes, frames = (part[:PREVIEW_PAIRS] for part in self.validation)
        shown = [
            to_uint8(frames),
            self.model.decode(codes[:, -2:]),
            self._drawn(codes),
        ]
        save_png(path, sheet([part.flatten(0, 1).cpu().numpy() for part in shown], scale=2))

    def _drawn(self, codes: Tensor) -> Tensor:
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
