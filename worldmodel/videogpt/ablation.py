"""The rows of VideoGPT's Tables 3 to 7, the paper's figures, and tables of ours next to them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from worldmodel.evaluation.tables import Blocks, Table, interval, number, to_lines
from worldmodel.metrics.statistics import rank_correlation
from worldmodel.storage.files import written_whole
from worldmodel.videogpt.configs import PublishedPreset


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        change: derives the row's preset from the base preset. Raises ValueError where the base
            doesn't allow it.
        paper: the paper's figures by its column names; lower is better in all of them.
    """

    name: str
    change: Callable[[PublishedPreset], PublishedPreset]
    paper: dict[str, float]


@dataclass(frozen=True)
class Ablation:
    """One table.

    Attributes:
        compared: for columns of the paper, which of our numbers should order the rows alike.
        trains_prior: whether a row has a prior, not only a tokenizer.
    """

    title: str
    rows: tuple[Row, ...]
    compared: dict[str, str]
    trains_prior: bool = True


# Our numbers: part and key in a row's results, and the digits to show.
OURS = {
    "NMSE": ("reconstruction", "nmse", 4),
    "PSNR, dB": ("reconstruction", "psnr", 2),
    "nats a token": ("likelihood", "nats_a_token", 3),
    "bits a token": ("likelihood", "bits_a_token", 3),
    "bits a pixel-channel": ("likelihood", "bits_a_pixel_channel", 4),
}
FVD_COLUMNS = {"R-FVD": "r_fvd", "FVD": "fvd", "FVD*": "fvd_star"}


def _attention(base: PublishedPreset, *, used: bool) -> PublishedPreset:
    """Without attention, more residual blocks with as many parameters take its place."""
    tokenizer = base.tokenizer
    if not tokenizer.attention_heads:
        raise ValueError("its VQ-VAE has no attention to compare with")
    if used:
        return base
    width, units = tokenizer.hidden_units, tokenizer.residual_units
    of_convolutions = 28 * width * units  # a 3x3x3 and a 1x1x1 convolution
    of_attention = 3 * 4 * width * width  # queries, keys, values and output along three axes
    layers = round(tokenizer.residual_layers * (1 + of_attention / of_convolutions))
    return replace(base, tokenizer=replace(tokenizer, attention_heads=0, residual_layers=layers))


def _latents(base: PublishedPreset, shape: tuple[int, int, int], books: int = 1) -> PublishedPreset:
    """Latents of a shape that Table 5 states for 16x64x64 clips, relative to the base's, which
    stand for 8x32x32."""
    t, h, w = (
        have // 2 * (size // latents)
        for have, size, latents in zip(
            base.tokenizer.downsampling, (16, 64, 64), shape, strict=True
        )
    )
    return replace(
        base, tokenizer=replace(base.tokenizer, downsampling=(t, h, w), num_codebooks=books)
    )


def _codes(base: PublishedPreset, num_codes: int) -> PublishedPreset:
    return replace(base, tokenizer=replace(base.tokenizer, num_codes=num_codes))


def _layers(base: PublishedPreset, layers: int) -> PublishedPreset:
    return replace(base, prior=replace(base.prior, layers=layers))


def _latent_row(shape: tuple[int, int, int], *paper: float) -> Row:
    figures: dict[str, float] = dict(zip(("R-FVD", "FVD", "FVD*"), paper, strict=True))
    return Row("x".join(map(str, shape)), lambda base: _latents(base, shape), figures)


def _codebook_row(shape: tuple[int, int, int], books: int, *paper: float) -> Row:
    figures: dict[str, float] = dict(zip(("R-FVD", "FVD", "bits/dim"), paper, strict=True))
    name = "x".join(map(str, (*shape, books)))
    return Row(name, lambda base: _latents(base, shape, books), figures)


