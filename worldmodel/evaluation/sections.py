"""What a report holds: a section a part, its tables, its pictures, and how to read them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worldmodel.checkpoint import VIDEOGPT
from worldmodel.evaluation import dream_tables, look, place, returns
from worldmodel.evaluation.tables import Blocks, interval
from worldmodel.videogpt import published


@dataclass(frozen=True)
class Picture:
    """A file beside the report, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        blocks: makes its tables of the part's numbers.
        reading: how to read them.
        pictures: that measuring the part leaves in the report's folder.
    """

    blocks: Callable[[dict[str, Any]], Blocks]
    reading: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Headline:
    """A number of the summary."""

    what: str
    value: str
    beside: str  # what to hold it against


DREAM_SECTIONS = {
    "tokenizer": Section(
        dream_tables.tokenizer_blocks,
        "How much is lost before anything is dreamed: frames are drawn from a codebook, and no "
        "dream can look better than its tokenizer's pictures of real frames.",
    ),
    "likelihood": Section(
        dream_tables.likelihood_blocks,
        "How many nats the prior takes for a token of the real next frame: lower is better, and "
        "a prior worth having lies far below copying and the unigram. The left curve falls as far "
        "as older frames tell it something; the right one rises as the dreamed past drifts away.",
        (Picture("likelihood.png", "Nats a token by frames seen and by steps ahead"),),
    ),
    "horizon": Section(
        dream_tables.horizon_blocks,
        "How long a dream stays with the real future under the same actions. It lies between two "
        "lines: copying the last given frame, which a useless dream falls to, and the tokenizer's "
        "own picture of the real frame, which none surpasses.",
        (
            Picture("horizon.png", "PSNR over steps ahead"),
            Picture("ssim.png", "SSIM over steps ahead"),
            Picture("real-and-dream.gif", "Real beside dream, same actions; red: given frames"),
            Picture(
                "real-and-dream.png",
                "Real above dream, from the last given frame (red) to the farthest step",
            ),
        ),
    ),
    "actions": Section(
        dream_tables.actions_blocks,
        "Whether the dream follows its actions: a network that reads actions off real frames is "
        "shown dreams. Dreamed over real near 1: actions can be read off dreams as well as off "
        "real frames.",
    ),
    "place": Section(
        place.place_blocks,
        place.READING,
        (Picture("place.png", "Paths of game and dream under the same actions, from above"),),
    ),
    "returns": Section(
        returns.returns_blocks,
        returns.READING,
        (
            Picture(
                "returns.png",
                "A row each: recorded start; halfway recorded, dreamed; return recorded, dreamed",
            ),
        ),
    ),
    "look": Section(look.look_blocks, look.READING),
    "policies": Section(
        dream_tables.policies_blocks,
        "The same by who acted in the recorded episodes: a player's habits are easier to "
        "predict than random actions, and whoever trains agents in the dream meets both.",
    ),
    "stability": Section(
        dream_tables.stability_blocks,
        "Whether long dreams stay as rich as real frames. Blue lines should stay in the green "
        "band; lines that leave it for good are dreams that froze, went blank or boiled.",
        (
            Picture("stability.png", "Statistics of long dreams over time"),
            Picture("long-dreams.png", "One dream a row: its start, then the end of each block"),
        ),
    ),
    "outcomes": Section(
        dream_tables.outcomes_blocks,
        "Rewards, ends and game variables. AUROC is the chance that a step that brings one was "
        "held likelier than one that doesn't: 0.5 is a coin. The plot's points lie on the grey "
        "line where chances mean what they say.",
        (Picture("calibration.png", "What was predicted, and what came"),),
    ),
    "surprise": Section(
        dream_tables.surprise_blocks,
        "Whether surprise warns: it should rise off the recorded distribution. A kind of frames "
        "whose AUROC is near 0.5 can't be recognised by surprise, whatever it looks like to us.",
        (
            Picture("surprise.png", "Surprise of each kind of frames"),
            Picture("surprise-frames.png", "The kinds of frames, in the table's order"),
        ),
    ),
    "fvd": Section(
        published.fvd_blocks,
        "How far the dreams' features lie from real clips' as a whole; beside it the same "
        "distance between real clips, which no dream can be asked to beat.",
    ),
}
CLIP_SECTIONS = {
    "reconstruction": Section(
        published.reconstruction_blocks, "How much is lost before anything is sampled."
    ),
    "likelihood": Section(
        published.likelihood_blocks,
        "How many nats the prior takes for a token of a real clip: lower is better, and a prior "
        "worth having lies far below copying and the unigram.",
    ),
    "samples": Section(
        published.samples_blocks,
        "Clips drawn under the conditions of real ones; they need not be the same, only as likely.",
        (
            Picture("samples.png", "Real, reconstruction, sample: rows of three"),
            Picture("samples.gif", "The same, moving"),
        ),
    ),
    "fvd": Section(published.fvd_blocks, DREAM_SECTIONS["fvd"].reading),
    "inception": Section(
        published.inception_score_blocks,
        "Whether samples look like clear and different classes; hardly any surpass real clips.",
    ),
}


def sections(report: dict[str, Any]) -> dict[str, Section]:
    """Those of a report's model, by part, in the order of the report."""
    return CLIP_SECTIONS if report.get("model") == VIDEOGPT else DREAM_SECTIONS


