"""Measure VideoGPT as published: python -m worldmodel.videogpt.evaluate runs/bair --data data/bair

On the data's test split. Writes a page (report.html), numbers (report.json), tables (report.md),
and films. Each part is written when it is done: after an interruption the same command resumes, and
parts measured before with the same settings, data and weights are kept.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.checkpoint import find_kind
from worldmodel.checkpoint.files import VIDEOGPT
from worldmodel.command import check_numbers, parse_options, python_command, run_command
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.report import (
    ReportOptions,
    chosen_parts,
    i3d_of,
    measure_parts,
    report_blocks,
    report_folder,
)
from worldmodel.evaluation.tables import to_text
from worldmodel.interface.sampling import ClipSamplingOptions
from worldmodel.videogpt.checkpoint import check_same_data, load_videogpt
from worldmodel.videogpt.inception import load_c3d
from worldmodel.videogpt.whole_clips import PARTS, SECTIONS, ClipSettings, clip_parts


@dataclass(frozen=True)
class Evaluate(ClipSamplingOptions, ReportOptions):
    """Measure VideoGPT as published on the test split of recorded episodes."""

    parts: str | None = None
    """What to measure, comma-separated; by default all that the given weights allow:
    reconstruction, likelihood, samples, fvd, inception."""
    c3d_weights: Path | None = None
    """C3D of UCF-101 for the inception score: TGANv2's conv3d_deepnetA_ucf.npz."""


def main() -> None:
    options = parse_options(Evaluate, "worldmodel.videogpt.evaluate", __doc__)
    command = python_command("worldmodel.videogpt.evaluate", *sys.argv[1:])

    def work() -> None:
        print(to_text(report_blocks(evaluate(options, command=command), SECTIONS)))

    run_command(
        work, stopped="stopped; what was measured is kept, and the same command resumes here"
    )


def evaluate(options: Evaluate, *, command: str = "worldmodel.videogpt.evaluate") -> dict[str, Any]:
    """Measure VideoGPT as the options say.

    Args:
        command: recorded in the report.

    Returns:
        The content of report.json.

    Raises:
        UserError: the checkpoint or the data are missing or damaged; an option is not usable;
            the two don't fit; or the report's folder holds another program's files.
    """
    data = [] if options.data is None else ["--data", str(options.data)]
    dream = ("worldmodel.evaluate", options.checkpoint, *data)
    folder = find_kind(options.checkpoint, VIDEOGPT, *dream)
    with_weights = {"fvd": options.i3d_weights, "inception": options.c3d_weights}
    names = chosen_parts(options, PARTS, with_weights)
    check_numbers(options, clips=2, batch_size=1, seed=0)
    sampling = options.sampling
    if options.data is None:
        raise UserError("--data is needed: the folder of episodes whose test split is measured on")
    checkpoint = load_videogpt(str(folder), device=options.device)
    reader = EpisodeReader(options.data)
    check_same_data(checkpoint, reader, options.checkpoint)
    out = options.out or report_folder(folder, options.checkpoint)
    parts = clip_parts(
        checkpoint.model,
        reader,
        out,
        ClipSettings(options.clips, sampling, options.seed, options.batch_size),
        i3d=i3d_of(options) if "fvd" in names else None,
        c3d=load_c3d(options.c3d_weights, device=options.device) if "inception" in names else None,
    )
    return measure_parts(
        options,
        {name: parts[name] for name in names},
        SECTIONS,
        settings=vars(options),
        checkpoint=folder,
        env_id=checkpoint.world.env_id,
        reader=reader,
        out=out,
        command=command,
    )


if __name__ == "__main__":
    main()
