"""A plain causal transformer with one pass per token, like VideoGPT's, to compare speed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import draw_codes
from worldmodel.prior.layers import Block, ConditionalNorm


class PlainGPT(nn.Module):
    """One causal transformer over the n tokens of each of `window` frames, with a key-value cache.

    It has the frame GPT's layers but runs them for every token. The weights are random, and the
    cache counts as full from the beginning.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        num_codes: int,
        num_tokens: int,
        window: int,
        condition_size: int,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.code = nn.Embedding(num_codes, width)
        self.position = nn.Embedding(window * num_tokens, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, condition_size, num_layers=layers) for _ in range(layers)
        )
        self.norm = ConditionalNorm(width, condition_size)
        self.logits = nn.Linear(width, num_codes)
        shape = (layers, 2, 1, heads, window * num_tokens, width // heads)
        self.keys_values: Tensor
        self.register_buffer("keys_values", torch.randn(shape))

    @torch.no_grad()
    def sample_frame(
        self,
        first_slot: int,
        last_code: Int[Tensor, "1"],
        actions: Float[Tensor, "1 A"],
        uniforms: Float[Tensor, "1 n"],
        sampling: Sampling,
    ) -> Int[Tensor, "1 n"]:
        """Sample a frame's tokens; overwrites the keys and values of the oldest frame.

        Args:
            first_slot: the first position of that frame in the cache.
            last_code: the last token of the previous frame.
        """
        code, codes = last_code, []
        for i in range(self.num_tokens):
            slot = first_slot + i
            x = (self.code(code) + self.position.weight[slot])[:, None]
            for block, (keys, values) in zip(self.blocks, self.keys_values, strict=True):

                def attend(q: Tensor, k: Tensor, v: Tensor, keys=keys, values=values) -> Tensor:
                    keys[:, :, slot : slot + 1], values[:, :, slot : slot + 1] = k, v  # noqa: B023
                    return F.scaled_dot_product_attention(q, keys, values)

                x = block(x, actions, attend)
            logits = self.logits(self.norm(x, actions))[:, 0]
            code = draw_codes(logits, uniforms[:, i], sampling)
            codes.append(code)
        return torch.stack(codes, 1)
