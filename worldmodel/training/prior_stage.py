"""The second thing to train: the prior, on codes of clips."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from worldmodel import randomness
from worldmodel.configs.recipe import StageRecipe
from worldmodel.data import Clips, ClipSampler, EpisodeReader
from worldmodel.dream import WorldModel, dream_along
from worldmodel.errors import UserError
from worldmodel.interface.sampling import Sampling
from worldmodel.media.film import save_png, sheet
from worldmodel.prior.action_vectors import encode_actions
from worldmodel.prior.memory import KEYFRAME_STEPS, Keyframes
from worldmodel.prior.past import Older, Past
from worldmodel.training.coded_episodes import CodedEpisodes
from worldmodel.training.own_dreams import CLIPS_A_BATCH, OwnDreams
from worldmodel.training.prior_losses import Sketched, prior_losses
from worldmodel.training.trainer import Stage

NUM_VALIDATION_CLIPS = 64
PREVIEW_ROWS = 4
PREVIEW_FRAMES = 16
LOST = 1 / 3  # share of clips whose first poses, or all, are not known
FORGETFUL = 0.2  # share of clips that see no older frames,
FORGETFUL_UNSEEN = 0.5  # and of those whose past can't be seen
DREAMS_BEGIN = 1000  # steps after which the prior's own dreams are worth learning from
RENEWED_EVERY = 120  # steps
SKETCHED = 512  # frames from anywhere that the map learns from in each step, besides the clips


@dataclass(frozen=True)
class Example:
    """A clip to learn from, and what the prior is shown of its past.

    Attributes:
        past: codes (T-1, h, w, q) of frames 0..T-2 as they are shown.
        known: (T,), which poses are.
        age: (T-1,), for how many steps each frame was dreamed.
        hidden: (T-1,), which can't be seen.
        older: (K, ...), codes of frames before the clip that can be looked at again.
        older_age: (K,).
        older_poses: (K, P).
        older_times: (K,), in the clip's own time, that of its first frame being `begin`.
    """

    past: np.ndarray
    known: np.ndarray
    age: np.ndarray
    hidden: np.ndarray
    older: np.ndarray
    older_age: np.ndarray
    older_poses: np.ndarray
    older_times: np.ndarray
    begin: int


class PriorStage(Stage):
    """Trains the prior; the tokenizer stands still.

    Where poses are told, three kinds of clips are mixed: recorded pasts; recorded pasts that can't
    be seen, so that the prior learns what each place looks like; and pasts that the prior dreamed
    itself (`OwnDreams`).
    """

    name = "prior"

    def __init__(
        self,
        model: WorldModel,
        reader: EpisodeReader,
        recipe: StageRecipe,
        *,
        codes_path: Path,
        fabric: Fabric,
    ) -> None:
        self.model, self.module, self.recipe = model, model.prior, recipe
        self.device = fabric.device
        self.inputs = model.tokenizer.digest()
        self.coded = CodedEpisodes(model.tokenizer, reader, codes_path, fabric)
        self.clips, self.validation = (
            ClipSampler(reader, split, recipe.num_frames, frames_of=self.coded.codes_of)
            for split in ("train", "validation")
        )
        rng = randomness.generator(0, "prior validation")
        self.validation_rows = self.validation.draw_evenly(rng, NUM_VALIDATION_CLIPS)
        self._posed_episodes = [
            int(i) for i in self.clips.episodes if self.coded.tells_pose(int(i))
        ]
        self._measure_outcomes()
        self._measure_poses()
        # All frames of these but the last of each, which no other follows.
        self._posed_frames = np.concatenate(
            [self.coded.first(i) + np.arange(self._length(i)) for i in self._posed_episodes]
            or [np.zeros(0, np.int64)]
        )
        self.num_dreamed = round(recipe.dreamed * recipe.batch_size) if self._has_pose else 0
        self.dreams: OwnDreams | None = None
        if self.num_dreamed:
            num_dreams = CLIPS_A_BATCH * recipe.batch_size
            self.dreams = OwnDreams(model, self.coded, num_dreams, recipe.num_frames)

    @property
    def kept(self) -> dict[str, Tensor]:
        return {} if self.dreams is None else self.dreams.kept

    def prepare(self, step: int) -> None:
        begin = min(DREAMS_BEGIN, self.recipe.steps // 4)
        if self.dreams is None or step < begin:
            return
        if (step - begin) // RENEWED_EVERY >= int(self.dreams.kept["renewed"]):
            self.dreams.renew()

    def losses(
        self, module: nn.Module, rng: np.random.Generator, share: slice
    ) -> dict[str, Tensor]:
        # Drawn for the whole batch, so that the share of one process is what it would be in
        # a single one.
        is_dreaming = self.dreams is not None and self.dreams.there
        num_dreamed = self.num_dreamed if is_dreaming else 0
        rows = self.clips.draw_evenly(rng, self.recipe.batch_size - num_dreamed)
        clips, weights = self.clips.read(rows), self.clips.step_weights(rows)
        examples = [
            self._recorded(row, frames, rng) for row, frames in zip(rows, clips.frames, strict=True)
        ]
        if num_dreamed:
            dreamt, own = self._dreamed(num_dreamed, rng)
            clips = _concatenated(clips, self.clips.read(dreamt))
            # Outcomes are learned from what was recorded: in a dream other things may stand.
            weights *= self.recipe.batch_size / len(rows)  # their mean over all clips stays 1
            weights = np.concatenate([weights, np.zeros_like(weights[:1]).repeat(num_dreamed, 0)])
            examples += own
        picked = Clips(**{name: array[share] for name, array in vars(clips).items()})
        sketched = self._sketched(rng) if self._has_pose else None
        return self._losses(module, picked, examples[share], weights[share], sketched)

    def _sketched(self, rng: np.random.Generator) -> Sketched:
        """Frames from all over the training episodes."""
        chosen = rng.choice(self._posed_frames, SKETCHED)
        poses = np.stack([self.coded.poses[chosen], self.coded.poses[chosen + 1]], 1)
        codes = self._tensor(self.coded.codes[chosen + 1].astype(np.int64))
        vectors = self.model.tokenizer.codebooks.look_up(codes)
        return Sketched(self._tensor(poses), vectors)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses given the recorded past; and "hidden_nats" a token given poses alone."""
        totals: dict[str, float] = {}
        parts = np.array_split(self.validation_rows, max(1, len(self.validation_rows) // 16))
        for rows in parts:
            clips = self.validation.read(rows)
            weights = self.validation.step_weights(rows)
            examples = [
                self._example(row, frames[:-1])
                for row, frames in zip(rows, clips.frames, strict=True)
            ]
            losses = self._losses(self.module, clips, examples, weights)
            if self._has_pose:
                unseen = [
                    _unseen(self._example(row, frames[:-1], remembers=False))
                    for row, frames in zip(rows, clips.frames, strict=True)
                ]
                hidden = self._losses(self.module, clips, unseen, weights)
                losses["hidden_nats"] = hidden["nats_a_token"]
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(rows)
        return {name: total / len(self.validation_rows) for name, total in totals.items()}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Pairs of rows: what came, as the tokenizer sees it, and a dream under its actions."""
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
        rows = []
        for truth, dreamt in zip(real.cpu().numpy(), dreamed.cpu().numpy(), strict=True):
            rows += [truth, dreamt]
        save_png(path, sheet(rows, scale=2))

    def _length(self, episode: int) -> int:
        return int(self.clips.reader.index["episode_length"][episode])

    @property
    def _has_pose(self) -> bool:
        return self.module.place is not None

    def _recorded(self, row: np.ndarray, frames: np.ndarray, rng: np.random.Generator) -> Example:
        """A recorded past, some of its codes replaced, or all of it out of sight, or its poses."""
        corrupted = rng.random(frames.shape) < rng.random((len(frames), 1, 1, 1)) * (
            self.recipe.corruption
        )
        others = rng.integers(self.module.num_codes, size=frames.shape)
        past = np.where(corrupted, others, frames)[:-1]
        chance, first_known = rng.random(), rng.integers(1, len(frames) + 1)
        is_unseen = self._has_pose and chance < self.recipe.hidden
        forgetful = FORGETFUL_UNSEEN if is_unseen else FORGETFUL
        example = self._example(row, past, remembers=bool(rng.random() >= forgetful))
        if is_unseen:
            return _unseen(example)
        if chance < self.recipe.hidden + (1 - self.recipe.hidden) * LOST:
            example.known[:first_known] = False
        return example

    def _example(self, row: np.ndarray, past: np.ndarray, *, remembers: bool = True) -> Example:
        episode, begin = map(int, row)
        times = np.arange(KEYFRAME_STEPS - 1, begin if remembers else 0, KEYFRAME_STEPS)
        at = self.coded.first(episode) + times
        return Example(
            past=past,
            known=np.full(len(past) + 1, self._has_pose and self.coded.tells_pose(episode)),
            age=np.zeros(len(past), np.int64),
            hidden=np.zeros(len(past), bool),
            older=self.coded.codes[at],
            older_age=np.zeros(len(at), np.int64),
            older_poses=np.nan_to_num(self.coded.poses[at]),
            older_times=times,
            begin=begin,
        )

    def _dreamed(
        self, num_clips: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Example]]:
        """Windows of own dreams: their rows as of `ClipSampler`, and the examples."""
        assert self.dreams is not None
        kept = {name: tensor.numpy() for name, tensor in self.dreams.kept.items()}
        num_past = self.recipe.num_frames - 1
        rows, examples = [], []
        for dream in rng.integers(len(kept["episodes"]), size=num_clips):
            begin = int(rng.integers(self.dreams.num_frames - num_past))
            seen = slice(begin, begin + num_past)
            times = np.arange(KEYFRAME_STEPS - 1, begin, KEYFRAME_STEPS)
            episode, first = map(int, kept["episodes"][dream])
            rows.append((episode, first + begin))
            examples.append(
                Example(
                    past=kept["codes"][dream, seen],
                    known=np.ones(num_past + 1, bool),
                    age=kept["age"][dream, seen],
                    hidden=np.zeros(num_past, bool),
                    older=kept["codes"][dream, times],
                    older_age=kept["age"][dream, times],
                    older_poses=self.coded.poses[self.coded.first(episode) + first + times],
                    older_times=times,
                    begin=begin,
                )
            )
        return np.asarray(rows), examples

    def _losses(
        self,
        module: nn.Module,
        clips: Clips,
        examples: list[Example],
        weights: np.ndarray,
        sketched: Sketched | None = None,
    ) -> dict[str, Tensor]:
        poses = np.nan_to_num(clips.pose if self._has_pose else clips.pose[..., :0])
        known, age, hidden = (
            self._tensor(np.stack([getattr(example, name) for example in examples]))
            for name in ("known", "age", "hidden")
        )
        past = Past(self._tensor(poses), known, age, hidden)
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
            sketched=sketched,
        )
        value_names = ("reward", *self.model.config.variable_names)
        poses_told = {"pose_nats": losses.pose_nats, "locating_nats": losses.locating_nats}
        if sketched is not None:
            poses_told["sketch_error"] = losses.sketch_error
        return {
            "loss": losses.loss,
            "nats_a_token": losses.token_nats,
            "end_nats": losses.end_nats,
            **{f"{n}_nats": v for n, v in zip(value_names, losses.value_nats, strict=True)},
            **(poses_told if self._has_pose else {}),
        }

    def _older(self, examples: list[Example], past: Past) -> Older | None:
        """The older frames that each prediction looks at, chosen as a dream does."""
        if not self.module.config.recalled:
            return None
        # At least one, though it be none: every process must use every weight.
        most = max(1, *(len(example.older_times) for example in examples))
        num_steps = past.age.shape[1]

        def padded(name: str) -> Tensor:
            arrays = [getattr(example, name) for example in examples]
            whole = np.zeros((len(arrays), most, *arrays[0].shape[1:]), arrays[0].dtype)
            for row, array in zip(whole, arrays, strict=True):
                row[: len(array)] = array
            return self._tensor(whole)

        counts = self._tensor(np.array([len(example.older_times) for example in examples]))
        usable = torch.arange(most, device=self.device) < counts[:, None]
        begins = self._tensor(np.array([example.begin for example in examples]))
        now = begins[:, None] + torch.arange(num_steps, device=self.device)
        times, poses, age = (padded(f"older_{name}") for name in ("times", "poses", "age"))
        before = times[:, None] <= now[..., None] - self.module.config.window
        poses = poses[..., : past.poses.shape[-1]]
        known = usable & past.known.all(1, keepdim=True)  # lost now, lost then
        return self.module.look_back(
            Keyframes(padded("older"), poses, known, age, times),
            usable[:, None] & before,
            now,
            past.poses[:, 1:],
            past.known[:, 1:],
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _measure_outcomes(self) -> None:
        """Ranges of rewards and variables, from the training episodes."""
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

    def _measure_poses(self) -> None:
        """Ranges of poses, and of how they move, from the training episodes."""
        if self.module.place is None or self.module.place.space.is_measured:
            return  # what has learned with these ranges keeps them
        space = self.module.place.space
        members = self._posed_episodes
        if not members:
            raise UserError(f"{self.clips.reader.folder}: no training episode tells its pose")
        space.measure([torch.from_numpy(self.coded.poses_of(i)) for i in members])


def _unseen(example: Example) -> Example:
    return Example(**{**vars(example), "hidden": np.ones_like(example.hidden)})


def _concatenated(first: Clips, second: Clips) -> Clips:
    return Clips(
        **{name: np.concatenate([array, vars(second)[name]]) for name, array in vars(first).items()}
    )
