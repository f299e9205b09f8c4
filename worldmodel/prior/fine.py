"""Layers over single tokens, between the backbone, whose positions are whole blocks of them, and
the head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.prior.layers import Block, Rotary, attend_where, turn


class FineLayers(nn.Module):
    """Move what the newest frame shows to where the action takes it.

    A turn of the view shifts a frame by up to half its width, and not by whole blocks of tokens.
    Here every token of the next frame looks for what it will show among all tokens of the newest
    one, by rotary positions and norms that know the action.

    Args:
        layers: as many blocks, each of which begins as the identity; 0 leaves all as it is.
        grid: (h, w) of the tokens.
    """

    def __init__(
        self, *, layers: int, grid: tuple[int, int], width: int, heads: int, condition_size: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, condition_size, num_layers=layers) for _ in range(layers)
        )
        for block in self.blocks:
            nn.init.zeros_(block.attention_output.weight)
            nn.init.zeros_(block.contract.weight)
        self.rotary = Rotary(width // heads, *grid) if layers else None

    def forward(
        self, context: Float[Tensor, "B T n D"], actions: Float[Tensor, "B T A"]
    ) -> Float[Tensor, "B T n D"]:
        """What the head is told of each token, the wiser for those of the same frame."""
        for block in self.blocks:
            context = block(context, actions, self._attend)
        return context

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        now = torch.zeros((), dtype=torch.int64, device=q.device)
        cosines, sines = self.rotary.turns(now)  # (n, hs / 2)
        return attend_where(None, turn(q, cosines, sines), turn(k, cosines, sines), v)
