"""Sizes of VideoGPT as published."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from worldmodel.configs.checks import (
    Fraction,
    Layers,
    Names,
    Size,
    SizeOrZero,
    Switch,
    TokenizerConfig,
    check_products,
)
from worldmodel.interface.actions import ActionSpec

MOST_TOKENS_A_CLIP = 2**18
MOST_CLIP_NUMBERS = 2**30  # keys and values of one clip, or activations in a layer: 4 GiB


@dataclass(frozen=True)
class VideoVQVAEConfig(TokenizerConfig):
    """Sizes of the VQ-VAE as published, for clips (VideoGPT Table 8).

    Attributes:
        clip_shape: (T, H, W, C) of a clip.
        downsampling: pixels per latent along time, height and width; powers of two.
    """

    hidden_units: Size = 240
    attention_heads: SizeOrZero = 2
    num_codes: Size = 1024
    code_dim: Size = 256
    clip_shape: tuple[Size, Size, Size, Size] = (16, 64, 64, 3)
    downsampling: tuple[Size, Size, Size] = (2, 2, 2)

    def __post_init__(self) -> None:
        for size, stride in zip(self.clip_shape, self.downsampling, strict=False):
            if stride & (stride - 1) or size % stride:
                raise ValueError(
                    f"downsampling must be powers of two that divide the clip's "
                    f"{self.clip_shape[:3]}, not {self.downsampling}"
                )
        if max(self.downsampling) == 1:
            raise ValueError("downsampling must be above 1 along one axis at least")
        if self.attention_heads and self.hidden_units % self.attention_heads:
            raise ValueError(
                f"hidden_units of {self.hidden_units} can't be divided among "
                f"{self.attention_heads} attention_heads"
            )

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) of the latents."""
        (frames, height, width, _), (t, h, w) = self.clip_shape, self.downsampling
        return (frames // t, height // h, width // w)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(t, h, w, q) of a clip's codes."""
        return (*self.grid, self.num_codebooks)


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the prior as published, over all codes of a clip (VideoGPT Table 9).

    Attributes:
        width: D of the transformer.
        feedforward: hidden units of each feed-forward block.
        layers, heads: of the transformer.
        dropout: after each attention and feed-forward block, in training.
        attention: "dense": every code sees all before it; "sparse": strided and local across
            space-time (VideoGPT Sec. 4.1).
        num_actions: actions of a clip that condition the norms, as one flat vector; 0: none.
        on_class: whether the clip's class conditions the norms.
        given_frames: first frames of the clip that condition by cross-attention; 0: none.
        resnet_depth, resnet_units: of the 3D ResNet over given frames, 18 or 34 layers deep.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    width: Size = 512
    feedforward: Size = 2048
    layers: Layers = 16
    heads: Size = 4
    dropout: Fraction = 0.2
    attention: Literal["dense", "sparse"] = "sparse"
    num_actions: SizeOrZero = 0
    on_class: Switch = False
    given_frames: SizeOrZero = 0
    resnet_depth: Size = 34
    resnet_units: Size = 512

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} can't be divided into {self.heads} heads")
        if self.given_frames and self.resnet_depth not in (18, 34):
            raise ValueError(f"resnet_depth must be 18 or 34, not {self.resnet_depth}")


@dataclass(frozen=True)
class VideoGPTConfig:
    """VideoGPT as published: a tokenizer of clips, a prior over their codes, and the data's
    actions and classes (empty where there are none)."""

    tokenizer: VideoVQVAEConfig
    prior: GPTConfig
    actions: ActionSpec
    class_names: Names = ()

    def __post_init__(self) -> None:
        if self.prior.on_class and not self.class_names:
            raise ValueError("the prior is conditioned on classes, but the data have none")
        if max(self.prior.given_frames, self.prior.num_actions) > self.tokenizer.clip_shape[0]:
            raise ValueError("more frames or actions are given than a clip has")
        tokenizer, prior = self.tokenizer, self.prior
        tokens = math.prod(tokenizer.latent_shape)
        # The first convolution halves each axis that is downsampled.
        pairs = zip(tokenizer.clip_shape, tokenizer.downsampling, strict=False)
        halved = math.prod(size // min(2, shrunk) for size, shrunk in pairs)
        check_products(
            {
                "tokens a clip": (tokens, MOST_TOKENS_A_CLIP),
                "keys and values of a clip": (
                    2 * prior.layers * tokens * prior.width,
                    MOST_CLIP_NUMBERS,
                ),
                "activations of a clip": (
                    max(
                        math.prod(tokenizer.clip_shape),
                        halved * tokenizer.hidden_units,
                        math.prod(tokenizer.grid) * tokenizer.num_codebooks * tokenizer.code_dim,
                    ),
                    MOST_CLIP_NUMBERS,
                ),
            }
        )

    @property
    def condition_size(self) -> int:
        """Length of the vector that conditions the norms; 0: they are unconditional."""
        num_classes = len(self.class_names) if self.prior.on_class else 0
        return self.prior.num_actions * self.actions.vector_size + num_classes
