"""The VQ-VAE of single frames (VideoGPT Sec. 3), and a sharper decoder of its codes."""

import hashlib
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.configs.dream import VQVAEConfig
from worldmodel.vqvae.codebook import Codebook, Codebooks
from worldmodel.vqvae.layers import ChannelNorm, ResidualBlock


class Tokenized(NamedTuple):
    """Result of a pass through the VQ-VAE; losses as in VideoGPT Sec. 2.1 and 4.1."""

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


class Tokenizer(nn.Module):
    """An encoder, codebooks and a decoder, of frames or of clips.

    With q codebooks the latent channels are cut into q slices, one for each codebook. The order of
    submodules is that of checkpoints and digests.

    Args:
        config: sizes of the codebooks.
        encoder, decoder: between pixels in [-0.5, 0.5] and latents.

    Attributes:
        memory_format: with channels last, convolutions on a CPU are up to twice as fast.
    """

    memory_format: torch.memory_format

    def __init__(self, config: Any, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.codebooks = Codebooks(
            Codebook(config.num_codes, config.code_dim) for _ in range(config.num_codebooks)
        )
        self.decoder = decoder
        self.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]
        self.data_variance: Tensor
        # Variance of the training data's pixels, which the loss is divided by.
        self.register_buffer("data_variance", torch.ones(()))

    def forward(self, x: Float[Tensor, "B C *size"]) -> Tokenized:
        """Encode and decode, with gradients; in training mode the codes are updated too.

        Args:
            x: pixels in [-0.5, 0.5].
        """
        quantised, codes, commitment_loss = self.codebooks(self._latents(x))
        reconstructions = self._pixels(quantised)
        nmse = F.mse_loss(reconstructions, x) / self.data_variance
        loss = nmse + self.config.commitment * commitment_loss
        return Tokenized(reconstructions, codes, loss, nmse, commitment_loss)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "B C *size"]) -> Int[Tensor, "B *grid q"]:
        """The codes of pixels in [-0.5, 0.5]."""
        return self.codebooks.nearest(self._latents(x))

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B *grid q"]) -> Float[Tensor, "B C *size"]:
        """The pixels that codes stand for; some may be a little outside [-0.5, 0.5]."""
        return self._pixels(self.codebooks.look_up(codes))

    def digest(self) -> str:
        """sha256 of the weights and codes, as hex."""
        return digest_of(self)

    def _latents(self, x: Tensor) -> Tensor:
        return self.encoder(x.contiguous(memory_format=self.memory_format))

    def _pixels(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


class VQVAE(Tokenizer):
    """Frames to a grid of codes and back, one frame at a time.

    Where the paper encodes 16 frames at once with 3D convolutions, this one leaves time to
    the prior: a dream needs frames that can be encoded and decoded one by one.
    """

    config: VQVAEConfig
    decoder: Decoder
    memory_format = torch.channels_last

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__(config, Encoder(config), Decoder(config))


def digest_of(module: nn.Module) -> str:
    """sha256 of all tensors of a module's state, as hex."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class SharpDecoder(nn.Module):
    """Decodes a frame from its codes and those of the frames before, more sharply.

    The tokenizer's decoder minimises the squared error, so it paints the mean of whatever the codes
    leave open. This one has the same layers, and a first layer that also sees the frames before;
    it is trained afterwards, perceptually and adversarially, on frozen codes.

    Args:
        config: of the tokenizer.
        num_frames: R, the number of frames whose codes it sees, up to the frame itself.
    """

    def __init__(self, config: VQVAEConfig, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.decoder = Decoder(config)
        width = config.num_codebooks * config.code_dim
        self.before = nn.Conv2d(
            (num_frames - 1) * width, config.hidden_units, 3, padding=1, bias=False
        )
        nn.init.zeros_(self.before.weight)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def start_from(self, decoder: Decoder) -> None:
        """Decode exactly as the tokenizer's decoder does."""
        self.decoder.load_state_dict(decoder.state_dict())
        self.before.weight.zero_()

    def forward(
        self, codebooks: Codebooks, codes: Int[Tensor, "F R h w q"]
    ) -> Float[Tensor, "F C H W"]:
        """Decode the last of R consecutive frames."""
        latents = codebooks.look_up(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
        first, *rest = self.decoder.layers
        x = first(latents[:, -1]) + self.before(latents[:, :-1].flatten(1, 2))
        for layer in rest:
            x = layer(x)
        return x


def with_those_before(
    codes: Int[Tensor, "B T h w q"], num_frames: int
) -> Int[Tensor, "B T R h w q"]:
    """Each frame's codes preceded by those of the R - 1 frames before it; the first frame stands
    in for missing ones."""
    padded = torch.cat([codes[:, :1].expand(-1, num_frames - 1, *codes.shape[2:]), codes], 1)
    return padded.unfold(1, num_frames, 1).movedim(-1, 2)
