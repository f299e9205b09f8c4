"""A checkpoint of VideoGPT as published: the files of any checkpoint, with recorded clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from worldmodel import randomness
from worldmodel.checkpoint import AnyCheckpoint
from worldmodel.checkpoint.card import card_text
from worldmodel.checkpoint.files import (
    VIDEOGPT,
    check_actions,
    check_tokenizer_buffers,
    find_kind,
    read_arrays,
    read_parts,
)
from worldmodel.checkpoint.reading import check_same
from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.errors import UserError
from worldmodel.videogpt.configs import VideoGPTConfig
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.stages import clip_tensors

NUM_CLIPS = 16  # in a checkpoint
USE = """
VideoGPT as published: a VQ-VAE of clips and a GPT over their codes. It samples whole clips:
`python -m worldmodel.videogpt.sample {name} --out clips.png`
"""


@dataclass(frozen=True)
class GivenClips:
    """S recorded clips, whose first frames, actions or class a model is conditioned on.

    Attributes:
        frames: uint8 (S, T, H, W, C).
        actions: (S, T-1, *shape), between the frames.
        classes: int64 (S,), indices of class names; zeros where there are none.
    """

    frames: np.ndarray
    actions: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or len(self.frames) == 0:
            raise ValueError("starts: there are no clips")
        num_clips, num_frames = self.frames.shape[:2]
        if self.actions.shape[:2] != (num_clips, num_frames - 1):
            raise ValueError("starts: there should be one action between two frames")
        if self.classes.shape != (num_clips,):
            raise ValueError("starts: there should be one class per clip")


@dataclass(frozen=True)
class VideoGPTCheckpoint(AnyCheckpoint):
    """VideoGPT as published, the environment of its data, and clips to take conditions from."""

    kind: ClassVar[str | None] = VIDEOGPT
    model: VideoGPT
    starts: GivenClips


def load_videogpt(name: str, *, device: str | torch.device = "cpu") -> VideoGPTCheckpoint:
    """Load a checkpoint of VideoGPT as published, in evaluation mode.

    Raises:
        UserError: it is missing, damaged, its files don't belong together, or it is a dream.
    """
    folder = find_kind(name, VIDEOGPT, "worldmodel.sample", name, "--out", "futures.gif")
    model, world, clips, lineage = read_parts(
        folder, VideoGPTConfig, VideoGPT, check_tokenizer_buffers, _read_clips
    )
    return VideoGPTCheckpoint(model.to(device).eval(), world, clips, lineage)


def choose_clips(reader: EpisodeReader, *, num_frames: int) -> GivenClips:
    """Clips of the test split, each of another episode if there are enough.

    Raises:
        UserError: no test episode is long enough.
    """
    sampler = ClipSampler(reader, "test", num_frames, memory_limit_bytes=0)
    rng = randomness.generator(0, "conditions of a checkpoint")
    episodes = rng.permutation(sampler.episodes)[:NUM_CLIPS]
    room = reader.index["episode_length"][episodes] + 1 - num_frames
    rows = np.stack([episodes, rng.integers(room + 1)], 1)
    frames, actions, classes = clip_tensors(sampler.read(rows), reader, torch.device("cpu"))
    return GivenClips(frames.numpy(), actions.numpy(), classes.numpy())


def model_card(checkpoint: VideoGPTCheckpoint, *, name: str) -> str:
    """The text of README.md; `name` is the model's, never a path."""
    config = checkpoint.model.config
    return card_text(
        checkpoint,
        title="VideoGPT",
        use=USE.format(name=name),
        facts=[f"- classes: {len(config.class_names)}"] if config.class_names else [],
        frames=("clips", config.tokenizer.clip_shape),
        moments="clips",
    )


def check_same_data(checkpoint: VideoGPTCheckpoint, reader: EpisodeReader, name: str) -> None:
    """Raises UserError where the data's frames, actions or classes are not those of the model.

    Args:
        name: of the checkpoint, for the message.
    """
    config, info = checkpoint.model.config, reader.info
    pairs: list[tuple[str, object, object]] = [
        ("frames", config.tokenizer.clip_shape[1:], info.frame_shape),
        ("actions", config.actions, info.actions),
        ("classes", config.class_names, info.class_names),
    ]
    check_same(pairs, reader, name)


def _read_clips(path: Path, config: VideoGPTConfig, _version: int) -> GivenClips:
    types = {"frames": np.uint8, "actions": config.actions.dtype, "classes": np.int64}
    clips = GivenClips(**read_arrays(path, types))
    wanted = config.tokenizer.clip_shape
    if clips.frames.shape[1:] != wanted:
        raise UserError(f"{path}: clips should be of shape {wanted}")
    check_actions(path, "actions", clips.actions, config.actions)
    num_classes = max(1, len(config.class_names))
    if not ((clips.classes >= 0) & (clips.classes < num_classes)).all():
        raise UserError(f"{path}: classes should be whole numbers below {num_classes}")
    return clips
