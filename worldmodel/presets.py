"""Every named preset: the dreams, and VideoGPT as published."""

from dataclasses import dataclass, replace

from worldmodel.actions import NO_ACTION, ActionSpec
from worldmodel.configs import (
    FrameGPTConfig,
    GPTConfig,
    StageRecipe,
    VideoVQVAEConfig,
    VQVAEConfig,
)
from worldmodel.pose import PoseSpec


@dataclass(frozen=True)
class Preset:
    """A dream: everything that `python -m worldmodel.train NAME` needs to know but the data.

    Attributes:
        data: where its data are looked for.
        get: the command that puts them there, less its --out.
    """

    data: str
    get: str
    tokenizer: VQVAEConfig
    prior: FrameGPTConfig
    tokenizer_recipe: StageRecipe
    prior_recipe: StageRecipe
    decoder_recipe: StageRecipe
    sharp_frames: int  # whose codes the sharp decoder sees
    actions: ActionSpec  # of the data meant; a run takes its data's own
    variable_names: tuple[str, ...]
    pose: PoseSpec


_RECORD_HGS = "python -m collect.vizdoom --scenario hgs --episodes 1000 --length 100"
_RECORD_BATTLE2 = "python -m collect.vizdoom --scenario battle2 --episodes 1000 --length 100"
_IMPORT = "python -m worldmodel.data"
_HGS_ACTIONS = ActionSpec("discrete", (4,), meanings=("noop", "left", "right", "forward"))
_BATTLE2_ACTIONS = ActionSpec(
    "multi_discrete", (3, 3, 2, 2, 11), meanings=("walk", "strafe", "attack", "sprint", "turn")
)
_DREAM_DOOM = Preset(
    data="data/doom-hgs",
    get=_RECORD_HGS,
    actions=_HGS_ACTIONS,
    variable_names=("health", "pickups"),
    tokenizer=VQVAEConfig(),
    prior=FrameGPTConfig(map_width=768, tells_age=True, recalled=4),
    pose=PoseSpec(("x", "y"), "angle"),
    tokenizer_recipe=StageRecipe(
        steps=12_000, batch_size=64, num_frames=1, learning_rate=7e-4, warmup=100
    ),
    prior_recipe=StageRecipe(
        steps=20_000,
        batch_size=8,
        num_frames=17,
        learning_rate=1e-3,
        decay=0.2,
        optimizer="muon",
        weight_decay=0.01,
        corruption=0.15,
        hidden=0.4,
        dreamed=0.5,
    ),
    sharp_frames=3,
    decoder_recipe=StageRecipe(
        steps=30_000, batch_size=8, num_frames=4, learning_rate=4e-4, momentum=0.5
    ),
)

PRESETS: dict[str, Preset] = {
    "dream-doom": _DREAM_DOOM,
    "dream-battle2": replace(
        _DREAM_DOOM,
        data="data/doom-battle2",
        get=_RECORD_BATTLE2,
        actions=_BATTLE2_ACTIONS,
        variable_names=("health", "ammo", "kills"),
    ),
    "dream-pushing": replace(
        _DREAM_DOOM,
        data="data/pushing",
        get="python -m collect.pushing",
        actions=ActionSpec(
            "box", low=(-1.0,) * 4, high=(1.0,) * 4, meanings=("dx", "dy", "dz", "close")
        ),
        variable_names=("x", "y", "z", "closed", "moved"),
        pose=PoseSpec(("x", "y", "z")),
    ),
    # For tests and `make smoke`: learns nothing worth seeing, in seconds.
    "tiny": replace(
        _DREAM_DOOM,
        tokenizer=VQVAEConfig(
            hidden_units=32, residual_units=16, residual_layers=1, num_codes=32, code_dim=8
        ),
        prior=FrameGPTConfig(
            width=32,
            layers=2,
            heads=2,
            window=4,
            head_width=32,
            head_heads=2,
            num_bins=8,
            map_width=16,
            tells_age=True,
            recalled=2,
        ),
        tokenizer_recipe=StageRecipe(
            steps=20, batch_size=8, num_frames=1, learning_rate=1e-3, warmup=2
        ),
        prior_recipe=StageRecipe(
            steps=20,
            batch_size=4,
            num_frames=6,
            learning_rate=1e-3,
            warmup=2,
            corruption=0.15,
            hidden=0.4,
            dreamed=0.5,
        ),
        sharp_frames=2,
        decoder_recipe=StageRecipe(
            steps=20, batch_size=4, num_frames=3, learning_rate=1e-3, warmup=2, momentum=0.5
        ),
    ),
}


@dataclass(frozen=True)
class PublishedPreset:
    """VideoGPT as published: a column of Tables 8 and 9.

    Attributes:
        data: where its data are looked for.
        get: the command that puts them there, less its --out.
        source: where the paper says so, and where it is left.
    """

    data: str
    get: str
    tokenizer: VideoVQVAEConfig
    prior: GPTConfig
    tokenizer_recipe: StageRecipe
    prior_recipe: StageRecipe
    source: str
    actions: ActionSpec = NO_ACTION  # of the data meant; a run takes its data's own


def _recipe(steps: int, learning_rate: float) -> StageRecipe:
    """Tables 8 and 9: 32 clips of 16 frames a step. The warm-up is ours: the paper is silent."""
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
_VIZDOOM_HGS = PublishedPreset(
    data="data/doom-hgs",
    get=_RECORD_HGS,
    tokenizer=VideoVQVAEConfig(),
    prior=GPTConfig(num_actions=15),  # 60 = 15 actions, one of 4 each
    tokenizer_recipe=_recipe(100_000, 7e-4),
    prior_recipe=_recipe(150_000, 3e-4),
    actions=_HGS_ACTIONS,
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
        get=_RECORD_BATTLE2,
        actions=_BATTLE2_ACTIONS,
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
        tokenizer_recipe=_recipe(100_000, 7e-4),
        prior_recipe=_recipe(600_000, 3e-4),
    ),
    # For tests: learns nothing worth seeing, in seconds.
    "tiny-videogpt": PublishedPreset(
        data="data/doom-hgs",
        get=_RECORD_HGS,
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
        tokenizer_recipe=StageRecipe(
            steps=20, batch_size=4, num_frames=4, learning_rate=1e-3, warmup=2
        ),
        prior_recipe=StageRecipe(
            steps=20, batch_size=4, num_frames=4, learning_rate=1e-3, warmup=2
        ),
        actions=_HGS_ACTIONS,
        source="made up",
    ),
}
