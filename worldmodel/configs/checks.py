"""Bounds on configs, which may come from a stranger."""

from typing import Annotated

from pydantic import Field, Strict

LARGEST = 2**16  # of any one number
MOST_LAYERS = 256
MOST_CODEBOOKS = 64  # each is built, which takes time even without memory

Size = Annotated[int, Field(ge=1, le=LARGEST), Strict()]
SizeOrZero = Annotated[int, Field(ge=0, le=LARGEST), Strict()]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS), Strict()]
Codebooks = Annotated[int, Field(ge=1, le=MOST_CODEBOOKS), Strict()]
Share = Annotated[float, Field(ge=0, lt=1), Strict()]
Switch = Annotated[bool, Strict()]
Weight = Annotated[float, Field(ge=0, le=LARGEST), Strict()]
Names = Annotated[tuple[str, ...], Field(max_length=LARGEST)]


def check_products(products: dict[str, tuple[int, int]]) -> None:
    """Raises ValueError where sizes that are fine by themselves ask for too much together.

    Args:
        products: what they make, how many of it, and how many at most.
    """
    for what, (number, most) in products.items():
        if number > most:
            raise ValueError(f"these sizes make {number} {what}, more than {most}")
