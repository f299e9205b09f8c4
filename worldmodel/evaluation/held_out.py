"""Test clips, and dreams along them: what most measurements compare."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from worldmodel import randomness
from worldmodel.command import progress_bar, track
from worldmodel.data import Clips, ClipSampler, EpisodeReader, Split, spread_windows
from worldmodel.dream import WorldModel
from worldmodel.evaluation.dreaming import Dreamed, dream_on, join
from worldmodel.evaluation.foretelling import (
    Foretold,
    ForetoldOutcomes,
    Told,
    foretell,
    foretell_outcomes,
    joined,
)
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling

FRAMES_AT_ONCE = 128  # of a tokenizer
TEACHER_FORCED_CLIPS = 4  # at a time: attention over all their frames takes memory
COMMON_SHARE = 0.5  # of steps at least that bring the reward which is no event
RANDOM_PLAYERS = b"random"  # what `collect` calls those who act as `wander` does
STAY_PROBABILITY = 0.8  # of a wanderer's last action: about half a second of Doom


@dataclass(frozen=True)
class Settings:
    """How everything is measured.

    Attributes:
        num_clips: test clips, fewer where the data hold fewer windows.
        num_samples: dreams of each clip; the best of them is reported too.
        horizon: frames dreamed on from each clip's given ones.
        num_frames: single frames that the tokenizer is measured on.
        sampling, seed: of all dreams.
        batch_size: dreams at a time.
    """

    num_clips: int = 128
    num_samples: int = 10
    horizon: int = 32
    num_frames: int = 4096
    sampling: Sampling = Sampling(temperature=0.8)
    seed: int = 0
    batch_size: int = 32


class HeldOut:
    """Clips of the test split, each `num_given` frames to begin from and `horizon` further ones.

    Args:
        model: in evaluation mode.
        reader: episodes of the model's world.
        settings: how many clips, and how they are dreamed.
        with_pose: leave out episodes whose pose is unknown.

    Raises:
        UserError: no test episode is long enough.
    """

    def __init__(
        self,
        model: WorldModel,
        reader: EpisodeReader,
        settings: Settings,
        *,
        with_pose: bool = False,
    ) -> None:
        self.with_pose = with_pose
        self.model, self.reader, self.settings = model, reader, settings
        self.num_given = model.config.prior.window
        rows, self.clips = self.draw("test")
        self.episodes = rows[:, 0]

    def __len__(self) -> int:
        return len(self.episodes)

    def draw(self, split: Split) -> tuple[np.ndarray, Clips]:
        """Clips of a split, as many and as long as those of the test split.

        Returns:
            int64 (clips, 2), each clip's episode and first frame; and the clips.
        """
        num_frames = self.num_given + self.settings.horizon
        sampler = ClipSampler(
            self.reader, split, num_frames, memory_limit_bytes=0, with_pose=self.with_pose
        )
        lengths = self.reader.index["episode_length"][sampler.episodes] + 1
        rng = randomness.generator(self.settings.seed, "held-out windows", split)
        num_windows = lengths - num_frames + 1
        rows = spread_windows(rng, sampler.episodes, num_windows, self.settings.num_clips)
        return rows, sampler.read(rows)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def real(self) -> np.ndarray:
        """The frames that came after the given ones, uint8 (clips, horizon, H, W, C)."""
        return self.clips.frames[:, self.num_given :]

    @property
    def actions(self) -> np.ndarray:
        """The actions that led to them, (clips, horizon, *shape)."""
        return self.clips.action[:, self.num_given - 1 :]

    @cached_property
    def real_codes(self) -> Tensor:
        """Codes of all the clips' frames, (clips, given + horizon, h, w, q), on the CPU."""
        return self.encode(self.clips.frames, "encoding the clips")

    def encode(self, frames: np.ndarray, what: str) -> Tensor:
        """Codes on the CPU of clips or frames, uint8 (n, ..., H, W, C).

        Args:
            what: said beside the progress bar.
        """
        at_once = max(1, FRAMES_AT_ONCE // math.prod(frames.shape[1:-3]))
        parts = track(
            torch.from_numpy(np.ascontiguousarray(frames)).split(at_once),
            what,
        )
        return torch.cat([self.model.encode(part.to(self.device)).cpu() for part in parts])

    @cached_property
    def train_codes(self) -> Tensor:
        """Codes of frames drawn from the training split, (n, h, w, q): what baselines count."""
        frames, _ = draw_frames(
            self.reader, "train", self.settings.num_frames, seed=self.settings.seed
        )
        return self.encode(frames, "encoding training frames")

    @cached_property
    def reconstructions(self) -> np.ndarray:
        """The clips' frames as a dream would show them, like `clips.frames`."""
        return self._pictures(self.model.draw, self.real_codes, "decoding the clips")

    @cached_property
    def plain_reconstructions(self) -> np.ndarray:
        """The clips' frames as the tokenizer gives them back, like `clips.frames`."""
        if self.model.sharp is None:
            return self.reconstructions
        return self._pictures(self.model.decode, self.real_codes, "decoding the clips")

    def plain(self, dreamed: Dreamed) -> np.ndarray:
        """What dreams show, by the decoder that learned the squared error."""
        if self.model.sharp is None:
            return dreamed.frames
        return self._pictures(self.model.decode, torch.from_numpy(dreamed.codes), "decoding")

    def _pictures(self, decode: Callable[[Tensor], Tensor], codes: Tensor, what: str) -> np.ndarray:
        parts = track(codes.split(4), what)
        return torch.cat([decode(part.to(self.device)).cpu() for part in parts]).numpy()

    @cached_property
    def common_reward(self) -> float | None:
        """The test split's commonest reward; None where it is too rare to call others events."""
        members = self.reader.split("test")
        rewards = np.concatenate([self.reader.steps(int(i))["reward"] for i in members])
        values, counts = np.unique(rewards, return_counts=True)
        is_common = counts.max() >= COMMON_SHARE * counts.sum()
        return float(values[counts.argmax()]) if is_common else None

    @cached_property
    def foretold(self) -> Foretold:
        """Of all the clips' frames but the first, (clips, given + horizon - 1), each given the
        real ones before it."""
        return self.foretell(self.real_codes, self.actions, "likelihood")

    @cached_property
    def foretold_misled(self) -> Foretold:
        """Like `foretold`, but each clip is told the actions of another one."""
        return self.foretell(self.real_codes, self.other_actions, "likelihood, other actions")

    @property
    def other_actions(self) -> np.ndarray:
        """For each clip the actions of another one, like `actions`."""
        return np.roll(self.actions, 1, axis=0)

    def foretell(
        self,
        codes: Tensor,
        actions: np.ndarray,
        what: str,
        *,
        next_codes: Tensor | None = None,
        variables: np.ndarray | None = None,
        dreamed: bool = False,
    ) -> Foretold:
        """What the prior says of clips like these, (clips, given + horizon - 1).

        Args:
            codes: like `real_codes`; the past that the prior is shown.
            actions: like `actions`, told in place of the recorded ones.
            what: said beside the progress bar.
            next_codes: like `codes`, of the frames that are asked for; by default the same.
            variables: like `clips.variables`, shown in place of them.
            dreamed: the past is that of `dreams`, poses and ages too.
        """
        shown = self.clips.variables if variables is None else variables
        asked = codes if next_codes is None else next_codes
        return self._ask(foretell, codes, actions, shown, asked, what, dreamed=dreamed)

    def foretell_outcomes(
        self, codes: Tensor, variables: np.ndarray, what: str, *, dreamed: bool = False
    ) -> ForetoldOutcomes:
        """What the prior expects to come with frames like these, under the recorded actions.

        Args:
            codes: like `real_codes`; the past that the prior is shown.
            variables: like `clips.variables`, of that past.
            what: said beside the progress bar.
            dreamed: the past is that of `dreams`, poses and ages too.
        """
        asking = partial(foretell_outcomes, common_reward=self.common_reward)
        return self._ask(asking, codes, self.actions, variables, codes, what, dreamed=dreamed)

    def _ask(
        self,
        asking: Callable[..., Told],
        codes: Tensor,
        actions: np.ndarray,
        variables: np.ndarray,
        next_codes: Tensor,
        what: str,
        *,
        dreamed: bool,
    ) -> Told:
        """`foretell` or `foretell_outcomes` of all clips, some at a time."""
        told = np.concatenate([self.clips.action[:, : self.num_given - 1], actions], 1)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        poses = self.dream_poses if dreamed else self.clips.pose
        steps = np.arange(codes.shape[1] - 1) - (self.num_given - 1)
        age = torch.from_numpy(steps.clip(0) * dreamed).to(self.device)

        def asked(rows: np.ndarray) -> Told:
            shown = codes[rows, :-1].to(self.device)
            past = self.model.prior.whole_past(
                shown, tensor(poses[rows]), age.expand(len(rows), -1)
            )
            return asking(
                self.model,
                shown,
                tensor(told[rows]),
                tensor(variables[rows, :-1]),
                next_codes[rows, 1:].to(self.device),
                past,
            )

        rows = np.array_split(np.arange(len(self)), -(-len(self) // TEACHER_FORCED_CLIPS))
        return joined([asked(part) for part in track(rows, what)], 0)

    @cached_property
    def dreams(self) -> Dreamed:
        """One dream of each clip, under its own actions."""
        return self.dream(self.actions, what="dreaming along the clips")

    @cached_property
    def dream_codes(self) -> Tensor:
        """Codes of the given frames and of those that `dreams` brought, like `real_codes`."""
        dreamed = torch.from_numpy(self.dreams.codes)
        return torch.cat([self.real_codes[:, : self.num_given], dreamed], 1)

    @property
    def dream_variables(self) -> np.ndarray:
        """The given variables and those of `dreams`, like `clips.variables`."""
        given = self.clips.variables[:, : self.num_given]
        return np.concatenate([given, self.dreams.variables], 1)

    @property
    def dream_poses(self) -> np.ndarray:
        """The given poses and those of `dreams`, like `clips.pose`; those given are NaN where the
        data don't tell them."""
        given = np.full_like(self.dreams.pose[:, :1], np.nan).repeat(self.num_given, 1)
        if self.clips.pose.shape[-1]:
            given = self.clips.pose[:, : self.num_given, : given.shape[-1]]
        return np.concatenate([given, self.dreams.pose], 1)

    def dream(
        self,
        actions: np.ndarray,
        *,
        what: str,
        sample: int = 0,
        poses: np.ndarray | None = None,
    ) -> Dreamed:
        """One dream of each clip under `actions` (clips, T, *shape).

        Args:
            poses: (clips, T, P), where to go in place of where the actions lead.
            what: said beside the progress bar.
            sample: dreams of another sample are others; those of the same one the same.
        """
        with progress_bar(transient=True) as progress:
            task = progress.add_task(what, total=len(self.batches()) * actions.shape[1])
            return join(
                self.dream_batch(
                    rows,
                    actions[rows],
                    sample=sample,
                    poses=None if poses is None else poses[rows],
                    advance=lambda: progress.advance(task),
                )
                for rows in self.batches()
            )

    def batches(self) -> list[np.ndarray]:
        """The clips' numbers, as many at a time as are dreamed at once."""
        begins = range(0, len(self), self.settings.batch_size)
        return [np.arange(i, min(len(self), i + self.settings.batch_size)) for i in begins]

    def dream_batch(
        self,
        rows: np.ndarray,
        actions: np.ndarray,
        *,
        sample: int,
        poses: np.ndarray | None = None,
        advance: Callable[[], object] = lambda: None,
    ) -> Dreamed:
        """Dreams of the clips `rows` under `actions` (len(rows), T, *shape).

        Args:
            poses: (len(rows), T, P), where to go in place of where the actions lead.
            sample: dreams of another sample are others; those of the same one the same.
            advance: called after each step.
        """
        picked = Clips(**{name: array[rows] for name, array in vars(self.clips).items()})
        rng = randomness.generator(self.settings.seed, "held-out dreams", sample, int(rows[0]))
        return dream_on(
            self.model,
            picked,
            self.num_given,
            actions,
            rng=rng,
            sampling=self.settings.sampling,
            poses=poses,
            advance=advance,
        )


def draw_frames(
    reader: EpisodeReader, split: Split, max_frames: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Different frames drawn uniformly from a split, all of them if there are no more.

    Returns:
        uint8 (n, H, W, C), and the episode of each, int64 (n,).
    """
    members = reader.split(split)
    ends = np.cumsum(reader.index["episode_length"][members] + 1)
    total = int(ends[-1]) if len(ends) else 0
    chosen = randomness.generator(seed, "held-out frames", split).permutation(total)[:max_frames]
    chosen.sort()
    which = np.searchsorted(ends, chosen, side="right")
    times = chosen - (ends - reader.index["episode_length"][members] - 1)[which]
    frames = [
        reader.frames(int(i), int(t), int(t) + 1)
        for i, t in zip(members[which], times, strict=True)
    ]
    if not frames:
        return np.zeros((0, *reader.info.frame_shape), np.uint8), members
    return np.concatenate(frames), members[which]


def wander(
    rng: np.random.Generator, spec: ActionSpec, num_wanderers: int, num_steps: int
) -> np.ndarray:
    """Sticky random actions, (num_wanderers, num_steps, *spec.shape): mostly the one before."""
    actions = spec.sample(rng, (num_wanderers, num_steps))
    stays = rng.random((num_wanderers, num_steps)) < STAY_PROBABILITY
    for t in range(1, num_steps):
        actions[stays[:, t], t] = actions[stays[:, t], t - 1]
    return actions
