"""The second stage: the prior learns the codes of clips."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel import randomness
from worldmodel.configs.presets import StageRecipe
from worldmodel.data import Clips, ClipSampler
from worldmodel.dream import WorldModel, dream_along
from worldmodel.interface.sampling import Sampling
from worldmodel.media.film import save_png, sheet
from worldmodel.prior import fast
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import KEYFRAME_STEPS, Keyframes, Older, Past
from worldmodel.prior.place import Moments
from worldmodel.training.codes import CodedEpisodes
from worldmodel.training.moments import MomentSampler, draw_ago
from worldmodel.training.prior_losses import prior_losses
from worldmodel.training.trainer import Stage

NUM_VALIDATION_CLIPS, VALIDATED_AT_ONCE = 64, 16
PREVIEW_ROWS = 4
PREVIEW_FRAMES = 16
UNKNOWN_POSES = 1 / 3  # fraction of clips whose first poses, or all, are unknown
NO_OLDER_FRAMES = 0.2  # fraction of clips that see no older frames,
NO_OLDER_FRAMES_IF_HIDDEN = 0.5  # and of those whose past is hidden
NUM_MOMENTS = 2048  # of any episode, that the pose head learns from in each step
NUM_SKETCHED = 512  # of the moments, that the map learns from,
NUM_RECALLED = 64  # and of these, that recall learns from


@dataclass(frozen=True)
class Example:
    """What the prior sees of the past of one clip.

    Attributes:
        past: codes (T-1, h, w, q) of frames 0..T-2, perhaps corrupted.
        known: (T,), which poses are known.
        hidden: (T-1,), which frames are hidden.
        older: (K, h, w, q), codes of frames before the clip that it may look back at.
        older_poses: (K, P).
        older_times: (K,), steps since the first frame of the episode.
        begin: time of the clip's first frame, likewise.
        ago: steps from the newest frame back to the first that it may look back at.
    """

    past: np.ndarray
    known: np.ndarray
    hidden: np.ndarray
    older: np.ndarray
    older_poses: np.ndarray
    older_times: np.ndarray
    begin: int
    ago: int


class PriorStage(Stage):
    """Trains the prior; the tokenizer is frozen.

    In worlds with a pose, the past of some clips is hidden, so that the prior learns what each
    place looks like.
    """

    name = "prior"

    def __init__(self, model: WorldModel, coded: CodedEpisodes, recipe: StageRecipe) -> None:
        self.model, self.recipe = model, recipe
        self.module = model.prior.requires_grad_(True)
        recall = model.prior.recall
        if recall is not None and not recall.knows_codes:  # in worlds without a pose
            recall.take_codes(model.tokenizer.codebooks)
        self.coded, self.device = coded, coded.device
        if self.device.type == "cpu":  # before minutes are counted
            fast.compile_once()
        self.inputs = model.tokenizer.digest()
        self.clips, self.validation = (
            ClipSampler(coded.reader, split, recipe.num_frames, frames_of=coded.codes_of)
            for split in ("train", "validation")
        )
        rng = randomness.generator(0, "prior validation")
        self.validation_rows = self.validation.draw_evenly(rng, NUM_VALIDATION_CLIPS)
        self._measure_outcomes()
        self.moments: MomentSampler | None = None
        if self._has_pose:
            self.moments = MomentSampler(model, coded, "train")
            self.moments.measure_poses()

    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        # All is drawn for the full batch: the same however it is divided among processes.
        rows = self.clips.draw_evenly(rng, self.recipe.batch_size)
        clips, weights = self.clips.read(rows), self.clips.step_weights(rows)
        examples = [
            self._recorded(row, frames, rng) for row, frames in zip(rows, clips.frames, strict=True)
        ]
        moments = None
        if self.moments is not None:
            moments = self.moments.draw(
                rng, NUM_MOMENTS, num_sketched=NUM_SKETCHED, num_recalled=NUM_RECALLED
            )
        return self._losses(module, clips[part], examples[part], weights[part], moments)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses given the recorded past; and nats a token given only poses, "hidden_nats", or
        poses and frames from before the window, "recalled_nats"."""
        rows = self.validation_rows
        codes = self.validation.read(rows).frames[:, :-1]
        given = [self._example(row, past) for row, past in zip(rows, codes, strict=True)]
        numbers = self._mean_losses(rows, given)
        if self._has_pose:
            window = self.module.config.window
            agos = {"hidden_nats": None}
            if self.module.recall is not None:
                agos["recalled_nats"] = window
            for name, ago in agos.items():
                hidden = [
                    _with_hidden_past(self._example(row, past, ago=ago))
                    for row, past in zip(rows, codes, strict=True)
                ]
                numbers[name] = self._mean_losses(rows, hidden)["nats_a_token"]
        return numbers

    def _mean_losses(self, rows: np.ndarray, examples: list[Example]) -> dict[str, float]:
        """Losses of validation clips."""
        totals: dict[str, float] = {}
        for begin in range(0, len(rows), VALIDATED_AT_ONCE):
            part = slice(begin, begin + VALIDATED_AT_ONCE)
            clips = self.validation.read(rows[part])
            weights = self.validation.step_weights(rows[part])
            losses = self._losses(self.module, clips, examples[part], weights)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(rows[part])
        return {name: total / len(rows) for name, total in totals.items()}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Pairs of rows: recorded frames as the tokenizer shows them, and a dream under the same
        actions."""
        clips = self.validation.read(self.validation_rows[:PREVIEW_ROWS])
        num_given = max(1, clips.frames.shape[1] - PREVIEW_FRAMES)
        codes = self._tensor(clips.frames.astype(np.int64))
        actions, variables = self._tensor(clips.action), self._tensor(clips.variables)
        dream = self.model.start_from(
            codes[:, :num_given],
            actions[:, : num_given - 1],
            variables[:, :num_given],
            self._tensor(clips.pose[:, :num_given]),
        )
        steps = dream_along(
            self.model,
            dream,
            actions[:, num_given - 1 :],
            rng=randomness.generator(0, "prior preview"),
            sampling=Sampling(temperature=0.8),
        )
        dreamed = torch.stack([step.frames for step in steps], 1)
        real = self.model.draw(codes)[:, num_given:]
        pairs = zip(real.cpu().numpy(), dreamed.cpu().numpy(), strict=True)
        save_png(path, sheet([row for pair in pairs for row in pair], scale=2))

    @property
    def _has_pose(self) -> bool:
        return self.module.place is not None

    def _recorded(self, row: np.ndarray, frames: np.ndarray, rng: np.random.Generator) -> Example:
        """A recorded past: some codes replaced, and perhaps hidden or with unknown poses."""
        past = self._corrupted(frames, rng)[:-1]
        chance, first_known = rng.random(), rng.integers(1, len(frames) + 1)
        is_hidden = self.coded.has_pose(int(row[0])) and chance < self.recipe.hidden
        no_older = NO_OLDER_FRAMES_IF_HIDDEN if is_hidden else NO_OLDER_FRAMES
        ago = int(draw_ago(rng, 1)[0]) if is_hidden else 1
        example = self._example(row, past, ago=ago if rng.random() >= no_older else None)
        example = replace(example, older=self._corrupted(example.older, rng))
        if is_hidden:
            return _with_hidden_past(example)
        if chance < self.recipe.hidden + (1 - self.recipe.hidden) * UNKNOWN_POSES:
            example.known[:first_known] = False
        return example

    def _corrupted(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames of which some codes are replaced, in each another share."""
        share = rng.random((len(frames), 1, 1, 1)) * self.recipe.corruption
        others = rng.integers(self.module.num_codes, size=frames.shape)
        return np.where(rng.random(frames.shape) < share, others, frames)

    def _example(self, row: np.ndarray, past: np.ndarray, *, ago: int | None = 1) -> Example:
        """What is seen of a past; older frames from so many steps ago, None: not any."""
        episode, begin = map(int, row)
        end = 0 if ago is None else begin + len(past) - ago
        times = np.arange(KEYFRAME_STEPS - 1, max(0, end), KEYFRAME_STEPS)
        at = self.coded.first(episode) + times
        return Example(
            past=past,
            known=np.full(len(past) + 1, self._has_pose and self.coded.has_pose(episode)),
            hidden=np.zeros(len(past), bool),
            older=self.coded.codes[at],
            older_poses=np.nan_to_num(self.coded.poses[at]),
            older_times=times,
            begin=begin,
            ago=ago or 1,
        )

    def _losses(
        self,
        module: nn.Module,
        clips: Clips,
        examples: list[Example],
        weights: np.ndarray,
        moments: Moments | None = None,
    ) -> dict[str, Tensor]:
        poses = np.nan_to_num(clips.pose if self._has_pose else clips.pose[..., :0])
        known, hidden = (
            self._tensor(np.stack([getattr(example, name) for example in examples]))
            for name in ("known", "hidden")
        )
        past = Past(self._tensor(poses), known, hidden)
        past = past._replace(older=self._older(examples, past))
        losses = prior_losses(
            module,
            self.module,
            codes=self._tensor(clips.frames.astype(np.int64)),
            past_codes=self._tensor(
                np.stack([example.past for example in examples]).astype(np.int64)
            ),
            actions=encode_actions(self.model.config.actions, self._tensor(clips.action)),
            reward=self._tensor(clips.reward),
            terminated=self._tensor(clips.terminated),
            variables=self._tensor(clips.variables),
            weights=self._tensor(weights),
            past=past,
            moments=moments,
        )
        value_names = ("reward", *self.model.config.variable_names)
        named = {
            "loss": losses.loss,
            "nats_a_token": losses.token_nats,
            "end_nats": losses.end_nats,
            **{f"{n}_nats": v for n, v in zip(value_names, losses.value_nats, strict=True)},
        }
        if self._has_pose:
            named |= {"pose_nats": losses.pose_nats, "locating_nats": losses.locating_nats}
        if moments is not None:
            named |= {"motion_nats": losses.motion_nats, "sketch_error": losses.sketch_error}
        return named

    def _older(self, examples: list[Example], past: Past) -> Older | None:
        """The older frames that each prediction looks back at, chosen as in a dream."""
        if self.module.recall is None:
            return None
        # At least one slot, even if empty: every process must use every weight.
        most = max(1, *(len(example.older_times) for example in examples))
        num_steps = past.hidden.shape[1]

        def padded(name: str) -> Tensor:
            arrays = [getattr(example, name) for example in examples]
            stacked = np.zeros((len(arrays), most, *arrays[0].shape[1:]), arrays[0].dtype)
            for row, array in zip(stacked, arrays, strict=True):
                row[: len(array)] = array
            return self._tensor(stacked)

        counts = self._tensor(np.array([len(example.older_times) for example in examples]))
        usable = torch.arange(most, device=self.device) < counts[:, None]
        begins = self._tensor(np.array([example.begin for example in examples]))
        now = begins[:, None] + torch.arange(num_steps, device=self.device)
        times, poses = padded("older_times"), padded("older_poses")
        agos = self._tensor(np.array([example.ago for example in examples]))
        before = times[:, None] <= (now - agos[:, None])[..., None]
        poses = poses[..., : past.poses.shape[-1]]
        known = usable & past.known.all(1, keepdim=True)  # unknown poses were never known
        return self.module.look_back(
            Keyframes(padded("older"), poses, known, times),
            usable[:, None] & before,
            now,
            past.poses[:, 1:],
            past.known[:, 1:],
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _measure_outcomes(self) -> None:
        """Take the ranges of rewards and variables from the training episodes."""
        reader = self.clips.reader
        steps = [reader.steps(int(i)) for i in self.clips.episodes]
        rewards = np.concatenate([step["reward"] for step in steps])
        variables = np.concatenate([step["variables"] for step in steps])
        changes = np.concatenate([np.diff(step["variables"], axis=0) for step in steps])
        prior = self.module
        prior.outcome.set_bins([rewards, *changes.T])
        if variables.shape[1]:
            mean, std = variables.mean(0), variables.std(0).clip(1e-3)
            prior.standardise_by(torch.from_numpy(mean), torch.from_numpy(std))
            prior.outcome.variable_low.copy_(torch.from_numpy(variables.min(0)))
            prior.outcome.variable_high.copy_(torch.from_numpy(variables.max(0)))


def _with_hidden_past(example: Example) -> Example:
    return replace(example, hidden=np.ones_like(example.hidden))
