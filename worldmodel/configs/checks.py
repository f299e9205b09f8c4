"""Bounds on configs, which may come from a stranger, and the sizes that both VQ-VAEs have."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, Strict

LARGEST = 2**16  # of any one number
MOST_LAYERS = 256
MOST_CODEBOOKS = 64  # building each takes time, even without memory

Size = Annotated[int, Field(ge=1, le=LARGEST), Strict()]
SizeOrZero = Annotated[int, Field(ge=0, le=LARGEST), Strict()]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS), Strict()]
Codebooks = Annotated[int, Field(ge=1, le=MOST_CODEBOOKS), Strict()]
Fraction = Annotated[float, Field(ge=0, lt=1), Strict()]
Switch = Annotated[bool, Strict()]
Weight = Annotated[float, Field(ge=0, le=LARGEST), Strict()]
Names = Annotated[tuple[str, ...], Field(max_length=LARGEST)]


def check_products(products: dict[str, tuple[int, int]]) -> None:
    """Raises ValueError where sizes that are valid by themselves ask for too much together.

    Args:
        products: for each quantity its value and its limit.
    """
    for what, (number, most) in products.items():
        if number > most:
            raise ValueError(f"these sizes make {number} {what}, more than {most}")


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of any VQ-VAE.

    Attributes:
        hidden_units: channels on the latent grid.
        residual_units: channels inside a residual block.
        residual_layers: residual blocks in the encoder, and again in the decoder.
        attention_heads: of the axial attention in each residual block; 0: no attention.
        num_codes: K, vectors in a codebook.
        code_dim: length of a code's vector.
        num_codebooks: q, codes at each grid position.
        commitment: beta, the weight of the commitment loss.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    hidden_units: Size = 192
    residual_units: Size = 128
    residual_layers: Layers = 4
    attention_heads: SizeOrZero = 0
    num_codes: Size = 256
    code_dim: Size = 64
    num_codebooks: Codebooks = 1
    commitment: Weight = 0.25
