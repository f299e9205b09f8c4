"""A checkpoint: one self-contained folder with a model and everything needed to use it.

    config.json          sizes, actions, variables, and the environment that was learned
    weights.safetensors  weights of the tokenizer, the prior and any sharp decoder
    starts.safetensors   recorded moments to start from, from the data's test split
    policy.safetensors   a policy to play it, if it has one (`envs.policy_file`)
    README.md            the model card, with the measured numbers

Checkpoints are data: nothing is unpickled, and every size is checked before it is used.
"""

from worldmodel.checkpoint.contents import (
    CHECKPOINT,
    FILES,
    POLICY_FILE,
    AnyCheckpoint,
    Checkpoint,
    Lineage,
    Starts,
    StartsAt,
    World,
    choose_starts,
)
from worldmodel.checkpoint.files import (
    checkpoint_digest,
    find_checkpoint,
    find_kind,
    read_lineage,
    read_world,
    weights_digest,
)
from worldmodel.checkpoint.reading import check_same_world, load_checkpoint
from worldmodel.checkpoint.writing import (
    carry_policy,
    finish_save,
    folder_for_another,
    is_or_was_saved,
    save_checkpoint,
)

__all__ = [
    "CHECKPOINT",
    "FILES",
    "POLICY_FILE",
    "AnyCheckpoint",
    "Checkpoint",
    "Lineage",
    "Starts",
    "StartsAt",
    "World",
    "carry_policy",
    "check_same_world",
    "checkpoint_digest",
    "choose_starts",
    "find_checkpoint",
    "find_kind",
    "finish_save",
    "folder_for_another",
    "is_or_was_saved",
    "load_checkpoint",
    "read_lineage",
    "read_world",
    "save_checkpoint",
    "weights_digest",
]
