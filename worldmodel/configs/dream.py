"""Sizes of a dream: its tokenizer, its prior, and the world that they model."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, Strict

from worldmodel.configs.checks import (
    Layers,
    Names,
    Size,
    SizeOrZero,
    TokenizerConfig,
    check_products,
)
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec

# Bounds on products: a file of a megabyte can ask for 16 GiB. What ships is below a thousandth.
MOST_WINDOW = 1024  # frames
MOST_SHARP_FRAMES = 16
MOST_CODES_RECALLED = 2**15  # older frames are stored as int16
MOST_TOKENS_A_FRAME = 2**12  # sampled one by one
MOST_POSITIONS = 2**13  # of the backbone in a window: a mask has the square of it
MOST_CACHED = 2**28  # numbers in the keys and values of one dream: 1 GiB
MOST_ACTIVATIONS = 2**28  # numbers in a layer of the tokenizer, for one frame
MOST_WORK = 2**36  # multiplications in a step of one dream: half a minute of one core

RECALL_WIDTH = 128  # of the network from older frames to the next
RECENT = 4  # displacements, and actions besides the newest, that the next pose depends on


@dataclass(frozen=True)
class VQVAEConfig(TokenizerConfig):
    """Sizes of the tokenizer of single frames, for dreams. Its hidden units are halved at each
    doubling of the resolution.

    Attributes:
        frame_shape: (H, W, C) of a frame.
        downsampling: pixels per token along each side; a power of two.
    """

    frame_shape: tuple[Size, Size, Size] = (64, 64, 3)
    downsampling: Size = 8

    def __post_init__(self) -> None:
        height, width, _ = self.frame_shape
        if self.downsampling < 2 or self.downsampling & (self.downsampling - 1):
            raise ValueError(f"downsampling must be a power of two, not {self.downsampling}")
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(
                f"frames of {height}x{width} can't be cut into tokens of "
                f"{self.downsampling}x{self.downsampling} pixels"
            )

    def has_weights_of(self, other: "VQVAEConfig") -> bool:
        """Whether the two tokenizers' weights have the same shapes: only their frames' height and
        width may differ."""
        frame_shape = (*other.frame_shape[:2], self.frame_shape[2])
        return replace(self, frame_shape=frame_shape) == other

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each halving of the resolution, from the pixels down to the grid."""
        num_halvings = self.downsampling.bit_length() - 1
        return tuple(self.hidden_units >> (num_halvings - 1 - i) for i in range(num_halvings))

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the tokens of a frame."""
        height, width, _ = self.frame_shape
        return height // self.downsampling, width // self.downsampling


@dataclass(frozen=True)
class FrameGPTConfig:
    """Sizes of the dream's prior.

    Attributes:
        width: D of the backbone.
        layers, heads: of the backbone.
        merge: the backbone sees blocks of merge x merge tokens as one position.
        window: frames that a frame attends to, itself included.
        head_width, head_layers, head_heads: of the head that samples a frame's tokens.
        num_bins: largest number of values that a predicted reward or change of a variable takes.
        map_width: of the network from the next pose to the view there, in worlds with a pose; 0:
            the pose is not used.
        recalled: older frames that a frame is predicted from, besides the window; 0: none.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    width: Size = 256
    layers: Layers = 6
    heads: Size = 4
    merge: Size = 2
    window: Size = 12
    head_width: Size = 256
    head_layers: Layers = 1
    head_heads: Size = 4
    num_bins: Size = 32
    map_width: SizeOrZero = 0
    recalled: SizeOrZero = 0

    def __post_init__(self) -> None:
        if self.width % (8 * self.heads):
            raise ValueError(
                f"a width of {self.width} can't be divided into {self.heads} heads of a size "
                "divisible by 8, which rotary positions need"
            )
        if self.head_width % self.head_heads:
            raise ValueError(
                f"a head_width of {self.head_width} can't be divided into {self.head_heads} heads"
            )


@dataclass(frozen=True)
class WorldModelConfig:
    """A tokenizer, a prior, and the world that they model.

    Attributes:
        sharp_frames: frames whose codes the sharp decoder sees; 0: there is no sharp decoder.
    """

    actions: ActionSpec
    variable_names: Names
    tokenizer: VQVAEConfig = field(default_factory=VQVAEConfig)
    prior: FrameGPTConfig = field(default_factory=FrameGPTConfig)
    pose: PoseSpec = NO_POSE
    sharp_frames: Annotated[int, Field(ge=0, le=MOST_SHARP_FRAMES), Strict()] = 0

    def __post_init__(self) -> None:
        if self.sharp_frames == 1:
            raise ValueError("sharp_frames must be 0, or at least 2")
        if any(side % self.prior.merge for side in self.tokenizer.grid):
            raise ValueError(
                f"blocks of {self.prior.merge} tokens don't tile a grid of {self.tokenizer.grid}"
            )
        if self.pose and not self.prior.map_width:
            raise ValueError("a prior with a pose needs a map_width above 0")
        if self.prior.recalled and self.tokenizer.num_codes > MOST_CODES_RECALLED:
            raise ValueError(
                f"a prior that recalls frames can have at most {MOST_CODES_RECALLED} codes"
            )
        tokenizer, prior = self.tokenizer, self.prior
        check_products(
            {
                "frames in the window": (prior.window, MOST_WINDOW),
                "tokens a frame": (self.tokens_a_frame, MOST_TOKENS_A_FRAME),
                "positions in the window": (prior.window * self.positions, MOST_POSITIONS),
                "codes of older frames": (prior.recalled * self.tokens_a_frame, MOST_POSITIONS),
                "keys and values of a dream": (
                    2 * prior.layers * prior.window * self.positions * prior.width,
                    MOST_CACHED,
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
    def used_pose(self) -> PoseSpec:
        """The pose that the prior predicts and sees; NO_POSE where it has no map."""
        return self.pose if self.prior.map_width else NO_POSE

    @property
    def tokens_a_frame(self) -> int:
        """Codes of a frame, which are sampled one by one."""
        return math.prod(self.tokenizer.grid) * self.tokenizer.num_codebooks

    @property
    def num_pose_uniforms(self) -> int:
        """Number of random numbers that sampling the next pose takes."""
        return 1 + len(self.used_pose) if self.used_pose else 0

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of the backbone's positions: blocks of merge x merge tokens."""
        height, width = self.tokenizer.grid
        return height // self.prior.merge, width // self.prior.merge

    @property
    def positions(self) -> int:
        """P of the backbone."""
        return math.prod(self.blocks)

    @property
    def work(self) -> int:
        """About how many multiplications a step of one dream takes, without convolutions."""
        prior, tokens, num_variables = self.prior, self.tokens_a_frame, len(self.variable_names)
        seen = prior.window * self.positions
        backbone = prior.layers * prior.width * (12 * prior.width + 2 * seen) * self.positions
        in_a_layer = prior.head_width * (12 * prior.head_width + 2 * tokens)
        per_token = RECALL_WIDTH * (8 * RECALL_WIDTH + tokens * prior.recalled)
        backbone += (1 + prior.recalled) * tokens * per_token if prior.recalled else 0
        backbone += prior.map_width * (2 * prior.map_width + self.positions * prior.width)
        logits = prior.head_width * self.tokenizer.num_codes
        # Each variable is sampled given those before it, all rows at once: V times V rows of V
        # features and of V x bins logits.
        outcomes = 6 * num_variables**4 * prior.num_bins
        return backbone + tokens * (prior.head_layers * in_a_layer + logits) + outcomes
