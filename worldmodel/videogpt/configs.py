"""Sizes of VideoGPT as published, and its presets (Tables 8 and 9)."""

import math
from dataclasses import dataclass, replace
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
from worldmodel.configs.presets import (
    BATTLE2_ACTIONS,
    HGS_ACTIONS,
    RECORD_BATTLE2,
    RECORD_HGS,
    TINY_RECIPE,
    StageRecipe,
)
from worldmodel.interface.actions import NO_ACTION, ActionSpec

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


_IMPORT = "python -m worldmodel.data"


@dataclass(frozen=True)
class PublishedPreset:
    """VideoGPT as published: a column of Tables 8 and 9.

    Attributes:
        data: folder of its data.
        get: the command that puts them there, without its --out.
        source: where in the paper the sizes are from, and where they deviate.
        actions: of the data meant; a run takes those of its own data.
    """

    data: str
    get: str
    tokenizer: VideoVQVAEConfig
    prior: GPTConfig
    tokenizer_recipe: StageRecipe
    prior_recipe: StageRecipe
    source: str
    actions: ActionSpec = NO_ACTION


def _recipe(steps: int, learning_rate: float) -> StageRecipe:
    """Tables 8 and 9: 32 clips of 16 frames a step. The warm-up is not from the paper."""
    return StageRecipe(steps=steps, batch_size=32, num_frames=16, learning_rate=learning_rate)


_BAIR = PublishedPreset(
    data="data/bair",
    get=f"{_IMPORT} bair SRC",
    tokenizer=VideoVQVAEConfig(),
    # 64 = 16 actions of 4 numbers. The 16th leads out of the clip and is always zero here.
    prior=GPTConfig(num_actions=16, given_frames=1),
    tokenizer_recipe=_recipe(100_000, 7e-4),
    prior_recipe=_recipe(150_000, 3e-4),
    actions=ActionSpec("box", low=(-0.1, -0.1, -10, -10), high=(0.1, 0.1, 10, 10)),
    source='Tables 8 and 9, "BAIR / RoboNet"; one given frame as in Sec. 4.3 and Fig. 6',
)
_VIZDOOM_HGS = replace(
    _BAIR,
    data="data/doom-hgs",
    get=RECORD_HGS,
    prior=GPTConfig(num_actions=15),  # 60 = 15 actions, one of 4 each
    actions=HGS_ACTIONS,
    source='Tables 8 and 9, "ViZDoom"; 60 = 15 x 4 (HGS)',
)
_UCF101 = PublishedPreset(
    data="data/ucf101",
    get=f"{_IMPORT} videos SRC --size 64 --train-list FILE --test-list FILE",
    tokenizer=VideoVQVAEConfig(downsampling=(4, 2, 2)),
    prior=GPTConfig(width=1024, feedforward=4096, layers=20, heads=8),
    tokenizer_recipe=_recipe(100_000, 7e-4),
    prior_recipe=_recipe(200_000, 3e-4),
    source='Tables 8 and 9, "UCF-101 / TGIF"',
)

PUBLISHED: dict[str, PublishedPreset] = {
    "moving-mnist": PublishedPreset(
        data="data/moving-mnist",
        get=f"{_IMPORT} moving-mnist SRC",
        tokenizer=VideoVQVAEConfig(
            clip_shape=(16, 64, 64, 1),
            downsampling=(4, 4, 4),
            residual_layers=2,
            attention_heads=0,
            num_codes=512,
            code_dim=64,
        ),
        prior=GPTConfig(
            width=192,
            feedforward=384,
            layers=8,
            heads=4,
            dropout=0.1,
            given_frames=1,
            resnet_depth=18,
        ),
        tokenizer_recipe=_recipe(20_000, 7e-4),
        prior_recipe=_recipe(80_000, 3e-4),
        source='Tables 8 and 9, "Moving MNIST" (Sec. 4.2 says 384 hidden features, Table 9 '
        "embeddings of 192 and a feed-forward of 384: the table is followed)",
    ),
    "bair": _BAIR,
    "robonet": replace(_BAIR, data="data/robonet", get=f"{_IMPORT} robonet SRC"),
    "vizdoom-hgs": _VIZDOOM_HGS,
    "vizdoom-battle2": replace(
        _VIZDOOM_HGS,
        data="data/doom-battle2",
        get=RECORD_BATTLE2,
        actions=BATTLE2_ACTIONS,
        source='Tables 8 and 9, "ViZDoom"; 315 = 15 x 21 (Battle2)',
    ),
    "ucf101": _UCF101,
    "ucf101-128": replace(
        _UCF101,
        data="data/ucf101-128",
        get=f"{_IMPORT} videos SRC --size 128 --train-list FILE --test-list FILE",
        tokenizer=VideoVQVAEConfig(clip_shape=(16, 128, 128, 3), downsampling=(4, 4, 4)),
        source='Tables 8 and 9, "UCF-101 / TGIF", and Sec. 4.5; the latent size of 128x128 '
        "videos is not in the paper: taken to be that of 64x64",
    ),
    "tgif": replace(
        _UCF101,
        data="data/tgif",
        get=f"{_IMPORT} videos SRC --size 64 --train-list FILE --test-list FILE",
        prior_recipe=_recipe(600_000, 3e-4),
    ),
    # For tests: learns nothing worth seeing, in seconds.
    "tiny-videogpt": replace(
        _VIZDOOM_HGS,
        tokenizer=VideoVQVAEConfig(
            clip_shape=(4, 64, 64, 3),
            downsampling=(2, 8, 8),
            hidden_units=16,
            residual_units=16,
            residual_layers=1,
            num_codes=32,
            code_dim=8,
        ),
        prior=GPTConfig(
            width=32,
            feedforward=64,
            layers=2,
            heads=2,
            dropout=0.1,
            num_actions=3,
            resnet_depth=18,
            resnet_units=16,
        ),
        tokenizer_recipe=TINY_RECIPE,
        prior_recipe=TINY_RECIPE,
        source="made up",
    ),
}
