"""The preset `auto`: a dream whose sizes and recipe are chosen from the data."""

from dataclasses import replace

import numpy as np

from worldmodel.configs.presets import PRESETS, Preset
from worldmodel.data import SPLITS, EpisodeReader
from worldmodel.errors import UserError
from worldmodel.prior.pose import RECENT

WANTED_TOKENS = 64  # a frame, as in dream-doom
PIXELS_A_TOKEN = (2, 4, 8, 16, 32)  # along each side
MOST_TOKENS = 256  # a frame; the time to sample is proportional to it
TOKENIZER_EPOCHS, PRIOR_EPOCHS = 8, 20  # about those of dream-doom
TOKENIZER_STEPS, PRIOR_STEPS = (3_000, 20_000), (5_000, 40_000)  # the fewest, the most
COVERED = 0.9  # fraction of the frames that are in episodes long enough for a clip


def auto_preset(reader: EpisodeReader) -> Preset:
    """dream-doom, adapted to other data.

    A frame becomes 64 tokens, or as few more as its size allows; clips and the window are shorter
    where episodes are short; the schedules are longer with more data.

    Raises:
        UserError: the frames can't be cut into a suitable number of tokens.
    """
    info, doom = reader.info, PRESETS["dream-doom"]
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
    window = max(1, num_frames * doom.prior.window // doom.prior_recipe.num_frames)

    def steps(epochs: int, frames_a_step: int, limits: tuple[int, int]) -> int:
        return int(np.clip(epochs * num_train_frames // frames_a_step, *limits))

    tokenizer, prior = doom.tokenizer_recipe, replace(doom.prior_recipe, num_frames=num_frames)
    return replace(
        doom,
        data=str(reader.folder),
        actions=info.actions,
        variable_names=info.variable_names,
        pose=info.pose,
        tokenizer=replace(doom.tokenizer, frame_shape=info.frame_shape, downsampling=downsampling),
        prior=replace(
            doom.prior, window=window, map_width=doom.prior.map_width * (window >= RECENT)
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


def summary(preset: Preset) -> str:
    """What was chosen, in one line."""
    tokenizer, recipe = preset.tokenizer, preset.prior_recipe
    rows, columns = tokenizer.grid
    return (
        f"chosen for these data: {rows}x{columns} tokens a frame, clips of {recipe.num_frames} "
        f"frames, a window of {preset.prior.window}; {preset.tokenizer_recipe.steps} steps for the "
        f"tokenizer, {recipe.steps} for the prior"
    )
