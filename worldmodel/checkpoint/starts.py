"""Moments of recorded episodes for dreams to begin from."""

from itertools import islice
from typing import Literal

import numpy as np

from worldmodel import randomness
from worldmodel.checkpoint.contents import Starts
from worldmodel.data import EpisodeReader, Split
from worldmodel.errors import UserError

SHOWN_AFTER_START = 32  # frames of the real future that a start leaves to compare with

# "anywhere" with the frames before it, "reset": at an episode's first frame, with nothing before.
StartsAt = Literal["anywhere", "reset"]


def choose_starts(
    reader: EpisodeReader,
    *,
    num_frames: int,
    num_starts: int,
    split: Split = "test",
    starts_at: StartsAt = "anywhere",
    seed: int = 0,
) -> Starts:
    """Moments of a split, each of another episode as long as there are so many.

    Args:
        num_frames: of each start; 1 of starts at a reset.
        num_starts: fewer where the split has fewer episodes.

    Raises:
        UserError: no episode of the split is long enough.
    """
    if starts_at == "reset":
        num_frames = 1
    lengths = reader.index["episode_length"].astype(int)
    members = [int(i) for i in reader.split(split) if lengths[i] + 1 >= num_frames]
    if not members:
        raise UserError(
            f"{reader.folder}: no {split} episode has {num_frames} frames to start from: record "
            "more or longer episodes"
        )
    rng = randomness.generator(seed, "starts", split)
    order = rng.permutation(members)
    # Of a joined set, those whose pose is known.
    told = (i for i in order if not np.isnan(reader.steps(int(i))["pose"]).any())
    chosen = np.array(list(islice(told, num_starts)) or order[:num_starts])
    latest = np.where(starts_at == "reset", 0, lengths[chosen] - SHOWN_AFTER_START)
    latest = latest.clip(num_frames - 1)
    moments = [int(rng.integers(num_frames - 1, last + 1)) for last in latest]
    steps = [reader.steps(int(i)) for i in chosen]
    longest = max(moments)
    prefixes = [
        np.concatenate([step["action"][:moment], step["action"][:1].repeat(longest - moment, 0)])
        for step, moment in zip(steps, moments, strict=True)
    ]
    spans = [(moment + 1 - num_frames, moment + 1) for moment in moments]

    def cut(name: str, num_less: int = 0) -> np.ndarray:
        parts = zip(steps, spans, strict=True)
        return np.stack([step[name][first : end - num_less] for step, (first, end) in parts])

    frames = [reader.frames(int(i), *span) for i, span in zip(chosen, spans, strict=True)]
    return Starts(
        frames=np.stack(frames),
        actions=cut("action", 1),
        variables=cut("variables"),
        poses=cut("pose"),
        seeds=reader.index["seed"][chosen].astype(np.int64),
        prefix_lengths=np.asarray(moments, np.int64),
        prefixes=np.stack(prefixes),
    )
