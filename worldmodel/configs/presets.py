"""How a stage is trained, the named presets of dreams, and one chosen from the data."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from worldmodel.configs.dream import RECENT, FrameGPTConfig, VQVAEConfig
from worldmodel.data import SPLITS, EpisodeReader
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import PoseSpec


@dataclass(frozen=True)
class StageRecipe:
    """How to train one stage.

    Attributes:
        steps: optimiser steps of the full schedule.
        batch_size: clips per step, over all processes.
        num_frames: frames per clip.
        learning_rate: peak; it rises over `warmup` steps, or the first tenth of the schedule.
        decay: fraction of the schedule, at its end, over which the learning rate falls to zero.
            1: a cosine over the full schedule; less: constant, then linear.
        optimizer: "muon" for the matrices between hidden layers, with AdamW for the rest.
        corruption: largest fraction of past tokens that are replaced at random (prior only).
        hidden: fraction of clips whose past is hidden, in worlds with a pose (prior only).
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
    momentum: float = 0.9


@dataclass(frozen=True)
class Preset:
    """A dream: everything that `python -m worldmodel.train NAME` needs besides the data.

    Attributes:
        data: folder of its data.
        get: the command that puts them there, without its --out.
        sharp_frames: frames whose codes the sharp decoder sees.
        actions, variable_names, pose: of the data meant; a run takes those of its own data.
        place_recipe: of the stage before the prior, in worlds with a pose; a batch is of moments.
        start: shipped checkpoint whose tokenizer the tokenizer starts from; None: random weights.
    """

    data: str
    get: str
    tokenizer: VQVAEConfig
    prior: FrameGPTConfig
    tokenizer_recipe: StageRecipe
    place_recipe: StageRecipe
    prior_recipe: StageRecipe
    decoder_recipe: StageRecipe
    sharp_frames: int
    actions: ActionSpec
    variable_names: tuple[str, ...]
    pose: PoseSpec
    start: str | None = None


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
    prior=FrameGPTConfig(map_width=768, recalled=4),
    pose=PoseSpec(("x", "y"), "angle"),
    tokenizer_recipe=StageRecipe(
        steps=12_000, batch_size=64, num_frames=1, learning_rate=7e-4, warmup=100
    ),
    place_recipe=StageRecipe(
        steps=4_000, batch_size=256, num_frames=1, learning_rate=5e-3, warmup=50
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
        hidden=0.3,
    ),
    sharp_frames=3,
    decoder_recipe=StageRecipe(
        steps=30_000, batch_size=8, num_frames=4, learning_rate=2e-4, momentum=0.5
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
            recalled=2,
        ),
        tokenizer_recipe=replace(TINY_RECIPE, batch_size=8, num_frames=1),
        place_recipe=replace(TINY_RECIPE, batch_size=32, num_frames=1),
        prior_recipe=replace(TINY_RECIPE, num_frames=6, corruption=0.15, hidden=0.4),
        sharp_frames=2,
        decoder_recipe=replace(TINY_RECIPE, num_frames=3, momentum=0.5),
    ),
}

# Of the presets `auto` and `auto-small`: in little time many small steps learn most
# (docs/decisions.md).
START = "dream-doom"
SMALL_TOKENIZER_STEPS = {"batch_size": 4, "learning_rate": 1e-3, "warmup": 20}
SMALL_PLACE_STEPS = {"steps": 2_000}
SMALL_PRIOR_STEPS = {"batch_size": 2, "warmup": 50}
SMALL_PRIOR = {"width": 128, "layers": 4, "head_width": 192, "map_width": 384}
WANTED_TOKENS = 64  # a frame, as in dream-doom
PIXELS_A_TOKEN = (2, 4, 8, 16, 32)  # along each side
MOST_TOKENS = 256  # a frame; the time to sample is proportional to it
TOKENIZER_EPOCHS, PRIOR_EPOCHS = 8, 20  # about those of dream-doom
TOKENIZER_STEPS, PRIOR_STEPS = (3_000, 20_000), (5_000, 40_000)  # the fewest, the most
COVERED = 0.9  # fraction of the frames that are in episodes long enough for a clip


