"""How a stage is trained, and the named presets of dreams."""

from dataclasses import dataclass, replace
from typing import Literal

from worldmodel.configs.dream import FrameGPTConfig, VQVAEConfig
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import PoseSpec


@dataclass(frozen=True)
class StageRecipe:
    """How to train one stage.

    Attributes:
        steps: optimiser steps of the full schedule.
        batch_size: clips per step, over all processes.
        num_frames: frames per clip.
        learning_rate: peak; it rises over `warmup` steps.
        decay: fraction of the schedule, at its end, over which the learning rate falls to zero.
            1: a cosine over the full schedule; less: constant, then linear.
        optimizer: "muon" for the matrices between hidden layers, with AdamW for the rest.
        corruption: largest fraction of past tokens that are replaced at random (prior only).
        hidden: fraction of recorded clips whose past is hidden, in worlds with a pose (prior only).
        dreamed: fraction of a batch whose past the prior itself dreamed, likewise.
        momentum: Adam's first beta.
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


@dataclass(frozen=True)
class Preset:
    """A dream: everything that `python -m worldmodel.train NAME` needs besides the data.

    Attributes:
        data: folder of its data.
        get: the command that puts them there, without its --out.
        sharp_frames: frames whose codes the sharp decoder sees.
        actions, variable_names, pose: of the data meant; a run takes those of its own data.
    """

    data: str
    get: str
    tokenizer: VQVAEConfig
    prior: FrameGPTConfig
    tokenizer_recipe: StageRecipe
    prior_recipe: StageRecipe
    decoder_recipe: StageRecipe
    sharp_frames: int
    actions: ActionSpec
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

TINY_RECIPE = StageRecipe(steps=20, batch_size=4, num_frames=4, learning_rate=1e-3, warmup=2)

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
        tokenizer_recipe=replace(TINY_RECIPE, batch_size=8, num_frames=1),
        prior_recipe=replace(TINY_RECIPE, num_frames=6, corruption=0.15, hidden=0.4, dreamed=0.5),
        sharp_frames=2,
        decoder_recipe=replace(TINY_RECIPE, num_frames=3, momentum=0.5),
    ),
}
