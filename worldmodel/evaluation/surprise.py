"""The part "surprise": whether the model's nats a token of a frame reveal frames unlike its data.

In a dream it is `info["surprise"]`, of the frame that was just drawn; here it is of real next
frames given the real past, and of frames that were altered.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from worldmodel import randomness
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut
from worldmodel.evaluation.report import Headline, Picture, Section
from worldmodel.evaluation.tables import Blocks, Table, interval
from worldmodel.media.film import coloured, save_png, sheet
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.statistics import Interval, next_of_another

OPTIONS = DREAM_OPTIONS
WEAK_NOISE, STRONG_NOISE = 0.05, 0.2  # standard deviations, pixels in [0, 1]
MEAN_FRAMES = 8  # about a second of Doom
SHOWN_FRAMES = 8
RECORDED, SPLICED, DREAMED = "recorded", "spliced from another episode", "its own dreams"
NUM_BINS = 60  # of the histograms


@dataclass(frozen=True)
class Kind:
    """Surprise of a kind of frames; all but the mean are against RECORDED, which lacks them."""

    nats_a_token: Interval
    rise: Interval | None = None
    auroc: Interval | None = None
    """Of single frames."""
    auroc_of_means: Interval | None = None
    """Of means over consecutive frames."""


@dataclass(frozen=True)
class Surprise:
    num_clips: int
    frames_a_clip: int
    frames_of_a_mean: int
    shown: list[str]
    """Rows of surprise-frames.png."""
    kinds: dict[str, Kind]
    hardest: str
    """The altered kind with the lowest AUROC."""


def measure(held_out: HeldOut, out: Path) -> Surprise:
    """In mirrored, inverted and noisy clips all frames are altered, the given ones too; a spliced
    frame is another episode's, after the real past."""
    frames, future = held_out.clips.frames, held_out.future
    surprise = {
        RECORDED: held_out.predicted.steps(future).nats,
        "actions of another clip": held_out.predicted_with_other_actions.steps(future).nats,
    }
    altered = altered_clips(frames, seed=held_out.settings.seed)
    for name, strange in altered.items():
        codes = held_out.encode(strange, f"encoding: {name}")
        surprise[name] = held_out.predict(f"surprise: {name}", codes=codes).steps(future).nats
    others = next_of_another(held_out.episodes)
    if others is None:  # a single test episode: another place of it
        others = np.roll(np.arange(len(held_out)), -1)
    next_codes = held_out.real_codes[torch.from_numpy(others)]
    spliced = held_out.predict("surprise: spliced", next_codes=next_codes)
    surprise[SPLICED] = spliced.steps(future).nats
    surprise[DREAMED] = held_out.dreams.nats.astype(np.float64)
    _draw(out / "surprise.png", {name: nats.ravel() for name, nats in surprise.items()})
    examples = [frames, *altered.values(), frames[others]]
    rows = [coloured(clips[:SHOWN_FRAMES, held_out.num_given]) for clips in examples]
    save_png(out / "surprise-frames.png", sheet(rows, scale=2))
    recorded, boot = surprise[RECORDED], held_out.bootstrap
    kinds = {RECORDED: Kind(boot.mean(recorded.mean(1)))}
    aurocs = {}
    for name, nats in surprise.items():
        if name != RECORDED:
            single = _auroc(nats, recorded, 1, boot)
            means = _auroc(nats, recorded, min(MEAN_FRAMES, nats.shape[1]), boot)
            rise = boot.mean((nats - recorded).mean(1))
            kinds[name] = Kind(boot.mean(nats.mean(1)), rise, single, means)
            aurocs[name] = single.value
    return Surprise(
        num_clips=len(held_out),
        frames_a_clip=held_out.settings.horizon,
        frames_of_a_mean=min(MEAN_FRAMES, held_out.settings.horizon),
        shown=[RECORDED, *altered, SPLICED],
        kinds=kinds,
        hardest=min(aurocs.keys() - {DREAMED}, key=lambda name: aurocs[name]),
    )


