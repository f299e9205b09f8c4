"""The part "stability": whether long dreams stay as rich as real frames, or collapse."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from worldmodel import randomness
from worldmodel.command import named_function, track
from worldmodel.dream import Dream
from worldmodel.errors import UserError
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import RANDOM_PLAYERS, SAMPLING_OPTIONS, HeldOut, wander
from worldmodel.evaluation.report import Headline, Picture, Section
from worldmodel.evaluation.tables import Blocks, Table, number
from worldmodel.media.film import save_png, sheet
from worldmodel.metrics.statistics import code_counts, entropy

OPTIONS = (*SAMPLING_OPTIONS, "stability_steps", "driver")
Driver = Callable[[np.ndarray], np.ndarray]  # from a frame to an action
POLICY_PLAYERS = b"policy"
NUM_DREAMS = 8
BLOCK_STEPS = 100
MIN_REAL_BLOCKS = 16  # blocks are shorter where episodes are
MAX_REAL_BLOCKS = 128
MOST_COLUMNS = 10  # of blocks in the table
STATISTICS = (
    "spread_over_space",
    "spread_over_time",
    "code_perplexity",
    "frame_change",
    "rare_codes",
)
RARE_SHARE = 0.1  # of the real frames' tokens, made up by the rarest codes together
# A dream has collapsed when, in its last block, it is far outside the range of real blocks. These
# are the tokenizer's reconstructions: its blur is no fault of the dream.
COLLAPSE = (
    "in the last block: spread over space, spread over time, code perplexity or frame change "
    "below half of the reconstructed real blocks' 5th percentile, or frame change above twice "
    "their 95th"
)


@dataclass(frozen=True)
class Spread:
    """Of a statistic over real blocks."""

    mean: float
    p5: float
    """5th percentile."""
    p95: float


@dataclass(frozen=True)
class Stability:
    """STATISTICS by name."""

    num_dreams: int
    num_steps: int
    block_steps: int
    num_real_blocks: int
    ends_ignored: int
    """Ends drawn in dreams; there the game variables were reset, as no data show what follows."""
    real: dict[str, float]
    """Means over blocks of real frames."""
    reconstructed: dict[str, Spread]
    """Of blocks of the tokenizer's reconstructions."""
    dreamed: dict[str, list[float]]
    """Means over dreams, of each block."""
    collapse_criterion: str
    share_collapsed: float
    """Of the dreams."""
    share_of_blocks_outside: float
    """Blocks that meet the criterion, of all blocks of dreams."""
    driver: str | None = None
    """Who acted in the dreams; None: actions were random."""


def measure(held_out: HeldOut, out: Path) -> Stability:
    """Dreams under random actions beside real blocks of random play, where the data have such: it
    faces walls more often than a good player does. With a driver, beside its policy's play."""
    reader, driver = held_out.reader, _driver(held_out)
    members = reader.split("test")
    players = RANDOM_PLAYERS if driver is None else POLICY_PLAYERS
    alike = members[reader.index["policy"][members] == players]
    members = alike if len(alike) else members
    if not len(members):
        raise UserError(f"{reader.folder} has no test episode to compare long dreams with")
    lengths = reader.index["episode_length"][members] + 1
    long_enough = np.sort(lengths)[-min(MIN_REAL_BLOCKS, len(lengths))]
    block = int(min(BLOCK_STEPS, held_out.settings.stability_steps, long_enough))
    real, reconstructed, rare = _real_blocks(held_out, members[lengths >= block], block)
    # (dreams, blocks, statistics)
    dreamed, strips, ends = _dream_blocks(held_out, block, rare, driver)
    low, high = np.quantile(reconstructed, (0.05, 0.95), axis=0)
    names = np.asarray(STATISTICS)
    floor = np.where(names == "rare_codes", -np.inf, low / 2)
    ceiling = np.where(names == "frame_change", 2 * high, np.inf)
    outside = np.any((dreamed < floor) | (dreamed > ceiling), axis=-1)  # (dreams, blocks)
    _draw(out / "stability.png", low, high, dreamed, block)
    save_png(out / "long-dreams.png", sheet(list(strips), scale=2))
    spreads = [
        Spread(*map(float, of)) for of in zip(map(np.mean, reconstructed.T), low, high, strict=True)
    ]
    of_blocks = [dreamed[:, :, s].mean(0).tolist() for s in range(len(STATISTICS))]
    return Stability(
        num_dreams=len(dreamed),
        num_steps=dreamed.shape[1] * block,
        block_steps=block,
        num_real_blocks=len(real),
        ends_ignored=ends,
        real=dict(zip(STATISTICS, [of.mean().item() for of in real.T], strict=True)),
        reconstructed=dict(zip(STATISTICS, spreads, strict=True)),
        dreamed=dict(zip(STATISTICS, of_blocks, strict=True)),
        collapse_criterion=COLLAPSE,
        share_collapsed=float(outside[:, -1].mean()),
        share_of_blocks_outside=float(outside.mean()),
        driver=held_out.settings.driver,
    )


