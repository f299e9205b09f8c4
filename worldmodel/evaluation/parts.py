"""The parts of a dream's report, in order. Each module has its numbers, `measure`, and a `SECTION`
that shows them; OPTIONS are the options that the numbers depend on."""

from functools import partial
from pathlib import Path

from worldmodel.evaluation import (
    actions,
    fvd,
    horizon,
    likelihood,
    look,
    outcomes,
    place,
    policies,
    returns,
    stability,
    surprise,
    tokenizer,
)
from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut
from worldmodel.evaluation.report import Part, Sections
from worldmodel.metrics.features import FeatureNetwork
from worldmodel.metrics.perceptual import GET, LITE2, is_installed

MODULES = {
    "tokenizer": tokenizer,
    "likelihood": likelihood,
    "horizon": horizon,
    "actions": actions,
    "place": place,
    "returns": returns,
    "look": look,
    "policies": policies,
    "stability": stability,
    "outcomes": outcomes,
    "surprise": surprise,
}
DREAM_PARTS = tuple(MODULES)  # those that need no weights but the checkpoint's
DREAM_SECTIONS: Sections = {name: module.SECTION for name, module in MODULES.items()}
DREAM_SECTIONS["fvd"] = fvd.SECTION


def dream_parts(held_out: HeldOut, out: Path, i3d: FeatureNetwork | None) -> dict[str, Part]:
    """All parts; FVD only with a network."""
    pose, has_pose = held_out.model.config.pose, bool(held_out.reader.info.pose)
    no_pose = "" if pose and has_pose else "checkpoint or data have no pose"
    no_heading = "" if pose.heading is not None else "this world's pose has no heading"
    no_judge = "" if is_installed(LITE2) else f"its judge is not installed: {GET}"
    lacking = {"place": no_pose, "returns": no_pose or no_heading, "look": no_judge}
    parts = {
        name: Part(
            partial(module.measure, held_out, out), module.OPTIONS, lacking=lacking.get(name, "")
        )
        for name, module in MODULES.items()
    }
    if i3d is not None:
        parts["fvd"] = Part(partial(fvd.measure_dreams, held_out, i3d), DREAM_OPTIONS, i3d)
    return parts
