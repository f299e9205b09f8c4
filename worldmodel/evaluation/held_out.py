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
from worldmodel.errors import UserError
from worldmodel.evaluation.dreaming import Dreamed, dream_on
from worldmodel.evaluation.predicting import (
    Predicted,
    PredictedOutcomes,
    T,
    joined,
    predict,
    predict_outcomes,
    shown,
)
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.prior import fast

FRAMES_AT_ONCE = 128  # of a tokenizer
TEACHER_FORCED_CLIPS = 4  # at a time: attention over all their frames takes memory
COMMON_SHARE = 0.5  # of steps that must share a reward before other rewards count as events
RANDOM_PLAYERS = b"random"  # the policy name under which `collect` records random play
# Options that the numbers of dreams, and of dreams along the clips, depend on.
SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "seed", "guidance", "pose_temperature")
DREAM_OPTIONS = ("clips", "horizon", *SAMPLING_OPTIONS, "batch_size")
STAY_PROBABILITY = 0.8  # that random play repeats an action: about half a second of Doom


@dataclass(frozen=True)
class Settings:
    """How everything is measured.

    Attributes:
        num_clips: test clips, fewer where the data hold fewer windows.
        num_samples: dreams of each clip; the best of them is reported too.
        horizon: frames dreamed after each clip's given ones.
        num_frames: single frames that the tokenizer is measured on.
        sampling, seed: of all dreams.
        batch_size: dreams at a time.
        inverse_dynamics_steps: training steps of the network that reads actions off frames.
        stability_steps: length of the long dreams.
        driver: `module:name` of a function from a frame to an action, which acts in the long
            dreams; None: actions are random.
    """

    num_clips: int = 128
    num_samples: int = 10
    horizon: int = 32
    num_frames: int = 4096
    sampling: Sampling = Sampling(temperature=0.8)
    seed: int = 0
    batch_size: int = 32
    inverse_dynamics_steps: int = 2000
    stability_steps: int = 1000
    driver: str | None = None


