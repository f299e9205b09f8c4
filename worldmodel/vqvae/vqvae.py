"""The VQ-VAE: encoder, codebooks, decoder (VideoGPT Sec. 3), each frame by itself."""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.configs.dream import VQVAEConfig
from worldmodel.vqvae.codebook import Codebook, Codebooks
from worldmodel.vqvae.layers import ResidualBlock
from worldmodel.vqvae.norm import ChannelNorm


class Tokenized(NamedTuple):
    """What one pass of the VQ-VAE gives; losses as in VideoGPT Sec. 2.1 and 4.1."""

    reconstructions: Float[Tensor, "B C *size"]  # (H, W) of frames, (T, H, W) of clips
    codes: Int[Tensor, "B *grid q"]
    loss: Float[Tensor, ""]  # normalised MSE + commitment
    nmse: Float[Tensor, ""]
    commitment_loss: Float[Tensor, ""]


class Encoder(nn.Module):
    """Strided convolutions down to the latent grid, then residual blocks."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths = config.widths  # from the pixels to the grid
        layers: list[nn.Module] = []
        for width_in, width_out in zip((config.frame_shape[2], *widths), widths, strict=False):
            layers += [nn.Conv2d(width_in, width_out, 4, stride=2, padding=1), nn.ReLU()]
        layers += [
            nn.Conv2d(config.hidden_units, config.hidden_units, 3, padding=1),
            *_residual_blocks(config),
            nn.Conv2d(config.hidden_units, config.num_codebooks * config.code_dim, 1),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Float[Tensor, "F C H W"]) -> Float[Tensor, "F D h w"]:
        return self.layers(frames)


class Decoder(nn.Module):
    """The encoder in reverse: residual blocks, then transposed convolutions up to the pixels."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = [
            nn.Conv2d(config.num_codebooks * config.code_dim, config.hidden_units, 3, padding=1),
            *_residual_blocks(config),
        ]
        for i, (width_in, width_out) in enumerate(
            zip(widths, (*widths[1:], config.frame_shape[2]), strict=True)
        ):
            if i > 0:
                layers.append(nn.ReLU())
            layers.append(nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Float[Tensor, "F D h w"]) -> Float[Tensor, "F C H W"]:
        return self.layers(latents)


def _residual_blocks(config: VQVAEConfig) -> list[nn.Module]:
    blocks: list[nn.Module] = [
        ResidualBlock(
            config.hidden_units,
            config.residual_units,
            attention_heads=config.attention_heads,
            num_axes=2,
        )
        for _ in range(config.residual_layers)
    ]
    return [*blocks, ChannelNorm(config.hidden_units), nn.ReLU()]


class VQVAE(nn.Module):
    """Frames to a grid of codes and back, one frame at a time.

    Where the paper encodes 16 frames at once with 3D convolutions, this one leaves time to
    the prior: a frame can be encoded and decoded by itself, which is what living in a dream
    needs. With q codebooks the latent channels are cut into q slices, one a codebook.
    """

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.codebooks = Codebooks(
            Codebook(config.num_codes, config.code_dim) for _ in range(config.num_codebooks)
        )
        self.decoder = Decoder(config)
        # 1.5-2x faster convolutions on a CPU; torch's overloads leave this one out.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.data_variance: Tensor
        # Of the pixels that the loss is divided by; measured on the training data.
        self.register_buffer("data_variance", torch.ones(()))

    def forward(self, frames: Float[Tensor, "F C H W"]) -> Tokenized:
        latents = self.encoder(frames.contiguous(memory_format=torch.channels_last))
        quantised, codes, commitment_loss = self.codebooks(latents)
        reconstructions = self.decoder(quantised)
        nmse = F.mse_loss(reconstructions, frames) / self.data_variance
        loss = nmse + self.config.commitment * commitment_loss
        return Tokenized(reconstructions, codes, loss, nmse, commitment_loss)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "F C H W"]) -> Int[Tensor, "F h w q"]:
        latents = self.encoder(frames.contiguous(memory_format=torch.channels_last))
        return self.codebooks.nearest(latents)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "F h w q"]) -> Float[Tensor, "F C H W"]:
        return self.decoder(self.codebooks.look_up(codes))

    def digest(self) -> str:
        """sha256 of the weights and codes, as hex."""
        return digest_of(self)


def digest_of(module: nn.Module) -> str:
    """sha256 of everything that a module's state holds, as hex."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
