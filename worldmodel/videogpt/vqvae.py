"""The VQ-VAE as published: clips to codes and back (VideoGPT Sec. 3, Appendix A.1)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from worldmodel.videogpt.configs import VideoVQVAEConfig
from worldmodel.vqvae.layers import ChannelNorm, ResidualBlock
from worldmodel.vqvae.vqvae import Tokenizer

Strides = tuple[int, int, int]  # along time, height and width


def _all_strides(config: VideoVQVAEConfig) -> list[Strides]:
    """The strides of each convolution from the pixels to the grid: 2 until an axis is downsampled
    enough, then 1."""
    t, h, w = config.downsampling
    num_convolutions = max(config.downsampling).bit_length() - 1
    halvings = [2**i for i in range(1, num_convolutions + 1)]
    return [(1 + (n <= t), 1 + (n <= h), 1 + (n <= w)) for n in halvings]


def _kernel(strides: Strides) -> Strides:
    """4 where the stride is 2, 3 where it is 1: with a padding of 1 both keep sizes exact.

    Table 8 lists filters of 3 and 4 but not where they are used. A filter of 4 with stride 1 would
    need asymmetric padding, shift the picture by half a pixel and cost a third more per axis.
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


class VideoVQVAE(Tokenizer):
    """Clips to a grid of codes over time and space, and back.

    All frames of a clip are coded together: later ones change the codes of earlier ones.

    Attributes:
        checkpoint_activations: recompute the activations of residual blocks in the backward pass:
            less memory, more time, the same gradients.
    """

    config: VideoVQVAEConfig
    memory_format = torch.channels_last_3d  # as norms and attention want it: bf16 is 5 % faster

    def __init__(self, config: VideoVQVAEConfig) -> None:
        super().__init__(config, VideoEncoder(config), VideoDecoder(config))
        self.checkpoint_activations = False
        # Shared by every axial attention of encoder and decoder (Sec. 3).
        self.positions = (
            Positions(config.grid, config.hidden_units) if config.attention_heads else None
        )

    def code_vectors(self) -> Float[Tensor, "q K E"]:
        """A copy of the vectors of all codes."""
        return self.codebooks.vectors()

    def _latents(self, x: Tensor) -> Tensor:
        return self._run(self.encoder, x.contiguous(memory_format=self.memory_format))

    def _pixels(self, latents: Tensor) -> Tensor:
        return self._run(self.decoder, latents)

    def _run(self, part: nn.Module, x: Tensor) -> Tensor:
        positions = None if self.positions is None else self.positions()
        with sound_precision(self.config.grid[0]):
            return part(x, positions, recompute=self.checkpoint_activations)


def sound_precision(num_frames: int) -> AbstractContextManager:
    """The caller's precision for 3D convolutions over `num_frames`, but fp32 for two on a CPU.

    The bf16 gradients of a convolution's weights are not initialised there before they are
    summed up (oneDNN of torch 2.13, AVX512-BF16, a filter of 3 in time, a length of 2).
    """
    return torch.autocast("cpu", enabled=False) if num_frames == 2 else nullcontext()
