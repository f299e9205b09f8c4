"""The VQ-VAE as published: whole clips to codes and back (VideoGPT Sec. 3, Appendix A.1)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from worldmodel.videogpt.configs import VideoVQVAEConfig
from worldmodel.videogpt.precision import sound_precision
from worldmodel.vqvae.codebook import Codebook, Codebooks
from worldmodel.vqvae.layers import ResidualBlock
from worldmodel.vqvae.norm import ChannelNorm
from worldmodel.vqvae.vqvae import Tokenized, digest_of

Strides = tuple[int, int, int]  # along time, height and width


def _all_strides(config: VideoVQVAEConfig) -> list[Strides]:
    """Of each convolution between the pixels and the grid: 2 until an axis is as short as it
    shall be, then 1."""
    t, h, w = config.downsampling
    num_convolutions = max(config.downsampling).bit_length() - 1
    halvings = [2**i for i in range(1, num_convolutions + 1)]
    return [(1 + (n <= t), 1 + (n <= h), 1 + (n <= w)) for n in halvings]


def _kernel(strides: Strides) -> Strides:
    """4 where the stride is 2, 3 where it is 1: with a padding of 1 both keep sizes exact.

    Table 8 has filters of 3 and of 4 and doesn't say where. A filter of 4 with stride 1 would
    need a lopsided padding, shift the picture by half a pixel and cost a third more an axis.
    """
    t, h, w = strides
    return (t + 2, h + 2, w + 2)


class Positions(nn.Module):
    """A learned vector for every position of a grid: the sum of one for each coordinate."""

    def __init__(self, grid: tuple[int, int, int], num_channels: int) -> None:
        super().__init__()
        t, h, w = grid
        self.time = nn.Parameter(0.02 * torch.randn(t, num_channels))
        self.rows = nn.Parameter(0.02 * torch.randn(h, num_channels))
        self.columns = nn.Parameter(0.02 * torch.randn(w, num_channels))

    def forward(self) -> Float[Tensor, "t h w C"]:
        return self.time[:, None, None] + self.rows[:, None] + self.columns


class ResidualStack(nn.Module):
    """Attention residual blocks, then norm and ReLU."""

    def __init__(self, config: VideoVQVAEConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(
                config.hidden_units,
                config.residual_units,
                attention_heads=config.attention_heads,
                num_axes=3,
            )
            for _ in range(config.residual_layers)
        )
        self.norm = ChannelNorm(config.hidden_units)

    def forward(
        self,
        x: Float[Tensor, "B C t h w"],
        positions: Float[Tensor, "t h w C"] | None,
        *,
        recompute: bool,
    ) -> Float[Tensor, "B C t h w"]:
        for block in self.blocks:
            if recompute:
                # Nothing in a block is random, so there is no generator to restore.
                x = checkpoint(block, x, positions, use_reentrant=False, preserve_rng_state=False)  # type: ignore[assignment]
            else:
                x = block(x, positions)
        return F.relu(self.norm(x))


class VideoEncoder(nn.Module):
    """Strided convolutions over space and time down to the latent grid, then residual blocks."""

    def __init__(self, config: VideoVQVAEConfig) -> None:
        super().__init__()
        hidden = config.hidden_units
        layers: list[nn.Module] = []
        num_channels = config.clip_shape[3]
        for strides in _all_strides(config):
            kernel = _kernel(strides)
            layers += [
                nn.Conv3d(num_channels, hidden, kernel, stride=strides, padding=1),
                nn.ReLU(),
            ]
            num_channels = hidden
        self.down = nn.Sequential(*layers, nn.Conv3d(hidden, hidden, 3, padding=1))
        self.residual = ResidualStack(config)
        self.out = nn.Conv3d(hidden, config.num_codebooks * config.code_dim, 1)

    def forward(
        self,
        clips: Float[Tensor, "B C T H W"],
        positions: Float[Tensor, "t h w hidden"] | None,
        *,
        recompute: bool,
    ) -> Float[Tensor, "B D t h w"]:
        return self.out(self.residual(self.down(clips), positions, recompute=recompute))


class VideoDecoder(nn.Module):
    """The encoder in reverse: residual blocks, then transposed convolutions up to the pixels."""

    def __init__(self, config: VideoVQVAEConfig) -> None:
        super().__init__()
        hidden = config.hidden_units
        self.into = nn.Conv3d(config.num_codebooks * config.code_dim, hidden, 1)
        self.residual = ResidualStack(config)
        all_strides = _all_strides(config)[::-1]
        widths = [hidden] * len(all_strides) + [config.clip_shape[3]]
        layers: list[nn.Module] = []
        for i, strides in enumerate(all_strides):
            if i > 0:
                layers.append(nn.ReLU())
            kernel = _kernel(strides)
            layers.append(
                nn.ConvTranspose3d(widths[i], widths[i + 1], kernel, stride=strides, padding=1)
            )
        self.up = nn.Sequential(*layers)

    def forward(
        self,
        latents: Float[Tensor, "B D t h w"],
        positions: Float[Tensor, "t h w hidden"] | None,
        *,
        recompute: bool,
    ) -> Float[Tensor, "B C T H W"]:
        return self.up(self.residual(self.into(latents), positions, recompute=recompute))


class VideoVQVAE(nn.Module):
    """Clips to a grid of codes over time and space, and back.

    A clip is coded as a whole: what comes later changes the codes of what came before. With q
    codebooks the latent channels are cut into q slices, one a codebook.

    Attributes:
        checkpoint_activations: training keeps no activations of the residual blocks and works
            them out again in the backward pass: less memory, more time, the same gradients.
    """

    def __init__(self, config: VideoVQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.encoder = VideoEncoder(config)
        self.codebooks = Codebooks(
            Codebook(config.num_codes, config.code_dim) for _ in range(config.num_codebooks)
        )
        self.decoder = VideoDecoder(config)
        # Shared by every axial attention of encoder and decoder (Sec. 3).
        self.positions = (
            Positions(config.grid, config.hidden_units) if config.attention_heads else None
        )
        # As the norms and the attention want it: a training step in bf16 on a CPU takes 5 % less
        # time. torch's overloads leave this one out.
        self.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
        self.data_variance: Tensor
        # Of the pixels that the loss is divided by; measured on the training data.
        self.register_buffer("data_variance", torch.ones(()))

    def forward(self, clips: Float[Tensor, "B C T H W"]) -> Tokenized:
        """Encode and decode, with gradients; in training mode the codes move too.

        Args:
            clips: in [-0.5, 0.5], of the config's size.
        """
        quantised, codes, commitment_loss = self.codebooks(self._latents(clips))
        reconstructions = self._pixels(quantised)
        nmse = F.mse_loss(reconstructions, clips) / self.data_variance
        loss = nmse + self.config.commitment * commitment_loss
        return Tokenized(reconstructions, codes, loss, nmse, commitment_loss)

    @torch.no_grad()
    def encode(self, clips: Float[Tensor, "B C T H W"]) -> Int[Tensor, "B t h w q"]:
        """The codes of clips of pixels in [-0.5, 0.5]."""
        return self.codebooks.nearest(self._latents(clips))

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B t h w q"]) -> Float[Tensor, "B C T H W"]:
        """The clips that codes stand for; pixels may pass [-0.5, 0.5] a little."""
        return self._pixels(self.codebooks.look_up(codes))

    def code_vectors(self) -> Float[Tensor, "q K E"]:
        """A copy of the vectors of all codes."""
        return self.codebooks.vectors()

    def digest(self) -> str:
        """sha256 of the weights and codes, as hex."""
        return digest_of(self)

    def _latents(self, clips: Tensor) -> Tensor:
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        weights = self.encoder.out.weight  # Fabric rounds clips to bf16, which fp32 weights refuse
        with sound_precision(self.config.grid[0]):
            return self.encoder(
                clips.to(weights.dtype),
                self._grid_positions(),
                recompute=self.checkpoint_activations,
            )

    def _pixels(self, latents: Tensor) -> Tensor:
        with sound_precision(self.config.grid[0]):
            return self.decoder(
                latents, self._grid_positions(), recompute=self.checkpoint_activations
            )

    def _grid_positions(self) -> Tensor | None:
        return None if self.positions is None else self.positions()