def altered_clips(frames: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """Clips uint8 (..., H, W, C) as nobody recorded them, by name."""

    def noisy(strength: float) -> np.ndarray:
        rng = randomness.generator(seed, "surprise: noise")
        noise = rng.standard_normal(frames.shape, np.float32) * np.float32(255 * strength)
        return (frames + noise).round().clip(0, 255).astype(np.uint8)

    return {
        "mirrored left-right": np.ascontiguousarray(frames[..., ::-1, :]),
        "colours inverted": ~frames,
        f"pixel noise {WEAK_NOISE:g}": noisy(WEAK_NOISE),
        f"pixel noise {STRONG_NOISE:g}": noisy(STRONG_NOISE),
    }


def _auroc(nats: np.ndarray, recorded: np.ndarray, length: int, boot: Bootstrap) -> Interval:
    """How well surprise (clips, steps) tells frames from recorded ones, by means of `length`."""
    whole = nats.shape[1] // length * length
    scores = np.stack(
        [of[:, :whole].reshape(len(of), -1, length).mean(2) for of in (nats, recorded)], 1
    )
    is_altered = np.zeros(scores.shape, bool)
    is_altered[:, 0] = True
    return boot.auroc(scores, is_altered)


def _draw(path: Path, nats: dict[str, np.ndarray]) -> None:
    """Histograms of surprise, one row a kind of frames; the line is the median."""
    figure = Figure(figsize=(8, 0.55 * len(nats) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(nats))[::-1]
    shared = np.histogram_bin_edges(np.concatenate(list(nats.values())), NUM_BINS)
    for place, (name, values) in zip(places, nats.items(), strict=True):
        counts, edges = np.histogram(values, shared)
        heights = 0.8 * counts / counts.max()
        colour = "tab:blue" if name == RECORDED else "tab:orange"
        axes.stairs(place + heights, edges, baseline=place, fill=True, color=colour, alpha=0.6)
        axes.vlines(np.median(values), place, place + 0.8, color="black", linewidth=1)
    axes.axvline(np.median(nats[RECORDED]), color="tab:blue", linewidth=0.8, linestyle=":")
    axes.set_yticks(places + 0.3, list(nats))
    axes.set(xlabel="surprise, nats a token", title="Surprise of single frames", xlim=(0, None))
    plots.save(figure, path)


def blocks(n: Surprise) -> Blocks:
    def cell(of: Interval | None, digits: int) -> str:
        return "" if of is None else interval(of, digits)

    rows = [
        [
            name,
            interval(of.nats_a_token),
            cell(of.rise, 2),
            cell(of.auroc, 3),
            cell(of.auroc_of_means, 3),
        ]
        for name, of in n.kinds.items()
    ]
    header = ["frames", "surprise, nats a token", "rise", "AUROC, single frames"]
    return [
        Table([*header, f"means of {n.frames_of_a_mean} frames"], rows),
        f"{n.num_clips} clips of {n.frames_a_clip} frames. AUROC: the chance that a frame of this "
        "kind surprises more than a recorded one: 0.5 is a coin, 1 is certain. Mirrored, inverted "
        "and noisy clips are altered throughout, their given frames too, and keep their actions; a "
        "spliced frame follows the real past; noise by its standard deviation, pixels in [0, 1]. "
        "Dreams are sampled with the settings below: a temperature under 1 lowers their surprise, "
        "guidance may raise it.",
        "surprise-frames.png, rows from the top: " + ", ".join(n.shown) + ".",
    ]


def headlines(n: Surprise) -> list[Headline]:
    of = n.kinds[n.hardest].auroc
    value = "-" if of is None else interval(of, 3)
    return [Headline("AUROC of surprise, hardest kind", value, f"single frames, {n.hardest}")]


SECTION = Section(
    blocks,
    "Whether surprise warns: it should rise on frames unlike the recorded ones. A kind of frames "
    "whose AUROC is near 0.5 can't be recognised by surprise, whatever it looks like to us.",
    (
        Picture("surprise.png", "Surprise of each kind of frames"),
        Picture("surprise-frames.png", "The kinds of frames, in the table's order"),
    ),
    headlines,
    Surprise,
)
