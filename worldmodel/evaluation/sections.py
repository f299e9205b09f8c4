"""How each part of a dream's report is shown: its tables, its pictures, and how to read them."""

from typing import Any

from worldmodel.evaluation import dream_tables, fvd, look, place, returns
from worldmodel.evaluation.report import Headline, Picture, Section, Sections
from worldmodel.evaluation.tables import interval


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


DREAM_SECTIONS: Sections = {
    "tokenizer": Section(
        dream_tables.tokenizer_blocks,
        "How much is lost before anything is dreamed: frames are drawn from a codebook, and no "
        "dream can look better than its tokenizer's pictures of real frames.",
        headlines=_of_tokenizer,
    ),
    "likelihood": Section(
        dream_tables.likelihood_blocks,
        "How many nats the prior takes for a token of the real next frame: lower is better, and "
        "a prior worth having lies far below copying and the unigram. The left curve falls as far "
        "as older frames tell it something; the right one rises as the dreamed past drifts away.",
        (Picture("likelihood.png", "Nats a token by frames seen and by steps ahead"),),
        headlines=_of_likelihood,
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
        headlines=_of_horizon,
    ),
    "actions": Section(
        dream_tables.actions_blocks,
        "Whether the dream follows its actions: a network that reads actions off real frames is "
        "shown dreams. Dreamed over real near 1: actions can be read off dreams as well as off "
        "real frames.",
        headlines=_of_actions,
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
        headlines=_of_stability,
    ),
    "outcomes": Section(
        dream_tables.outcomes_blocks,
        "Rewards, ends and game variables. AUROC is the chance that a step that brings one was "
        "held likelier than one that doesn't: 0.5 is a coin. The plot's points lie on the grey "
        "line where chances mean what they say.",
        (Picture("calibration.png", "What was predicted, and what came"),),
        headlines=_of_outcomes,
    ),
    "surprise": Section(
        dream_tables.surprise_blocks,
        "Whether surprise warns: it should rise off the recorded distribution. A kind of frames "
        "whose AUROC is near 0.5 can't be recognised by surprise, whatever it looks like to us.",
        (
            Picture("surprise.png", "Surprise of each kind of frames"),
            Picture("surprise-frames.png", "The kinds of frames, in the table's order"),
        ),
        headlines=_of_surprise,
    ),
    "fvd": Section(fvd.fvd_blocks, fvd.READING),
}
