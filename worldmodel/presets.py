"""Sizes of models: frozen configs, and every named preset."""

from dataclasses import dataclass, field, replace

from worldmodel.actions import ActionSpec

LARGEST_SIZE = 2**16  # of any one number in a config, which may come from a stranger


def _check_sizes(config: object, *, may_be_zero: tuple[str, ...] = ()) -> None:
    """Raises ValueError unless every number is positive and not absurd."""
    for name, value in vars(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or not 0 <= number <= LARGEST_SIZE:
                raise ValueError(f"{name} must be from 0 to {LARGEST_SIZE}, not {number!r}")
            if number == 0 and name not in may_be_zero:
                raise ValueError(f"{name} must not be 0")


@dataclass(frozen=True)
class VQVAEConfig:
    """Sizes of the tokenizer.

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
        _check_sizes(self, may_be_zero=("attention_heads", "commitment"))
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

    def __post_init__(self) -> None:
        _check_sizes(self)
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


@dataclass(frozen=True)
class StageRecipe:
    """How to train one stage.

    Attributes:
        steps: optimiser steps of the whole schedule.
        batch_size: clips a step over all processes; frames a clip in `num_frames`.
        learning_rate: peak; it rises over `warmup` steps, then falls along a cosine to zero.
        corruption: most of the past tokens that are replaced at random (prior only).
    """

    steps: int
    batch_size: int
    num_frames: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.0
    corruption: float = 0.0


@dataclass(frozen=True)
class Preset:
    """Everything that `python -m worldmodel.train NAME` needs to know but the data."""

    data: str
    tokenizer: VQVAEConfig
    prior: FrameGPTConfig
    tokenizer_recipe: StageRecipe
    prior_recipe: StageRecipe


_DREAM_DOOM = Preset(
    data="data/doom-hgs",
    tokenizer=VQVAEConfig(),
    prior=FrameGPTConfig(),
    tokenizer_recipe=StageRecipe(
        steps=12_000, batch_size=64, num_frames=1, learning_rate=7e-4, warmup=100
    ),
    prior_recipe=StageRecipe(
        steps=20_000,
        batch_size=6,
        num_frames=17,
        learning_rate=1e-3,
        weight_decay=0.01,
        corruption=0.15,
    ),
)

PRESETS: dict[str, Preset] = {
    "dream-doom": _DREAM_DOOM,
    # For tests and `make smoke`: learns nothing worth seeing, in seconds.
    "tiny": replace(
        _DREAM_DOOM,
        tokenizer=VQVAEConfig(
            hidden_units=32, residual_units=16, residual_layers=1, num_codes=32, code_dim=8
        ),
        prior=FrameGPTConfig(
            width=32, layers=2, heads=2, window=4, head_width=32, head_heads=2, num_bins=8
        ),
        tokenizer_recipe=StageRecipe(
            steps=20, batch_size=8, num_frames=1, learning_rate=1e-3, warmup=2
        ),
        prior_recipe=StageRecipe(
            steps=20, batch_size=4, num_frames=6, learning_rate=1e-3, warmup=2, corruption=0.15
        ),
    ),
}