def headlines(report: dict[str, Any]) -> list[Headline]:
    """The few numbers that come first, of the parts that were measured."""
    numbers = {name: part["numbers"] for name, part in report["parts"].items()}
    is_clips = report.get("model") == VIDEOGPT
    found = []
    for name, of_part in (_CLIP_HEADLINES if is_clips else _DREAM_HEADLINES).items():
        if name in numbers:
            found += of_part(numbers[name])
    return found


def _of_tokenizer(n: dict[str, Any]) -> list[Headline]:
    return [Headline("tokenizer", f"{interval(n['psnr'], 1)} dB", "PSNR of real frames")]


def _of_likelihood(n: dict[str, Any]) -> list[Headline]:
    beside = f"copying {n['copy_nats']:.2f}, unigram {n['unigram_nats']:.2f}"
    return [Headline("nats a token, next frame", interval(n["nats_a_token"]), beside)]


def _of_horizon(n: dict[str, Any]) -> list[Headline]:
    over = n["one_over_copy"]
    chosen = list(dict.fromkeys([next(iter(over)), list(over)[-1]]))
    return [
        Headline(
            f"dream over copying, {k} step{'s' if k != '1' else ''} ahead",
            f"{interval(over[k]['db'], 1)} dB",
            f"PSNR {interval(n['psnr']['one'][k], 1)}, SSIM {interval(n['ssim']['one'][k])}",
        )
        for k in chosen
    ]


def _of_actions(n: dict[str, Any]) -> list[Headline]:
    beside = f"{n['measure']} {interval(n['dreamed'])} against {interval(n['real'])}"
    return [Headline("actions read off dreams over real", interval(n["ratio"]), beside)]


def _of_stability(n: dict[str, Any]) -> list[Headline]:
    beside = f"{n['num_dreams']} dreams of {n['num_steps']} steps"
    return [Headline("long dreams that collapsed", f"{n['share_collapsed']:.0%}", beside)]


def _of_outcomes(n: dict[str, Any]) -> list[Headline]:
    return [
        Headline(
            f"AUROC of {kind}, next step",
            interval(of["auroc"], 3),
            f"{of['count']} in {n['next_step']['num_steps']} steps",
        )
        for kind in ("ends", "events")
        if (of := n["next_step"][kind]) is not None and of["count"]
    ]


def _of_surprise(n: dict[str, Any]) -> list[Headline]:
    hardest = n["hardest"]
    value = interval(n["kinds"][hardest]["auroc"], 3)
    return [Headline("AUROC of surprise, hardest kind", value, f"single frames, {hardest}")]


def _of_reconstruction(n: dict[str, Any]) -> list[Headline]:
    return [Headline("tokenizer", f"{interval(n['psnr'], 1)} dB", f"SSIM {interval(n['ssim'], 3)}")]


def _of_clip_likelihood(n: dict[str, Any]) -> list[Headline]:
    beside = f"copying {interval(n['copy_nats'])}, unigram {interval(n['unigram_nats'])}"
    return [Headline("nats a token", interval(n["nats_a_token"]), beside)]


_DREAM_HEADLINES = {
    "tokenizer": _of_tokenizer,
    "likelihood": _of_likelihood,
    "horizon": _of_horizon,
    "actions": _of_actions,
    "stability": _of_stability,
    "outcomes": _of_outcomes,
    "surprise": _of_surprise,
}
_CLIP_HEADLINES = {"reconstruction": _of_reconstruction, "likelihood": _of_clip_likelihood}
