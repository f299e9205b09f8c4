"""Sizes of models and recipes of training, as frozen dataclasses."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

from worldmodel.actions import ActionSpec
from worldmodel.pose import NO_POSE, PoseSpec

LARGEST_SIZE = 2**16  # of any one number in a config, which may come from a stranger
MOST_LAYERS = 256
MOST_CODEBOOKS = 64  # each is built, which takes time even without memory
# Of products, which small numbers make large: a file of a megabyte can ask for 16 GiB. What ships
# is below a thousandth of each.
MOST_WINDOW = 1024  # frames
MOST_SHARP_FRAMES = 16
MOST_CODES_KEPT = 2**15  # older frames are kept as int16
MOST_TOKENS_A_FRAME = 2**12  # drawn one after the other
MOST_TOKENS_A_CLIP = 2**18
MOST_POSITIONS = 2**13  # of the backbone in a window: a mask has their square
MOST_REMEMBERED = 2**28  # numbers, the keys and values of one dream: 1 GiB
MOST_ACTIVATIONS = 2**28  # numbers, of one frame in a layer of the tokenizer
MOST_WORK = 2**36  # multiplications a step of one dream: half a minute of one core
MOST_CLIP_NUMBERS = 2**30  # keys and values of one clip, or activations in a layer: 4 GiB


def _check_fields(config: object, *, may_be_zero: tuple[str, ...] = ()) -> None:
    """Raises ValueError unless every field is of its type, every number positive and not absurd."""
    for name, wanted in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(wanted) is Literal:
            if value not in get_args(wanted):
                raise ValueError(f"{name} must be {' or '.join(get_args(wanted))}, not {value!r}")
        elif get_origin(wanted) is tuple:
            if not isinstance(value, tuple) or len(value) != len(get_args(wanted)):
                raise ValueError(f"{name} must be {len(get_args(wanted))} numbers, not {value!r}")
            for number, kind in zip(value, get_args(wanted), strict=True):
                _check_number(name, number, kind, name in may_be_zero)
        else:
            _check_number(name, value, wanted, name in may_be_zero)


def _check_number(name: str, number: object, kind: type, may_be_zero: bool) -> None:
    if type(number) is not kind and (kind is not float or type(number) is not int):
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ValueError(f"{name} must be {words[kind]}, not {number!r}")
    assert isinstance(number, int | float)
    largest = MOST_LAYERS if name.endswith("layers") else LARGEST_SIZE
    largest = MOST_CODEBOOKS if name == "num_codebooks" else largest
    if not 0 <= number <= largest:
        raise ValueError(f"{name} must be from 0 to {largest}, not {number!r}")
    if number == 0 and not may_be_zero:
        raise ValueError(f"{name} must not be 0")


def _check_products(products: dict[str, tuple[int, int]]) -> None:
    """Raises ValueError where the sizes together ask for more than is had or waited for."""
    for what, (number, most) in products.items():
        if number > most:
            raise ValueError(f"these sizes make {number} {what}, more than {most}")


def _check_names(**names: tuple[str, ...]) -> None:
    for what, given in names.items():
        if len(given) > LARGEST_SIZE:
            raise ValueError(f"{what} must be at most {LARGEST_SIZE}, not {len(given)}")


@dataclass(frozen=True)
class VQVAEConfig:
    """Sizes of the tokenizer of single frames, for dreams.

    Attributes:
        frame_shape: (H, W, C) of a frame.
        downsampling: pixels to one token along each side; a power of two.
        hidden_units: channels on the latent grid; halved at each doubling of the resolution.
        residual_units: channels inside a residual block.
        residual_layers: residual blocks in the encoder, and again in the decoder.
        attention_heads: of the axial attention in each residual block; 0: no attention.
        num_codes: K, vectors in a codebook.
        code_dim: length of a code's vector.
        num_codebooks: q, codes at each grid position.
        commitment: beta, the weight of the commitment loss.
    """

    frame_shape: tuple[int, int, int] = (64, 64, 3)
    downsampling: int = 8
    hidden_units: int = 192
    residual_units: int = 128
    residual_layers: int = 4
    attention_heads: int = 0
    num_codes: int = 256
    code_dim: int = 64
    num_codebooks: int = 1
    commitment: float = 0.25

    def __post_init__(self) -> None:
        _check_fields(self, may_be_zero=("attention_heads", "commitment"))
        height, width, _ = self.frame_shape
        if self.downsampling < 2 or self.downsampling & (self.downsampling - 1):
            raise ValueError(f"downsampling must be a power of two, not {self.downsampling}")
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(
                f"frames of {height}x{width} can't be cut into tokens of "
                f"{self.downsampling}x{self.downsampling} pixels"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each halving of the resolution, from the pixels down to the grid."""
        num_halvings = self.downsampling.bit_length() - 1
        return tuple(self.hidden_units >> (num_halvings - 1 - i) for i in range(num_halvings))

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the tokens of a frame."""
        return (
            self.frame_shape[0] // self.downsampling,
            self.frame_shape[1] // self.downsampling,
        )


@dataclass(frozen=True)
class FrameGPTConfig:
    """Sizes of the prior that dreams.

    Attributes:
        width: D of the backbone.
        layers, heads: of the backbone.
        merge: the backbone sees blocks of merge x merge tokens as one position.
        window: frames that a frame can look back on, itself included.
        head_width, head_layers, head_heads: of the head that draws a frame's tokens.
        num_bins: most values that a predicted reward or change of a variable can take.
        map_width: of the network that turns the next pose into what is seen there, in worlds that
            tell one; 0: the pose is not used.
        tells_age: whether the prior is told for how long the frames before were dreamed.
        recalled: older frames, from before the window, that a frame can look at; 0: none.
    """

    width: int = 256
    layers: int = 6
    heads: int = 4
    merge: int = 2
    window: int = 12
    head_width: int = 256
    head_layers: int = 1
    head_heads: int = 4
    num_bins: int = 32
    map_width: int = 0
    tells_age: bool = False
    recalled: int = 0

    def __post_init__(self) -> None:
        _check_fields(self, may_be_zero=("map_width", "tells_age", "recalled"))
        if self.width % (8 * self.heads):
            raise ValueError(
                f"a width of {self.width} can't be shared by {self.heads} heads of a size "
                "divisible by 8, which rotary positions need"
            )
        if self.head_width % self.head_heads:
            raise ValueError(
                f"a head_width of {self.head_width} can't be shared by {self.head_heads} heads"
            )


@dataclass(frozen=True)
class WorldModelConfig:
    """A tokenizer, a prior, and the world that they model."""

    actions: ActionSpec
    variable_names: tuple[str, ...]
    tokenizer: VQVAEConfig = field(default_factory=VQVAEConfig)
    prior: FrameGPTConfig = field(default_factory=FrameGPTConfig)
    pose: PoseSpec = NO_POSE
    sharp_frames: int = 0  # whose codes the sharp decoder sees; 0: there is none

    def __post_init__(self) -> None:
        if type(self.sharp_frames) is not int or not 0 <= self.sharp_frames <= MOST_SHARP_FRAMES:
            raise ValueError(f"sharp_frames must be from 0 to {MOST_SHARP_FRAMES}")
        if self.sharp_frames == 1:
            raise ValueError("sharp_frames must be 0, or at least 2")
        if self.pose and not self.prior.map_width:
            raise ValueError("a prior with a pose needs a map_width above 0")
        if self.prior.recalled and self.tokenizer.num_codes > MOST_CODES_KEPT:
            raise ValueError(f"a prior that recalls frames knows at most {MOST_CODES_KEPT} codes")
        _check_names(variable_names=self.variable_names)
        tokenizer, prior = self.tokenizer, self.prior
        _check_products(
            {
                "frames in the window": (prior.window, MOST_WINDOW),
                "tokens a frame": (self.tokens_a_frame, MOST_TOKENS_A_FRAME),
                "positions in the window": (prior.window * self.positions, MOST_POSITIONS),
                "positions of older frames": (prior.recalled * self.positions, MOST_POSITIONS),
                "numbers remembered of a dream": (
                    2 * prior.layers * prior.window * self.positions * prior.width,
                    MOST_REMEMBERED,
                ),
                "activations of a frame": (
                    max(
                        math.prod(tokenizer.frame_shape[:2])
                        * max(tokenizer.frame_shape[2], tokenizer.widths[0]),
                        math.prod(tokenizer.grid)
                        * max(
                            tokenizer.hidden_units,
                            max(1, self.sharp_frames)
                            * tokenizer.num_codebooks
                            * tokenizer.code_dim,
                        ),
                    ),
                    MOST_ACTIVATIONS,
                ),
                "multiplications a step": (self.work, MOST_WORK),
            }
        )

    @property
    def tokens_a_frame(self) -> int:
        """Codes that are drawn, one after the other."""
        return math.prod(self.tokenizer.grid) * self.tokenizer.num_codebooks

    @property
    def positions(self) -> int:
        """P of the backbone: blocks of merge x merge grid positions."""
        return math.prod(self.tokenizer.grid) // self.prior.merge**2

    @property
    def work(self) -> int:
        """About how many multiplications a step of one dream takes, besides its convolutions."""
        prior, tokens, num_variables = self.prior, self.tokens_a_frame, len(self.variable_names)
        seen = prior.window * self.positions
        backbone = prior.layers * prior.width * (12 * prior.width + 2 * seen) * self.positions
        in_a_layer = prior.head_width * (12 * prior.head_width + 2 * tokens)
        backbone += 4 * prior.recalled * self.positions * prior.width**2
        backbone += prior.map_width * (2 * prior.map_width + self.positions * prior.width)
        logits = prior.head_width * self.tokenizer.num_codes
        # Each variable is drawn knowing those before it, all rows at once: V times V rows of V
        # features and of V x bins logits.
        outcomes = 6 * num_variables**4 * prior.num_bins
        return backbone + tokens * (prior.head_layers * in_a_layer + logits) + outcomes


@dataclass(frozen=True)
class VideoVQVAEConfig:
    """Sizes of the VQ-VAE as published, for whole clips (VideoGPT Table 8).

    Attributes:
        clip_shape: (T, H, W, C) of a clip.
        downsampling: pixels to one latent along time, height and width; powers of two.
        hidden_units: channels on the latent grid and between the strided convolutions.
        residual_units: channels inside a residual block.
        residual_layers: residual blocks in the encoder, and again in the decoder.
        attention_heads: of the axial attention in each residual block; 0: no attention.
        num_codes: K, vectors in a codebook.
        code_dim: length of a code's vector.
        num_codebooks: q, codes at each grid position.
        commitment: beta, the weight of the commitment loss.
    """

    clip_shape: tuple[int, int, int, int] = (16, 64, 64, 3)
    downsampling: tuple[int, int, int] = (2, 2, 2)
    hidden_units: int = 240
    residual_units: int = 128
    residual_layers: int = 4
    attention_heads: int = 2
    num_codes: int = 1024
    code_dim: int = 256
    num_codebooks: int = 1
    commitment: float = 0.25

    def __post_init__(self) -> None:
        _check_fields(self, may_be_zero=("attention_heads", "commitment"))
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
                f"hidden_units of {self.hidden_units} can't be shared by "
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

    width: int = 512
    feedforward: int = 2048
    layers: int = 16
    heads: int = 4
    dropout: float = 0.2
    attention: Literal["dense", "sparse"] = "sparse"
    num_actions: int = 0
    on_class: bool = False
    given_frames: int = 0
    resnet_depth: int = 34
    resnet_units: int = 512

    def __post_init__(self) -> None:
        _check_fields(self, may_be_zero=("dropout", "num_actions", "on_class", "given_frames"))
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} can't be shared by {self.heads} heads")
        if self.dropout >= 1:
            raise ValueError(f"dropout must be below 1, not {self.dropout}")
        if self.given_frames and self.resnet_depth not in (18, 34):
            raise ValueError(f"resnet_depth must be 18 or 34, not {self.resnet_depth}")


@dataclass(frozen=True)
class VideoGPTConfig:
    """VideoGPT as published: a tokenizer of clips, a prior over their codes, and the data's
    actions and classes.

    Attributes:
        actions: the data's action space.
        class_names: the data's classes; empty where there are none.
    """

    tokenizer: VideoVQVAEConfig
    prior: GPTConfig
    actions: ActionSpec
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_names(class_names=self.class_names)
        if self.prior.on_class and not self.class_names:
            raise ValueError("the prior is conditioned on classes, but the data have none")
        if max(self.prior.given_frames, self.prior.num_actions) > self.tokenizer.clip_shape[0]:
            raise ValueError("more frames or actions are given than a clip has")
        tokenizer, prior = self.tokenizer, self.prior
        tokens = math.prod(tokenizer.latent_shape)
        # The first convolution halves each axis that is to shrink.
        pairs = zip(tokenizer.clip_shape, tokenizer.downsampling, strict=False)
        halved = math.prod(size // min(2, shrunk) for size, shrunk in pairs)
        _check_products(
            {
                "tokens a clip": (tokens, MOST_TOKENS_A_CLIP),
                "numbers remembered of a clip": (
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
        """Length of the vector that conditions the norms; 0: they are plain."""
        num_classes = len(self.class_names) if self.prior.on_class else 0
        return self.prior.num_actions * self.actions.vector_size + num_classes


@dataclass(frozen=True)
class StageRecipe:
    """How to train one stage.

    Attributes:
        steps: optimiser steps of the whole schedule.
        batch_size: clips a step over all processes; frames a clip in `num_frames`.
        learning_rate: peak; it rises over `warmup` steps.
        decay: share of the schedule over which it falls to zero, at the end: 1: along a cosine, all
            the time; less: constant before, then along a line.
        optimizer: "muon": for the matrices between hidden layers, AdamW for all else.
        corruption: most of the past tokens that are replaced at random (prior only).
        hidden: share of recorded clips whose past can't be seen, in worlds that tell a pose (prior
            only).
        momentum: of the gradient, Adam's first beta.
        dreamed: share of a batch whose past the prior dreamed itself, likewise.
    """

    steps: int
    batch_size: int
    num_frames: int
    learning_rate: float
    warmup: int = 200
    decay: float = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.0
    corruption: float = 0.0
    hidden: float = 0.0
    dreamed: float = 0.0
    momentum: float = 0.9
