"""The parts of a dream's report: what each measures, and what its numbers depend on."""

from functools import cache
from pathlib import Path

from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation.by_policy import measure_by_policy
from worldmodel.evaluation.following import measure_actions
from worldmodel.evaluation.held_out import HeldOut, Settings
from worldmodel.evaluation.horizon import measure_dreams_fvd, measure_horizon
from worldmodel.evaluation.likelihood import measure_likelihood
from worldmodel.evaluation.look import measure_look
from worldmodel.evaluation.measuring import Part
from worldmodel.evaluation.outcomes import measure_outcomes
from worldmodel.evaluation.place import measure_place
from worldmodel.evaluation.returns import measure_returns
from worldmodel.evaluation.sections import DREAM_SECTIONS
from worldmodel.evaluation.stability import measure_stability
from worldmodel.evaluation.surprise import measure_surprise
from worldmodel.evaluation.tokens import measure_tokenizer
from worldmodel.metrics.features import FeatureNetwork
from worldmodel.metrics.perceptual import GET, LITE2, is_installed, load_network

_SAMPLING = ("temperature", "top_k", "top_p", "seed")
_DREAMING = (*_SAMPLING, "guidance")
_DREAMING_ALONG = ("clips", *_DREAMING, "batch_size")
_DREAMS = ("clips", "horizon", *_DREAMING, "batch_size")  # a batch shares its random numbers
DREAM_PARTS = tuple(name for name in DREAM_SECTIONS if name != "fvd")  # whose weights are here


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
    """All parts; the test clips are read, and dreamed, once for all that need them."""

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
        parts["fvd"] = Part(lambda: measure_dreams_fvd(held_out(), i3d), _DREAMS, i3d)
    return parts
