"""The parts of a report: what each measures, and what its numbers hang on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation.by_policy import measure_by_policy
from worldmodel.evaluation.features import FeatureNetwork
from worldmodel.evaluation.following import measure_actions
from worldmodel.evaluation.held_out import HeldOut, Settings
from worldmodel.evaluation.horizon import measure_dreams_fvd, measure_horizon
from worldmodel.evaluation.likelihood import measure_likelihood
from worldmodel.evaluation.look import measure_look
from worldmodel.evaluation.outcomes import measure_outcomes
from worldmodel.evaluation.place import measure_place
from worldmodel.evaluation.returns import measure_returns
from worldmodel.evaluation.stability import measure_stability
from worldmodel.evaluation.surprise import measure_surprise
from worldmodel.evaluation.tokens import measure_tokenizer
from worldmodel.metrics.perceptual import GET, LITE2, is_installed, load_network
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.whole_clips import ClipSettings, WholeClips

# With weights of others only.
I3D_PART, C3D_PART = "fvd", "inception"
_SAMPLING = ("temperature", "top_k", "top_p", "seed")
_DREAMING = (*_SAMPLING, "guidance")
_DREAMING_ALONG = ("clips", *_DREAMING, "batch_size")
_DREAMS = ("clips", "horizon", *_DREAMING, "batch_size")  # a batch shares its random numbers
DREAM_PARTS = (
    "tokenizer",
    "likelihood",
    "horizon",
    "actions",
    "place",
    "returns",
    "look",
    "policies",
    "stability",
    "outcomes",
    "surprise",
)
CLIP_PARTS = ("reconstruction", "likelihood", "samples")  # of VideoGPT as published


@dataclass(frozen=True)
class Part:
    """What can be measured.

    Attributes:
        measure: gives the numbers, and writes the pictures.
        options: names of the options that the numbers hang on, beside weights and data.
        network: whose features it takes, if any.
        lacking: why it can't be measured here; "": it can.
    """

    measure: Callable[[], dict[str, Any]]
    options: tuple[str, ...]
    network: FeatureNetwork | None = None
    lacking: str = ""


def dream_parts(
    model: WorldModel,
    reader: EpisodeReader,
    out: Path,
    settings: Settings,
    *,
    inverse_dynamics_steps: int,
    stability_steps: int,
    i3d: FeatureNetwork | None,
) -> dict[str, Part]:
    """Of a dream; the test clips are read, and dreamed, once for all parts that want them."""

    @cache
    def held_out() -> HeldOut:
        try:
            return HeldOut(model, reader, settings)
        except UserError as error:
            raise UserError(f"{error} (--horizon {settings.horizon} asks for that many)") from None

    device, pose = next(model.parameters()).device, model.config.pose
    no_pose = "" if pose and reader.info.pose else "checkpoint or data tell no pose"
    no_heading = "" if pose.heading is not None else "this world's pose has no heading"
    parts = {
        "tokenizer": Part(lambda: measure_tokenizer(held_out()), ("frames", "seed")),
        "likelihood": Part(lambda: measure_likelihood(held_out(), out), (*_DREAMS, "frames")),
        "horizon": Part(lambda: measure_horizon(held_out(), out), (*_DREAMS, "samples")),
        "actions": Part(
            lambda: measure_actions(held_out(), out, training_steps=inverse_dynamics_steps),
            (*_DREAMS, "inverse_dynamics_steps"),
        ),
        "place": Part(lambda: measure_place(held_out(), out), _DREAMING_ALONG, lacking=no_pose),
        "returns": Part(
            lambda: measure_returns(held_out(), out), _DREAMS, lacking=no_pose or no_heading
        ),
        "look": Part(
            lambda: measure_look(held_out(), load_network(LITE2, device)),
            _DREAMS,
            lacking="" if is_installed(LITE2) else f"its judge is not installed: {GET}",
        ),
        "policies": Part(lambda: measure_by_policy(held_out()), _DREAMS),
        "stability": Part(
            lambda: measure_stability(
                model,
                reader,
                out,
                sampling=settings.sampling,
                seed=settings.seed,
                num_steps=stability_steps,
            ),
            (*_DREAMING, "stability_steps"),
        ),
        "outcomes": Part(lambda: measure_outcomes(held_out(), out), _DREAMS),
        "surprise": Part(lambda: measure_surprise(held_out(), out), _DREAMS),
    }
    if i3d is not None:
        parts[I3D_PART] = Part(lambda: measure_dreams_fvd(held_out(), i3d), _DREAMS, i3d)
    return parts


def clip_parts(
    model: VideoGPT,
    reader: EpisodeReader,
    out: Path,
    settings: ClipSettings,
    *,
    i3d: FeatureNetwork | None,
    c3d: FeatureNetwork | None,
) -> dict[str, Part]:
    """Of VideoGPT as published; the test clips are read, and sampled, once for all parts."""

    @cache
    def whole() -> WholeClips:
        return WholeClips(model, reader, settings)

    samples = ("clips", *_SAMPLING, "batch_size")
    parts = {
        "reconstruction": Part(lambda: whole().reconstruction(), ("clips", "seed")),
        "likelihood": Part(lambda: whole().likelihood(), ("clips", "seed")),
        "samples": Part(lambda: whole().samples(out), samples),
    }
    if i3d is not None:
        parts[I3D_PART] = Part(lambda: whole().fvd(i3d), samples, i3d)
    if c3d is not None:
        parts[C3D_PART] = Part(lambda: whole().inception_score(c3d), samples, c3d)
    return parts