def _driver(held_out: HeldOut) -> Driver | None:
    """The settings' driver; its actions are checked.

    Raises:
        UserError: there is no such function, or it chooses something that is no action.
    """
    name, spec = held_out.settings.driver, held_out.model.config.actions
    if name is None:
        return None
    function = named_function("--driver", name)

    def drive(frame: np.ndarray) -> np.ndarray:
        try:
            return spec.checked(function(frame))
        except UserError as error:
            raise UserError(f"--driver {name}: {error}") from None

    return drive


def block_statistics(frames: np.ndarray, codes: np.ndarray, rare: np.ndarray) -> np.ndarray:
    """STATISTICS of one block.

    Args:
        frames: uint8 (T, H, W, C), T >= 2.
        codes: (T, h, w, q).
        rare: bool (q, K), of the codes.

    Returns:
        float64 (5,): the mean standard deviation of pixels within a frame, that of a pixel over the
        block, exp(entropy) of the block's codes, mean over codebooks, the mean absolute change of a
        pixel in a step, pixels in [0, 1], and the share of rare codes: they show small things,
        which a dream may lose while all else stays as rich.
    """
    pixels = frames.astype(np.float32) / 255
    nats = [entropy(counts) for counts in code_counts(codes, rare.shape[1])]
    return np.asarray(
        [
            pixels.std((1, 2)).mean(),
            pixels.std(0).mean(),
            math.exp(np.mean(nats)),
            np.abs(np.diff(pixels, axis=0)).mean(),
            np.mean([rare_codes[codes[..., q]].mean() for q, rare_codes in enumerate(rare)]),
        ],
        np.float64,
    )


