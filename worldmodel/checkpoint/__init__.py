"""A checkpoint: one self-contained folder that a dream lives from, or that gives clips.

    config.json          sizes, actions, variables, and the environment that was learned
    weights.safetensors  the tokenizer's and the prior's weights
    starts.safetensors   real moments to begin from, from the data's test split; of VideoGPT as
                         published: whole clips, whose first frames, actions or class are given
    README.md            the model card, with the measured numbers

Checkpoints are data: nothing is unpickled, and every size is checked before it is used.
"""

from worldmodel.checkpoint.contents import (
    FILES,
    VIDEOGPT,
    Checkpoint,
    GivenClips,
    Lineage,
    Starts,
    VideoGPTCheckpoint,
    World,
)
from worldmodel.checkpoint.digests import file_digest, weights_digest
from worldmodel.checkpoint.reading import (
    find_checkpoint,
    is_videogpt,
    load_checkpoint,
    load_videogpt,
    read_lineage,
    read_world,
)
from worldmodel.checkpoint.starts import StartsAt, choose_starts
from worldmodel.checkpoint.writing import (
    finish_save,
    folder_for_another,
    is_or_was_saved,
    save_checkpoint,
)

__all__ = [
    "FILES",
    "VIDEOGPT",
    "Checkpoint",
    "GivenClips",
    "Lineage",
    "Starts",
    "StartsAt",
    "VideoGPTCheckpoint",
    "World",
    "choose_starts",
    "file_digest",
    "find_checkpoint",
    "finish_save",
    "folder_for_another",
    "is_or_was_saved",
    "is_videogpt",
    "load_checkpoint",
    "load_videogpt",
    "read_lineage",
    "read_world",
    "save_checkpoint",
    "weights_digest",
]
