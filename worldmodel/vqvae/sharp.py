"""The sharp decoder: draws a frame from its own codes and those of the frames before.

The tokenizer's decoder learned the squared error alone, so whatever codes leave open it paints as a
mean. This one is trained after it, perceptually and adversarially, while codes stay what they are.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldmodel.configs.dream import VQVAEConfig
from worldmodel.vqvae.codebook import Codebooks
from worldmodel.vqvae.vqvae import Decoder


class SharpDecoder(nn.Module):
    """The tokenizer's decoder, whose first layer also sees the frames before.

    Args:
        config: of the tokenizer.
        num_frames: R, whose codes it sees: those of the frame, and of R - 1 before it.
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
        """Draw what another decoder draws."""
        self.decoder.load_state_dict(decoder.state_dict())
        self.before.weight.zero_()

    def forward(
        self, codebooks: Codebooks, codes: Int[Tensor, "F R h w q"]
    ) -> Float[Tensor, "F C H W"]:
        """The last of R consecutive frames each."""
        latents = codebooks.look_up(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
        first, *rest = self.decoder.layers
        x = first(latents[:, -1]) + self.before(latents[:, :-1].flatten(1, 2))
        for layer in rest:
            x = layer(x)
        return x


def with_those_before(
    codes: Int[Tensor, "B T h w q"], num_frames: int
) -> Int[Tensor, "B T R h w q"]:
    """Each frame's codes after those of the R - 1 frames before; the first stands for what was
    before it."""
    padded = torch.cat([codes[:, :1].expand(-1, num_frames - 1, *codes.shape[2:]), codes], 1)
    return padded.unfold(1, num_frames, 1).movedim(-1, 2)