def rarest(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """The rarest codes of each codebook, which make up at most RARE_SHARE of its tokens together.

    Args:
        codes: (..., q).
        num_codes: K.

    Returns:
        bool (q, K).
    """
    rare = np.zeros((codes.shape[-1], num_codes), bool)
    for of_book, counts in zip(rare, code_counts(codes, num_codes), strict=True):
        order = np.argsort(counts, kind="stable")
        of_book[order[np.cumsum(counts[order]) <= RARE_SHARE * counts.sum()]] = True
    return rare


def _real_blocks(
    held_out: HeldOut, members: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(blocks, statistics) of the first frames of episodes, one block an episode: as they are, and
    reconstructed. And which of their codes are rare."""
    model, rng = held_out.model, _generator(held_out, "real blocks")
    frames, codes, again = [], [], []
    for i in track(rng.permutation(members)[:MAX_REAL_BLOCKS].tolist(), "real blocks"):
        frames.append(held_out.reader.frames(i, 0, block))
        tokens = model.encode(torch.from_numpy(frames[-1]).to(held_out.device))
        again.append(model.draw(tokens[None])[0].cpu().numpy())
        codes.append(tokens.cpu().numpy())
    rare = rarest(np.stack(codes), model.config.tokenizer.num_codes)
    real, reconstructed = (
        np.stack([block_statistics(f, c, rare) for f, c in zip(shown, codes, strict=True)])
        for shown in (frames, again)
    )
    return real, reconstructed, rare


def _dream_blocks(
    held_out: HeldOut, block: int, rare: np.ndarray, driver: Driver | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """(dreams, blocks, statistics); frames (dreams, 1 + blocks, H, W, C); ends drawn."""
    model, device = held_out.model, held_out.device
    dream, first = _begin(held_out)
    variables_given = dream.variables
    num_steps = held_out.settings.stability_steps // block * block
    rng = _generator(held_out, "long dreams")
    actions = wander(rng, model.config.actions, NUM_DREAMS, num_steps)
    blocks, strip, ends = [], [first], 0
    frames, codes = [], []
    for t in track(range(num_steps), "long dreams"):
        if driver is not None:
            actions[:, t] = [driver(frame) for frame in (frames[-1] if t % block else strip[-1])]
        uniforms = torch.from_numpy(rng.random((NUM_DREAMS, model.num_uniforms), np.float32))
        step, dream = model.step(
            dream,
            torch.from_numpy(actions[:, t]).to(device),
            uniforms.to(device),
            held_out.settings.sampling,
        )
        ends += int(step.terminated.sum())
        revived = torch.where(step.terminated[:, None], variables_given, dream.variables)
        dream = replace(dream, variables=revived)
        frames.append(step.frames.cpu().numpy())
        codes.append(dream.codes.cpu().numpy())
        if (t + 1) % block == 0:
            of_block = zip(np.stack(frames, 1), np.stack(codes, 1), strict=True)
            blocks.append([block_statistics(f, c, rare) for f, c in of_block])
            strip.append(frames[-1])
            frames, codes = [], []
    return np.asarray(blocks).swapaxes(0, 1), np.stack(strip, 1), ends


def _begin(held_out: HeldOut) -> tuple[Dream, np.ndarray]:
    """Dreams from the first frames of test episodes, and the last frame given to each."""
    reader, num_given = held_out.reader, held_out.num_given
    members = reader.split("test")
    members = members[reader.index["episode_length"][members] + 1 >= num_given]
    if not len(members):
        raise UserError(f"{reader.folder}: no test episode has {num_given} frames to begin from")
    chosen = np.resize(_generator(held_out, "beginnings").permutation(members), NUM_DREAMS)
    steps = [reader.steps(int(i)) for i in chosen]
    frames = np.stack([reader.frames(int(i), 0, num_given) for i in chosen])
    given = (
        frames,
        np.stack([step["action"][: num_given - 1] for step in steps]),
        np.stack([step["variables"][:num_given] for step in steps]),
        np.stack([step["pose"][:num_given] for step in steps]),
    )
    dream = held_out.model.start(*(torch.from_numpy(array).to(held_out.device) for array in given))
    return dream, frames[:, -1]


def _generator(held_out: HeldOut, name: str) -> np.random.Generator:
    return randomness.generator(held_out.settings.seed, f"stability: {name}")


def _draw(path: Path, low: np.ndarray, high: np.ndarray, dreamed: np.ndarray, block: int) -> None:
    """Each statistic over the length of dreams, beside the range of real blocks."""
    figure = Figure(figsize=(3 * len(STATISTICS), 3), layout="constrained")
    steps = (np.arange(dreamed.shape[1]) + 1) * block
    panels = figure.subplots(1, len(STATISTICS))
    for s, (name, axes) in enumerate(zip(STATISTICS, panels, strict=True)):
        label = "real, reconstructed, 5 to 95 %"
        axes.axhspan(low[s], high[s], color="tab:green", alpha=0.2, label=label)
        axes.plot(steps, dreamed[:, :, s].T, color="tab:blue", alpha=0.35, linewidth=0.8)
        axes.plot(steps, dreamed[:, :, s].mean(0), color="tab:blue", label="dreams, and their mean")
        axes.set(title=name.replace("_", " "), xlabel="step", ylim=(0, None))
    panels[0].legend(fontsize="small")
    plots.save(figure, path)


def blocks(n: Stability) -> Blocks:
    ends = np.arange(n.block_steps, n.num_steps + 1, n.block_steps)
    shown = np.unique(np.linspace(0, len(ends) - 1, MOST_COLUMNS).astype(int))
    rows = []
    for name, values in n.dreamed.items():
        again, digits = n.reconstructed[name], 1 if name == "code_perplexity" else 3
        real, mean, low, high, *of_blocks = (
            number(value, digits)
            for value in (
                *(n.real[name], again.mean, again.p5, again.p95),
                *(values[block] for block in shown),
            )
        )
        rows.append([name.replace("_", " "), real, f"{mean}, {low} to {high}", *of_blocks])
    actions = f"chosen by {n.driver}" if n.driver else "random, each held for a while"
    return [
        Table(["", "real", "real, reconstructed: mean, 5 to 95 %", *map(str, ends[shown])], rows),
        f"{n.num_dreams} dreams of {n.num_steps} steps, actions {actions}; means of blocks of "
        f"{n.block_steps} steps, by their last steps; {n.num_real_blocks} real blocks. "
        f"Collapsed: {n.share_collapsed:.0%} of the dreams ({n.collapse_criterion}); "
        f"{n.share_of_blocks_outside:.1%} of all blocks are outside. {n.ends_ignored} ends were "
        "drawn; there the game variables were reset to those given.",
    ]


def headlines(n: Stability) -> list[Headline]:
    beside = f"{n.num_dreams} dreams of {n.num_steps} steps"
    return [Headline("long dreams that collapsed", f"{n.share_collapsed:.0%}", beside)]


SECTION = Section(
    blocks,
    "Whether long dreams stay as rich as real frames. Blue lines should stay in the green band; "
    "lines that leave it for good are dreams that froze, went blank or dissolved into noise.",
    (
        Picture("stability.png", "Statistics of long dreams over time"),
        Picture("long-dreams.png", "One dream a row: its start, then the end of each block"),
    ),
    headlines,
    Stability,
)