class HeldOut:
    """Clips of the test split, each `num_given` frames to begin from and `horizon` further ones.

    Everything is computed when first used, once. Where no test episode is long enough, that raises
    UserError.

    Args:
        model: in evaluation mode.
        reader: episodes of the model's world.
        settings: how many clips, and how they are dreamed.
        with_pose: leave out episodes whose pose is unknown.
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
        if next(model.parameters()).device.type == "cpu":
            fast.compile_once()
        self.model, self.reader, self.settings = model, reader, settings
        self.num_given = model.config.prior.window
        self.future = slice(self.num_given - 1, None)  # steps that lead beyond the given frames

    def __len__(self) -> int:
        return len(self.episodes)

    def draw(self, split: Split) -> tuple[np.ndarray, Clips]:
        """Clips of a split, as many and as long as those of the test split.

        Returns:
            int64 (clips, 2), each clip's episode and first frame; and the clips.
        """
        num_frames = self.num_given + self.settings.horizon
        try:
            sampler = ClipSampler(
                self.reader, split, num_frames, memory_limit_bytes=0, with_pose=self.with_pose
            )
        except UserError as error:
            asked = f"--horizon {self.settings.horizon} asks for that many"
            raise UserError(f"{error} ({asked})") from None
        lengths = self.reader.index["episode_length"][sampler.episodes] + 1
        rng = randomness.generator(self.settings.seed, "held-out windows", split)
        num_windows = lengths - num_frames + 1
        rows = spread_windows(rng, sampler.episodes, num_windows, self.settings.num_clips)
        return rows, sampler.read(rows)

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, Clips]:
        return self.draw("test")

    @property
    def episodes(self) -> np.ndarray:
        """The episode of each clip."""
        return self._drawn[0][:, 0]

    @property
    def clips(self) -> Clips:
        return self._drawn[1]

    @property
    def bootstrap(self) -> Bootstrap:
        """Intervals over the clips."""
        return Bootstrap(self.episodes, self.settings.seed)

    @property
    def policies(self) -> dict[str, np.ndarray]:
        """The clips of each player: their numbers."""
        names = self.reader.index["policy"][self.episodes]
        return {
            name.decode(errors="replace"): np.flatnonzero(names == name)
            for name in np.unique(names).tolist()
        }

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def real(self) -> np.ndarray:
        """The frames that came after the given ones, uint8 (clips, horizon, H, W, C)."""
        return self.clips.frames[:, self.num_given :]

    @property
    def last_given(self) -> np.ndarray:
        """The last given frame in place of each of `real`."""
        return np.broadcast_to(self.clips.frames[:, self.num_given - 1, None], self.real.shape)

    @property
    def actions(self) -> np.ndarray:
        """The actions that led to `real`, (clips, horizon, *shape)."""
        return self.clips.action[:, self.future]

    @property
    def other_actions(self) -> np.ndarray:
        """For each clip the actions of another one, like `actions`."""
        return np.roll(self.actions, 1, axis=0)

    @cached_property
    def real_codes(self) -> Tensor:
        """Codes of all the clips' frames, (clips, given + horizon, h, w, q), on the CPU."""
        return self.encode(self.clips.frames, "encoding the clips")

    def encode(self, frames: np.ndarray, what: str) -> Tensor:
        """Codes on the CPU of clips or frames, uint8 (n, ..., H, W, C).

        Args:
            what: label of the progress bar, as everywhere here.
        """
        at_once = max(1, FRAMES_AT_ONCE // math.prod(frames.shape[1:-3]))
        parts = track(torch.from_numpy(np.ascontiguousarray(frames)).split(at_once), what)
        return torch.cat([self.model.encode(part.to(self.device)).cpu() for part in parts])

    @cached_property
    def train_codes(self) -> Tensor:
        """Codes of frames drawn from the training split, (n, h, w, q), for baselines to count."""
        frames, _ = draw_frames(
            self.reader, "train", self.settings.num_frames, seed=self.settings.seed
        )
        return self.encode(frames, "encoding training frames")

    @cached_property
    def reconstructions(self) -> np.ndarray:
        """The clips' frames as a dream would show them, like `clips.frames`."""
        return self._pictures(self.model.draw, self.real_codes)

    @cached_property
    def plain_reconstructions(self) -> np.ndarray:
        """The clips' frames as the tokenizer reconstructs them, like `clips.frames`."""
        if self.model.sharp is None:
            return self.reconstructions
        return self._pictures(self.model.decode, self.real_codes)

    def plain(self, dreamed: Dreamed) -> np.ndarray:
        """Frames of dreams by the tokenizer's decoder, which was trained on the squared error."""
        if self.model.sharp is None:
            return dreamed.frames
        return self._pictures(self.model.decode, torch.from_numpy(dreamed.codes))

    def _pictures(self, decode: Callable[[Tensor], Tensor], codes: Tensor) -> np.ndarray:
        parts = track(codes.split(4), "decoding")
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
    def predicted(self) -> Predicted:
        """Of all the clips' frames but the first, (clips, given + horizon - 1), each given the
        real ones before it."""
        return self.predict("likelihood")

    @cached_property
    def predicted_with_other_actions(self) -> Predicted:
        """Like `predicted`, but with the actions of another clip."""
        return self.predict("likelihood, other actions", actions=self.other_actions)

    def predict(
        self,
        what: str,
        *,
        codes: Tensor | None = None,
        actions: np.ndarray | None = None,
        next_codes: Tensor | None = None,
        dreamed: bool = False,
    ) -> Predicted:
        """What the prior predicts for clips like these, (clips, given + horizon - 1).

        Args:
            codes: like `real_codes`, shown as the past in place of them.
            actions: like `actions`, in place of them.
            next_codes: like `real_codes`, to be asked for in place of `codes`.
            dreamed: the past is that of `dreams`, with its variables and poses.
        """
        return self._ask(predict, what, codes, actions, next_codes, dreamed)

    def predict_outcomes(self, what: str, *, dreamed: bool = False) -> PredictedOutcomes:
        """What the prior expects to come with frames of the clips, or of `dreams` of them."""
        asking = partial(predict_outcomes, common_reward=self.common_reward)
        return self._ask(asking, what, None, None, None, dreamed)

    def _ask(
        self,
        asking: Callable[..., T],
        what: str,
        codes: Tensor | None,
        actions: np.ndarray | None,
        next_codes: Tensor | None,
        dreamed: bool,
    ) -> T:
        """`predict` or `predict_outcomes` of all clips, some at a time."""
        given, variables, poses = self.num_given, self.clips.variables, self.clips.pose
        if dreamed:
            codes = self.dream_codes
            variables = np.concatenate([variables[:, :given], self.dreams.variables], 1)
            poses = self.dream_poses
        codes = self.real_codes if codes is None else codes
        actions = self.actions if actions is None else actions
        actions = np.concatenate([self.clips.action[:, : given - 1], actions], 1)

        def asked(rows: np.ndarray) -> T:
            parts = codes[rows], actions[rows], variables[rows], poses[rows]
            wanted = None if next_codes is None else next_codes[rows]
            return asking(self.model, shown(self.model, *parts, next_codes=wanted))

        rows = np.array_split(np.arange(len(self)), -(-len(self) // TEACHER_FORCED_CLIPS))
        return joined([asked(part) for part in track(rows, what)])

    @cached_property
    def dreams(self) -> Dreamed:
        """One dream of each clip, under its own actions."""
        return self.dream(self.actions, what="dreaming along the clips")

    @cached_property
    def dream_codes(self) -> Tensor:
        """Codes of the given frames and of `dreams`, like `real_codes`."""
        dreamed = torch.from_numpy(self.dreams.codes)
        return torch.cat([self.real_codes[:, : self.num_given], dreamed], 1)

    @property
    def dream_poses(self) -> np.ndarray:
        """The given poses and those of `dreams`, like `clips.pose`; NaN where the data don't have
        the given ones."""
        given = np.full_like(self.dreams.pose[:, :1], np.nan).repeat(self.num_given, 1)
        if self.clips.pose.shape[-1]:
            given = self.clips.pose[:, : self.num_given, : given.shape[-1]]
        return np.concatenate([given, self.dreams.pose], 1)

    def dream(
        self, actions: np.ndarray, *, what: str, sample: int = 0, poses: np.ndarray | None = None
    ) -> Dreamed:
        """One dream of each clip under `actions` (clips, T, *shape).

        Args:
            sample: dreams of different samples differ; those of the same one are the same.
            poses: (clips, T, P), to be used in place of predicted ones.
        """
        begins = range(0, len(self), self.settings.batch_size)
        with progress_bar(transient=True) as progress:
            task = progress.add_task(what, total=len(begins) * actions.shape[1])
            parts = []
            for begin in begins:
                rows = slice(begin, begin + self.settings.batch_size)
                rng = randomness.generator(self.settings.seed, "held-out dreams", sample, begin)
                dreamed = dream_on(
                    self.model,
                    self.clips[rows],
                    self.num_given,
                    actions[rows],
                    rng=rng,
                    sampling=self.settings.sampling,
                    poses=None if poses is None else poses[rows],
                    advance=lambda: progress.advance(task),
                )
                parts.append(dreamed)
        return joined(parts)


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
    frames = np.zeros((len(chosen), *reader.info.frame_shape), np.uint8)
    for n, (i, t) in enumerate(zip(members[which].tolist(), times.tolist(), strict=True)):
        frames[n] = reader.frames(i, t, t + 1)[0]
    return frames, members[which]


def wander(
    rng: np.random.Generator, spec: ActionSpec, num_wanderers: int, num_steps: int
) -> np.ndarray:
    """Random actions that are held for a while, (num_wanderers, num_steps, *spec.shape)."""
    actions = spec.sample(rng, (num_wanderers, num_steps))
    stays = rng.random((num_wanderers, num_steps)) < STAY_PROBABILITY
    for t in range(1, num_steps):
        actions[stays[:, t], t] = actions[stays[:, t], t - 1]
    return actions
