"""The named presets of dreams."""

from dataclasses import dataclass, replace

from worldmodel.configs.dream import FrameGPTConfig, VQVAEConfig
from worldmodel.configs.recipe import StageRecipe
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import PoseSpec


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


RECORD_HGS = "python -m collect.vizdoom --scenario hgs --episodes 1000 --length 100"
RECORD_BATTLE2 = "python -m collect.vizdoom --scenario battle2 --episodes 1000 --length 100"
HGS_ACTIONS = ActionSpec("discrete", (4,), meanings=("noop", "left", "right", "forward"))
BATTLE2_ACTIONS = ActionSpec(
    "multi_discrete", (3, 3, 2, 2, 11), meanings=("walk", "strafe", "attack", "sprint", "turn")
)
_DREAM_DOOM = Preset(
    data="data/doom-hgs",
    get=RECORD_HGS,
    actions=HGS_ACTIONS,
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
        get=RECORD_BATTLE2,
        actions=BATTLE2_ACTIONS,
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
