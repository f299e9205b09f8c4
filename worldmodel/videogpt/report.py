"""The report of VideoGPT as published: its parts, and how each is shown."""

from functools import cache
from pathlib import Path
from typing import Any

from worldmodel.data import EpisodeReader
from worldmodel.evaluation.fvd import READING, fvd_blocks
from worldmodel.evaluation.report import Headline, Part, Picture, Section, Sections
from worldmodel.evaluation.tables import interval
from worldmodel.metrics.features import FeatureNetwork
from worldmodel.videogpt import inception
from worldmodel.videogpt.measures import likelihood_blocks, reconstruction_blocks, samples_blocks
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.whole_clips import ClipSettings, WholeClips

PARTS = ("reconstruction", "likelihood", "samples")  # without weights of others
_SAMPLES = ("clips", "temperature", "top_k", "top_p", "seed", "batch_size")


def _of_reconstruction(n: dict[str, Any]) -> list[Headline]:
    return [Headline("tokenizer", f"{interval(n['psnr'], 1)} dB", f"SSIM {interval(n['ssim'], 3)}")]


def _of_likelihood(n: dict[str, Any]) -> list[Headline]:
    beside = f"copying {interval(n['copy_nats'])}, unigram {interval(n['unigram_nats'])}"
    return [Headline("nats a token", interval(n["nats_a_token"]), beside)]


SECTIONS: Sections = {
    "reconstruction": Section(
        reconstruction_blocks,
        "How much is lost before anything is sampled.",
        headlines=_of_reconstruction,
    ),
    "likelihood": Section(
        likelihood_blocks,
        "How many nats the prior takes for a token of a real clip: lower is better, and a prior "
        "worth having lies far below copying and the unigram.",
        headlines=_of_likelihood,
    ),
    "samples": Section(
        samples_blocks,
        "Clips drawn under the conditions of real ones; they need not be the same, only as likely.",
        (
            Picture("samples.png", "Real, reconstruction, sample: rows of three"),
            Picture("samples.gif", "The same, moving"),
        ),
    ),
    "fvd": Section(fvd_blocks, READING),
    "inception": Section(inception.inception_score_blocks, inception.READING),
}


def clip_parts(
    model: VideoGPT,
    reader: EpisodeReader,
    out: Path,
    settings: ClipSettings,
    *,
    i3d: FeatureNetwork | None,
    c3d: FeatureNetwork | None,
) -> dict[str, Part]:
    """All parts; the test clips are read, and sampled, once for all that need them."""

    @cache
    def whole() -> WholeClips:
        return WholeClips(model, reader, settings)

    parts = {
        "reconstruction": Part(lambda: whole().reconstruction(), ("clips", "seed")),
        "likelihood": Part(lambda: whole().likelihood(), ("clips", "seed")),
        "samples": Part(lambda: whole().samples(out), _SAMPLES),
    }
    if i3d is not None:
        parts["fvd"] = Part(lambda: whole().fvd(i3d), _SAMPLES, i3d)
    if c3d is not None:
        parts["inception"] = Part(lambda: whole().inception_score(c3d), _SAMPLES, c3d)
    return parts
