"""The report on VideoGPT as published: what is measured on clips of the test split, and how."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import Clips, ClipSampler, EpisodeReader, Split, spread_windows
from worldmodel.evaluation.fvd import READING, fvd_blocks, measure_fvd
from worldmodel.evaluation.report import Headline, Part, Picture, Section, Sections
from worldmodel.evaluation.tables import interval
from worldmodel.interface.sampling import Sampling
from worldmodel.media.film import (
    coloured,
    enlarged,
    save_gif,
    save_png,
    sheet,
    stacked,
    with_given,
)
from worldmodel.metrics.features import FeatureNetwork
from worldmodel.metrics.statistics import code_counts, next_of_another
from worldmodel.videogpt import inception
from worldmodel.videogpt.measures import (
    likelihood_blocks,
    measure_likelihood,
    measure_reconstruction,
    reconstruction_blocks,
    samples_blocks,
)
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.stages import clip_tensors, sample_clips

NUM_SHOWN = 8  # clips in the film of samples
NUM_TRAIN_CLIPS = 256  # for the baselines


PARTS = ("reconstruction", "likelihood", "samples")  # those that need no other network's weights
_SAMPLES = ("clips", "temperature", "top_k", "top_p", "seed", "batch_size")


def _of_reconstruction(n: dict[str, Any]) -> list[Headline]:
    return [Headline("tokenizer", f"{interval(n['psnr'], 1)} dB", f"SSIM {interval(n['ssim'], 3)}")]


def _of_likelihood(n: dict[str, Any]) -> list[Headline]:
    beside = f"copying {interval(n['copy_nats'])}, unigram {interval(n['unigram_nats'])}"
    return [Headline("nats a token", interval(n["nats_a_token"]), beside)]


SECTIONS: Sections = {
    "reconstruction": Section(
        reconstruction_blocks,
        "What the tokenizer loses, before anything is sampled.",
        headlines=_of_reconstruction,
    ),
    "likelihood": Section(
        likelihood_blocks,
        "Nats that the prior needs for a token of a real clip: lower is better, and a useful prior "
        "is far below copying and the unigram.",
        headlines=_of_likelihood,
    ),
    "samples": Section(
        samples_blocks,
        "Clips sampled under the conditions of real ones; they need not be the same, only as "
        "likely.",
        (
            Picture("samples.png", "Real, reconstruction, sample: rows of three"),
            Picture("samples.gif", "The same, moving"),
        ),
    ),
    "fvd": Section(fvd_blocks, READING),
    "inception": Section(inception.inception_score_blocks, inception.READING),
}


@dataclass(frozen=True)
class ClipSettings:
    """Settings of the report.

    Attributes:
        num_clips: test clips, of all test episodes in turn; fewer where there are fewer windows.
        sampling, seed: of samples and intervals.
        batch_size: clips at a time.
    """

    num_clips: int
    sampling: Sampling
    seed: int
    batch_size: int


class WholeClips:
    """Test clips, their reconstructions and samples, each computed when first used, and kept."""

    def __init__(self, model: VideoGPT, reader: EpisodeReader, settings: ClipSettings) -> None:
        self.model, self.reader, self.settings = model, reader, settings
        self.rows, self.clips = self._draw("test", settings.num_clips)

    def reconstruction(self) -> dict[str, Any]:
        """How well the tokenizer reconstructs clips."""
        return measure_reconstruction(
            self.clips.frames,
            self.reconstructed,
            self.rows[:, 0],
            data_variance=float(self.model.tokenizer.data_variance),
            counts=code_counts(self.codes, self.model.config.tokenizer.num_codes),
            seed=self.settings.seed,
        )

    def likelihood(self) -> dict[str, Any]:
        """How well the prior predicts codes, and how much its conditions help."""
        _, train = self._draw("train", NUM_TRAIN_CLIPS)
        all_clips = np.arange(len(self.rows))
        prior = self.model.config.prior
        exchanged = None
        if prior.num_actions or prior.on_class or prior.given_frames:
            kinds = self.rows[:, 0]  # episodes
            if not (prior.num_actions or prior.given_frames):
                kinds = self._tensors(self.clips, all_clips)[2].cpu().numpy()  # classes
            others = next_of_another(kinds)
            if others is not None:
                exchanged = self._nats(others, "likelihood, exchanged conditions")
        return measure_likelihood(
            self._nats(all_clips, "likelihood"),
            self.codes,
            self._encode(train, "codes of training clips"),
            self.rows[:, 0],
            num_codes=self.model.config.tokenizer.num_codes,
            clip_shape=self.model.config.tokenizer.clip_shape,
            seed=self.settings.seed,
            exchanged_nats=exchanged,
        )

    def samples(self, out: Path) -> dict[str, Any]:
        """Save real clips, their reconstructions and samples as pictures and films."""
        shown = range(min(NUM_SHOWN, len(self.rows)))
        sampled = self._sample(np.asarray(shown))
        num_given = self.model.config.prior.given_frames
        rows, films = [], []
        for i in shown:
            marked = with_given(sampled[i], self.clips.frames[i], num_given)
            rows += [coloured(self.clips.frames[i]), coloured(self.reconstructed[i]), marked]
            films.append(np.concatenate(rows[-3:], 2))
        save_png(out / "samples.png", sheet(rows, scale=2))
        save_gif(out / "samples.gif", enlarged(stacked(films), 2), fps=self.reader.info.fps)
        return {"num_clips": len(films), "num_given": num_given}

    def fvd(self, network: FeatureNetwork, *, with_samples: bool = True) -> dict[str, Any]:
        """FVD, R-FVD and FVD*, with a floor: the test clips against training clips.

        Args:
            with_samples: False for R-FVD alone, which needs no prior.
        """
        _, training = self._draw("train", len(self.rows))
        sampled = self.sampled if with_samples else None
        return measure_fvd(self.clips.frames, training.frames, self.reconstructed, sampled, network)

    def inception_score(self, network: FeatureNetwork) -> dict[str, Any]:
        """The inception score of one sample for each test clip."""
        return inception.measure_inception_score(self.sampled, self.clips.frames, network)

    @cached_property
    def codes(self) -> np.ndarray:
        """(n, t, h, w, q) of the test clips."""
        return self._encode(self.clips, "codes")

    @cached_property
    def reconstructed(self) -> np.ndarray:
        """The test clips' reconstructions, uint8 (n, T, H, W, C)."""
        parts = []
        for rows in self._batches(len(self.codes), "reconstructions"):
            codes = torch.from_numpy(self.codes[rows]).to(self._device)
            parts.append(self.model.decode(codes).cpu().numpy())
        return np.concatenate(parts)

    @cached_property
    def sampled(self) -> np.ndarray:
        """One sample under the conditions of each test clip, uint8 (n, T, H, W, C)."""
        return self._sample(np.arange(len(self.rows)))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def _nats(self, given: np.ndarray, what: str) -> np.ndarray:
        """-log p of each token of each clip (n, N), under the conditions of clip given[i]."""
        nats = []
        for rows in self._batches(len(self.rows), what):
            codes = torch.from_numpy(self.codes[rows]).to(self._device)
            conditions = self.model.conditions(*self._tensors(self.clips, given[rows]))
            logits = self.model.prior(codes, conditions)
            each = F.cross_entropy(logits.mT, codes.flatten(1), reduction="none")
            nats.append(each.cpu().double().numpy())
        return np.concatenate(nats)

    def _sample(self, rows: np.ndarray) -> np.ndarray:
        rng = randomness.generator(self.settings.seed, "whole clips: samples")
        parts = []
        for begin in range(0, len(rows), self.settings.batch_size):
            given = self._tensors(self.clips, rows[begin : begin + self.settings.batch_size])
            clips = sample_clips(self.model, given, rng=rng, sampling=self.settings.sampling)
            parts.append(clips.cpu().numpy())
        return np.concatenate(parts)

    def _draw(self, split: Split, count: int) -> tuple[np.ndarray, Clips]:
        """Different windows of the split's episodes, each episode in turn."""
        num_frames = self.model.config.tokenizer.clip_shape[0]
        sampler = ClipSampler(self.reader, split, num_frames, memory_limit_bytes=0)
        rng = randomness.generator(self.settings.seed, "whole clips: windows", split)
        lengths = self.reader.index["episode_length"][sampler.episodes]
        rows = spread_windows(rng, sampler.episodes, lengths + 2 - num_frames, count)
        return rows, sampler.read(rows)

    def _encode(self, clips: Clips, what: str) -> np.ndarray:
        parts = []
        for rows in self._batches(len(clips.frames), what):
            frames = torch.from_numpy(clips.frames[rows]).to(self._device)
            parts.append(self.model.encode(frames).cpu().numpy())
        return np.concatenate(parts)

    def _tensors(self, clips: Clips, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        return clip_tensors(clips[rows], self.reader, self._device)

    def _batches(self, count: int, what: str) -> Iterable[np.ndarray]:
        """Indices below `count`, in batches, with progress shown."""
        num_batches = math.ceil(count / self.settings.batch_size)
        return track(np.array_split(np.arange(count), num_batches), what)


def clip_parts(
    model: VideoGPT,
    reader: EpisodeReader,
    out: Path,
    settings: ClipSettings,
    *,
    i3d: FeatureNetwork | None,
    c3d: FeatureNetwork | None,
) -> dict[str, Part]:
    """All parts; the test clips are read and sampled once for all of them."""

    @cache
    def clips() -> WholeClips:
        return WholeClips(model, reader, settings)

    parts = {
        "reconstruction": Part(lambda: clips().reconstruction(), ("clips", "seed")),
        "likelihood": Part(lambda: clips().likelihood(), ("clips", "seed")),
        "samples": Part(lambda: clips().samples(out), _SAMPLES),
    }
    if i3d is not None:
        parts["fvd"] = Part(lambda: clips().fvd(i3d), _SAMPLES, i3d)
    if c3d is not None:
        parts["inception"] = Part(lambda: clips().inception_score(c3d), _SAMPLES, c3d)
    return parts
