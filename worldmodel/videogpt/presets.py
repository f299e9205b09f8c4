"""The presets of VideoGPT as published (Tables 8 and 9)."""

from dataclasses import dataclass, replace

from worldmodel.configs.presets import (
    BATTLE2_ACTIONS,
    HGS_ACTIONS,
    RECORD_BATTLE2,
    RECORD_HGS,
    TINY_RECIPE,
    StageRecipe,
)
from worldmodel.interface.actions import NO_ACTION, ActionSpec
from worldmodel.videogpt.configs import GPTConfig, VideoVQVAEConfig

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
    "tiny-videogpt": PublishedPreset(
        data="data/doom-hgs",
        get=RECORD_HGS,
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
        actions=HGS_ACTIONS,
        source="made up",
    ),
}