def auto_preset(reader: EpisodeReader, *, small: bool = False) -> Preset:
    """dream-doom, adapted to other data.

    A frame becomes 64 tokens, or as few more as its size allows; clips and the window are shorter
    where episodes are short; the schedules are longer with more data.

    Args:
        small: a smaller prior and small batches: it learns more from an hour of one or two CPU
            cores, and less from a day.

    Raises:
        UserError: the frames can't be cut into a suitable number of tokens.
    """
    info, base = reader.info, PRESETS["dream-doom"]
    if small:
        base = replace(
            base,
            prior=replace(base.prior, **SMALL_PRIOR),
            tokenizer_recipe=replace(base.tokenizer_recipe, **SMALL_TOKENIZER_STEPS),
            place_recipe=replace(base.place_recipe, **SMALL_PLACE_STEPS),
            prior_recipe=replace(base.prior_recipe, **SMALL_PRIOR_STEPS),
        )
    height, width, _ = info.frame_shape
    downsampling = pixels_a_token(height, width)
    if downsampling is None:
        raise UserError(
            f"{reader.folder}: frames of {height}x{width} can't be cut into some 8x8 tokens: "
            "record or import them again with --size 64, or another multiple of 32 up to 256"
        )
    num_frames = clip_length(reader)
    train = reader.split("train")
    num_train_frames = int((reader.index["episode_length"][train] + 1).sum())
    window = max(1, num_frames * base.prior.window // base.prior_recipe.num_frames)

    def steps(epochs: int, frames_a_step: int, limits: tuple[int, int]) -> int:
        return int(np.clip(epochs * num_train_frames // frames_a_step, *limits))

    tokenizer, prior = base.tokenizer_recipe, replace(base.prior_recipe, num_frames=num_frames)
    tokenizer_config = replace(
        base.tokenizer, frame_shape=info.frame_shape, downsampling=downsampling
    )
    return replace(
        base,
        data=str(reader.folder),
        start=START if tokenizer_config.has_weights_of(base.tokenizer) else None,
        actions=info.actions,
        variable_names=info.variable_names,
        pose=info.pose,
        tokenizer=tokenizer_config,
        prior=replace(
            base.prior, window=window, map_width=base.prior.map_width * (window >= RECENT)
        ),
        tokenizer_recipe=replace(
            tokenizer, steps=steps(TOKENIZER_EPOCHS, tokenizer.batch_size, TOKENIZER_STEPS)
        ),
        prior_recipe=replace(
            prior, steps=steps(PRIOR_EPOCHS, prior.batch_size * num_frames, PRIOR_STEPS)
        ),
    )


def pixels_a_token(height: int, width: int) -> int | None:
    """The power of two that divides frames into the fewest tokens that are at least 64, or, in
    small frames, into as many as possible. None: no power of two gives complete blocks of tokens,
    and not too many."""
    merge = PRESETS["dream-doom"].prior.merge
    num_tokens = {
        side: height // side * (width // side)
        for side in PIXELS_A_TOKEN
        if height % (merge * side) == 0 and width % (merge * side) == 0
    }
    fitting = [side for side, count in num_tokens.items() if count <= MOST_TOKENS]
    enough = [side for side in fitting if num_tokens[side] >= WANTED_TOKENS]
    return max(enough) if enough else min(fitting, default=None)


def clip_length(reader: EpisodeReader) -> int:
    """Frames of a training clip: as in dream-doom, or fewer where episodes are shorter."""
    num_frames = reader.index["episode_length"] + 1
    longest_of_all = PRESETS["dream-doom"].prior_recipe.num_frames
    in_every_split = min(
        int(num_frames[members].max(initial=0)) for members in map(reader.split, SPLITS)
    )
    for length in range(min(longest_of_all, in_every_split), 2, -1):
        if num_frames[num_frames >= length].sum() >= COVERED * num_frames.sum():
            return length
    return 2


def shortage(preset: Preset, reader: EpisodeReader) -> str | None:
    """What is lost because the episodes of a split are short, in one line; None: nothing."""
    frames = reader.index["episode_length"] + 1
    longest = {split: int(frames[reader.split(split)].max()) for split in SPLITS}
    split = min(longest, key=lambda name: longest[name])
    if longest[split] >= PRESETS["dream-doom"].prior_recipe.num_frames:
        return None
    lost = " and without poses" if preset.pose and not preset.prior.map_width else ""
    return (
        f"no {split} episode has more than {longest[split]} frames, so the dream learns from clips "
        f"of {preset.prior_recipe.num_frames} frames{lost}: record longer episodes, or more of them"
    )


def summary(preset: Preset) -> str:
    """What was chosen, in one line."""
    tokenizer, recipe = preset.tokenizer, preset.prior_recipe
    rows, columns = tokenizer.grid
    return (
        f"chosen for these data: {rows}x{columns} tokens a frame, clips of {recipe.num_frames} "
        f"frames, a window of {preset.prior.window}"
    )