ABLATIONS = {
    "table3": Ablation(
        "attention in the VQ-VAE",
        (
            Row(
                "no attention",
                lambda base: _attention(base, used=False),
                {"NMSE": 0.0041, "R-FVD": 15.3},
            ),
            Row(
                "with attention",
                lambda base: _attention(base, used=True),
                {"NMSE": 0.0033, "R-FVD": 14.9},
            ),
        ),
        {"NMSE": "NMSE"},
        trains_prior=False,
    ),
    "table4": Ablation(
        "layers of the prior",
        tuple(
            Row(f"{layers} layers", lambda base, n=layers: _layers(base, n), paper)
            for layers, paper in (
                (2, {"bits/dim": 2.84, "FVD": 120.4}),
                (4, {"bits/dim": 2.52, "FVD": 110.0}),
                (8, {"bits/dim": 2.39, "FVD": 103.3}),
                (16, {"bits/dim": 2.05, "FVD": 103.6}),
            )
        ),
        {"bits/dim": "bits a token"},
    ),
    "table5": Ablation(
        "latent sizes",
        (
            _latent_row((4, 16, 16), 82.1, 135.4, 81.8),
            _latent_row((16, 8, 8), 108.1, 166.9, 81.6),
            _latent_row((8, 16, 16), 49.9, 124.7, 90.2),
            _latent_row((1, 64, 64), 41.6, 126.7, 98.1),
            _latent_row((4, 32, 32), 28.3, 104.6, 90.6),
            _latent_row((16, 16, 16), 32.8, 113.4, 94.9),
            _latent_row((2, 64, 64), 22.4, 124.3, 104.4),
            _latent_row((8, 32, 32), 14.9, 103.6, 94.6),
            _latent_row((4, 64, 64), 15.7, 109.4, 102.3),
            _latent_row((16, 32, 32), 10.1, 118.4, 113.8),
        ),
        {"R-FVD": "NMSE"},
    ),
    "table6": Ablation(
        "codes in the codebook",
        tuple(
            Row(f"{codes} codes", lambda base, n=codes: _codes(base, n), paper)
            for codes, paper in (
                (256, {"R-FVD": 18.2, "FVD": 103.8, "bits/dim": 1.55}),
                (1024, {"R-FVD": 14.9, "FVD": 103.6, "bits/dim": 2.05}),
                (4096, {"R-FVD": 11.3, "FVD": 103.9, "bits/dim": 2.60}),
            )
        ),
        {"R-FVD": "NMSE", "bits/dim": "bits a token"},
    ),
    "table7": Ablation(
        "codebooks",
        (
            _codebook_row((8, 32, 32), 1, 14.9, 103.6, 2.05),
            _codebook_row((16, 16, 16), 2, 17.2, 106.3, 2.41),
            _codebook_row((8, 16, 16), 4, 17.7, 131.4, 2.68),
            _codebook_row((4, 16, 16), 8, 23.1, 135.7, 2.97),
        ),
        {"R-FVD": "NMSE", "bits/dim": "bits a token"},
    ),
}


def to_markdown(ablation: Ablation, report: dict[str, Any]) -> str:
    """`to_blocks` as Markdown."""
    return "\n".join([*to_lines(to_blocks(ablation, report)), ""])


