"""Draw short windows of frames out of a set of episodes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldmodel.command import track
from worldmodel.data.reader import EpisodeReader, Split
from worldmodel.errors import UserError


@dataclass(frozen=True)
class Clips:
    """B windows of T frames; action t leads from frame t to frame t+1.

    Attributes:
        frames: uint8 (B, T, H, W, C), or what the sampler holds in their place.
        action: (B, T-1, *shape), in the action space's type.
        reward: float32 (B, T-1).
        terminated: bool (B, T-1).
        variables: float32 (B, T, V).
        pose: float32 (B, T, P).
    """

    frames: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    variables: np.ndarray
    pose: np.ndarray

    def __getitem__(self, rows: slice | np.ndarray) -> "Clips":
        """Some of the clips."""
        return Clips(**{name: array[rows] for name, array in vars(self).items()})


class ClipSampler:
    """All windows of `num_frames` frames in one split of a data set.

    Frames are held unpacked in RAM when they fit, else read from disk for every batch; the
    clips are the same. Episodes shorter than the window are left out.

    Args:
        reader: the data set.
        split: whose episodes.
        num_frames: T, at least 1.
        memory_limit_bytes: the most that the unpacked frames may take.
        frames_of: gives what to hold of the i-th episode in place of its pixels, (T+1, ...),
            for example codes. Always held in RAM.
        player: the index's "policy" of the episodes that count; all count by default.
        with_pose: leave out episodes whose pose is unknown.

    Attributes:
        num_windows: how many there are.
        in_memory: whether the frames are held.

    Raises:
        UserError: no episode of the split is long enough.
    """

    def __init__(
        self,
        reader: EpisodeReader,
        split: Split,
        num_frames: int,
        memory_limit_bytes: int = 8 * 2**30,
        frames_of: Callable[[int], np.ndarray] | None = None,
        player: bytes | None = None,
        with_pose: bool = False,
    ) -> None:
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, not {num_frames}")
        self.reader = reader
        self.num_frames = num_frames
        members = reader.split(split)
        if player is not None:
            members = members[reader.index["policy"][members] == player]
        if with_pose:
            has_pose = [np.isfinite(reader.steps(int(i))["pose"][:1]).all() for i in members]
            members = members[np.asarray(has_pose, bool)]
        lengths = reader.index["episode_length"][members] + 1  # in frames
        is_long = lengths >= num_frames
        if not is_long.any():
            by = "" if player is None else f" by {player.decode()}"
            raise UserError(
                f"{reader.folder}: no episode of the {len(members)} in the {split} split{by} has "
                f"{num_frames} frames (the longest has {lengths.max(initial=0)}): record more or "
                "longer episodes, or take shorter clips"
            )
        self.episodes, lengths = members[is_long], lengths[is_long]
        self._last_starts = lengths - num_frames
        self._beyond = max(0, num_frames - 2)  # a window there still holds one of its steps
        self.num_windows = int((self._last_starts + 1).sum())
        self._num_steps = int((lengths - 1).sum())
        # Where each episode of the whole set begins in the flat arrays below; -1: nowhere.
        self._frame_start = np.full(len(reader), -1)
        self._frame_start[self.episodes] = np.cumsum(lengths) - lengths
        self._step_start = np.full(len(reader), -1)
        self._step_start[self.episodes] = np.cumsum(lengths - 1) - (lengths - 1)
        num_bytes = int(lengths.sum()) * math.prod(reader.info.frame_shape)
        self.in_memory = frames_of is not None or num_bytes <= memory_limit_bytes
        self._frames, self._steps = self._load(split, frames_of or reader.frames)

    def draw(self, rng: np.random.Generator, batch_size: int) -> np.ndarray:
        """Windows drawn uniformly with replacement.

        Returns:
            int64 (batch_size, 2): the episode's position in the reader's index, and the
            window's first frame.
        """
        return self._drawn(rng, batch_size, beyond=0)

    def draw_evenly(self, rng: np.random.Generator, batch_size: int) -> np.ndarray:
        """Windows drawn so that an episode's first and last steps come about as often as others.

        Of windows drawn uniformly, a step in the middle lies in T - 1, the last one, perhaps a
        death, in one alone. Here the first and the last window also stand for those that would
        begin before the episode, or end after it; a step then comes at most three times as often as
        another. `step_weights` makes up for that.

        Returns:
            As `draw`.
        """
        return self._drawn(rng, batch_size, beyond=self._beyond)

    def step_weights(self, rows: np.ndarray) -> np.ndarray:
        """How much each step of windows from `draw_evenly` must count so that all count alike.

        Returns:
            float32 (B, T-1), inverse to how often the step is drawn; their mean is 1.
        """
        episode, start = np.asarray(rows).T
        step = start[:, None] + np.arange(self.num_frames - 1)
        last_start = (self.reader.index["episode_length"][episode] + 1 - self.num_frames)[:, None]
        in_first, in_last = step <= self._beyond, step >= last_start
        num_holding = np.minimum(step, last_start) - (step - self._beyond).clip(0) + 1
        num_holding = num_holding + self._beyond * (in_first.astype(int) + in_last)
        num_drawn = self.num_windows + 2 * self._beyond * len(self.episodes)
        mean = num_drawn * (self.num_frames - 1) / self._num_steps
        return (mean / num_holding).astype(np.float32)

    def read(self, rows: np.ndarray) -> Clips:
        """The windows at `rows` (B, 2) as `draw` gives them.

        Raises:
            IndexError: a row is not a window of this split.
        """
        episode, start = np.asarray(rows).T
        last_start = self.reader.index["episode_length"][episode] + 1 - self.num_frames
        if (self._frame_start[episode] < 0).any() or ((start < 0) | (start > last_start)).any():
            raise IndexError("a row is not a window of this split")
        frame = (self._frame_start[episode] + start)[:, None] + np.arange(self.num_frames)
        step = (self._step_start[episode] + start)[:, None] + np.arange(self.num_frames - 1)
        if self.in_memory:
            frames = self._frames[frame]
        else:
            read = self.reader.frames
            starts = zip(episode.tolist(), start.tolist(), strict=True)
            frames = np.stack([read(i, first, first + self.num_frames) for i, first in starts])
        return Clips(
            frames=frames,
            action=self._steps["action"][step],
            reward=self._steps["reward"][step],
            terminated=self._steps["terminated"][step],
            variables=self._steps["variables"][frame],
            pose=self._steps["pose"][frame],
        )

    def _drawn(self, rng: np.random.Generator, batch_size: int, *, beyond: int) -> np.ndarray:
        """Windows drawn where they may begin so far outside their episode, and pushed into it."""
        num_begins = self._last_starts + 1 + 2 * beyond
        ends = np.cumsum(num_begins)
        drawn = rng.integers(ends[-1], size=batch_size)
        which = np.searchsorted(ends, drawn, side="right")
        start = drawn - (ends - num_begins)[which] - beyond
        return np.stack([self.episodes[which], start.clip(0, self._last_starts[which])], axis=1)

    def _load(
        self, split: Split, frames_of: Callable[[int], np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The frames, flat, or nothing where they are not held; and everything else, flat."""
        frames = np.empty(0)
        parts: dict[str, list[np.ndarray]] = {}
        for i in track(self.episodes.tolist(), f"reading the {split} split"):
            steps = self.reader.steps(i)
            if self.in_memory:
                first, own = self._frame_start[i], frames_of(i)
                if first == 0:  # of the first episode: now their shape is known
                    num_held = self._num_steps + len(self.episodes)
                    frames = np.empty((num_held, *own.shape[1:]), own.dtype)
                frames[first : first + len(own)] = own
            for name, array in steps.items():
                parts.setdefault(name, []).append(array)
        return frames, {name: np.concatenate(arrays) for name, arrays in parts.items()}


def spread_windows(
    rng: np.random.Generator, episodes: np.ndarray, num_windows: np.ndarray, count: int
) -> np.ndarray:
    """Different windows, taken from all episodes in turn, at random places in each.

    Returns:
        int64 (at most count, 2): rows for `ClipSampler.read`.
    """
    starts = [rng.permutation(int(n)) for n in num_windows]
    order = rng.permutation(len(episodes))
    rows = [
        (episodes[e], starts[e][turn])
        for turn in range(int(num_windows.max()))
        for e in order
        if turn < len(starts[e])
    ]
    return np.asarray(rows[:count], np.int64)