def to_blocks(ablation: Ablation, report: dict[str, Any]) -> Blocks:
    """The table of a report in JSON's types: the paper's columns, then ours."""
    rows = report["rows"]
    ours = [name for name, (part, _, _) in OURS.items() if all(part in r for r in rows.values())]
    of_fvd = [
        name
        for name, key in FVD_COLUMNS.items()
        if all(key in numbers.get("fvd", {}) for numbers in rows.values())
    ]
    of_paper = list(ablation.rows[0].paper)
    stages = list(next(iter(rows.values()))["steps"])
    header = ["", *[f"paper's {name}" for name in of_paper], *ours]
    header += [f"our {name}" for name in of_fvd]
    lines = []
    for row in ablation.rows:
        numbers = rows[row.name]
        line = [row.name, *[f"{row.paper[name]:g}" for name in of_paper]]
        for name in ours:
            part, key, digits = OURS[name]
            line.append(interval(numbers[part][key], digits))
        line += [number(numbers["fvd"][FVD_COLUMNS[name]], 1) for name in of_fvd]
        line += [
            f"{numbers['parameters'][s] / 1e6:.2f}M, {numbers['steps'][s]} steps" for s in stages
        ]
        lines.append(line)
    settings, on = report["settings"], report["machine"]
    budget = (
        f"{settings['steps']} steps"
        if settings["steps"] != "None"
        else f"{float(settings['max_minutes']):g} minutes"
    )
    example = next(iter(rows.values()))["reconstruction"]
    return [
        f"# Table {report['table'].removeprefix('table')}: {ablation.title}",
        Table([*header, *stages], lines),
        *_orders(ablation, rows),
        f"Each stage of each row: {budget}. {settings['size'].capitalize()} size of preset "
        f"{settings['preset']} on {settings['data']}, {example['num_clips']} test clips, seed "
        f"{settings['seed']}; {on['gpu'] or on['cpu']}, {on['threads']} threads, torch "
        f"{on['torch']}, commit {(report['commit'] or 'unknown')[:12]}. The paper's numbers are "
        "from BAIR, 8 GPUs and 100k and 150k steps; it doesn't define bits/dim. Numbers on "
        "different data are not comparable, but their order may be.",
    ]


def compares_tokenizers(ablation: Ablation) -> bool:
    """Whether a number that needs no prior is compared."""
    return any(OURS[name][0] == "reconstruction" for name in ablation.compared.values())


def measured(ablation: Ablation, rows: dict[str, Any]) -> dict[str, str]:
    """The compared columns that were measured: likelihood needs priors."""
    return {
        column: name
        for column, name in ablation.compared.items()
        if all(OURS[name][0] in numbers for numbers in rows.values())
    }


def _orders(ablation: Ablation, rows: dict[str, Any]) -> list[str]:
    """How well the order of rows by our numbers matches the paper's."""
    lines = []
    for column, name in measured(ablation, rows).items():
        part, key, _ = OURS[name]
        paper = [row.paper[column] for row in ablation.rows]
        intervals = [rows[row.name][part][key] for row in ablation.rows]
        ours = [interval["value"] for interval in intervals]
        pairs = [(i, j) for i in range(len(ours)) for j in range(i)]
        alike = sum((paper[i] - paper[j]) * (ours[i] - ours[j]) > 0 for i, j in pairs)
        apart = sum(
            max(intervals[i]["low"], intervals[j]["low"])
            > min(intervals[i]["high"], intervals[j]["high"])
            for i, j in pairs
        )
        correlation = rank_correlation(paper, ours)
        shown = "" if math.isnan(correlation) else f", rank correlation {correlation:.2f}"
        lines += [
            f"Our {name} orders {alike} of {len(pairs)} pairs of rows as the paper's {column} "
            f"does{shown}; the 95 % intervals of {apart} pairs don't overlap.",
        ]
    return lines


def draw_ablation(path: Path, ablation: Ablation, report: dict[str, Any]) -> None:
    """Save bar plots of the compared columns: the paper's above, ours below."""
    compared = measured(ablation, report["rows"])
    figure = Figure(figsize=(3 + 4.5 * len(compared), 5.5), layout="constrained")
    panels = figure.subplots(2, len(compared), squeeze=False, sharex=True)
    names = [row.name for row in ablation.rows]
    for (column, ours), (above, below) in zip(compared.items(), panels.T, strict=True):
        part, key, _ = OURS[ours]
        values = [report["rows"][name][part][key] for name in names]
        above.bar(names, [row.paper[column] for row in ablation.rows], color="grey")
        above.set(title=f"the paper's {column} (BAIR)", ylim=(0, None))
        middle = [value["value"] for value in values]
        errors = [
            [value["value"] - value["low"] for value in values],
            [value["high"] - value["value"] for value in values],
        ]
        below.bar(names, middle, yerr=errors, color="tab:blue", capsize=3)
        below.set(title=f"our {ours}, 95 % intervals", ylim=(0, None))
        below.tick_params("x", rotation=60)
    figure.suptitle(f"{report['table'].capitalize()}: {ablation.title}")
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
