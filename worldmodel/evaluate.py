"""Measure a world model: python -m worldmodel.evaluate runs/dream-doom --data data/doom-hgs

On the data's test split. Writes a page (report.html), numbers (report.json), tables (report.md),
curves and films. Each part is written when it is done: after an interruption the same command
resumes, and parts measured before with the same settings, data and weights are kept.

With --score DIR, instead: the exact log-likelihood of recorded episodes, into scores.json and
scores.csv.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldmodel.checkpoint import (
    Checkpoint,
    check_same_world,
    find_kind,
    load_checkpoint,
    weights_digest,
)
from worldmodel.command import check_numbers, parse_options, python_command, run_command, say
from worldmodel.configs.presets import PRESETS
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.held_out import HeldOut, Settings
from worldmodel.evaluation.parts import DREAM_PARTS, DREAM_SECTIONS, dream_parts
from worldmodel.evaluation.report import (
    ReportOptions,
    chosen_parts,
    i3d_of,
    measure_parts,
    report_blocks,
    report_folder,
    source_of,
)
from worldmodel.evaluation.score import score_blocks, score_episodes
from worldmodel.evaluation.tables import to_text
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.pretrained import shipped_names
from worldmodel.storage.files import locked


@dataclass(frozen=True)
class Evaluate(ReportOptions):
    """Measure a world model on the test split of recorded episodes."""

    data: Path | None = None
    """Folder of episodes of the checkpoint's world; for a shipped one by default its preset's."""
    parts: str | None = None
    """What to measure, comma-separated; by default all that the checkpoint and the given weights
    allow: tokenizer, likelihood, horizon, actions, place, returns, look, policies, stability,
    outcomes, surprise, fvd."""
    score: Path | None = None
    """Instead of a report: the exact log-likelihood of the codes of the episodes in this folder."""
    episodes: str = "all"
    """Episodes to score: all, train, validation, test, or ids as in 0,5-9."""
    samples: int = 10
    """Dreams of each clip."""
    horizon: int = 32
    """Frames that dreams continue each clip's given frames by."""
    frames: int = 4096
    """Single frames for measuring the tokenizer."""
    inverse_dynamics_steps: int = 2000
    """Training steps of the network that reads actions off frames: minutes on one core."""
    stability_steps: int = 1000
    """Length of the long dreams."""
    driver: str | None = None
    """Who acts in the long dreams: module:name, a function of yours from a frame to an action, both
    as they are in the dream. By default actions are random."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How all dreams are sampled."""


def main() -> None:
    options = parse_options(Evaluate, "worldmodel.evaluate", __doc__)
    command = python_command("worldmodel.evaluate", *sys.argv[1:])

    def work() -> None:
        if options.score is None:
            blocks = report_blocks(evaluate(options, command=command), DREAM_SECTIONS)
        else:
            blocks = score_blocks(score(options, command=command))
        print(to_text(blocks))

    run_command(
        work, stopped="stopped; what was measured is kept, and the same command resumes here"
    )


def evaluate(options: Evaluate, *, command: str = "worldmodel.evaluate") -> dict[str, Any]:
    """Measure a world model as the options say.

    Args:
        command: recorded in the report.

    Returns:
        The content of report.json.

    Raises:
        UserError: the checkpoint or the data are missing or damaged; an option is not usable;
            the two don't fit; or the report's folder holds another program's files.
    """
    data = options.data
    if data is None and options.checkpoint in shipped_names():
        data = Path(PRESETS[options.checkpoint].data)
    folder, checkpoint, reader, out = _opened(options, data)
    settings = Settings(
        num_clips=options.clips,
        num_samples=options.samples,
        horizon=options.horizon,
        num_frames=options.frames,
        sampling=options.sampling.applied_to(checkpoint.world.sampling),
        seed=options.seed,
        batch_size=options.batch_size,
        inverse_dynamics_steps=options.inverse_dynamics_steps,
        stability_steps=options.stability_steps,
        driver=options.driver,
    )
    names = chosen_parts(options, DREAM_PARTS, {"fvd": options.i3d_weights})
    i3d = i3d_of(options) if "fvd" in names else None
    parts = dream_parts(HeldOut(checkpoint.model, reader, settings), out, i3d)
    return measure_parts(
        options,
        {name: parts[name] for name in names},
        DREAM_SECTIONS,
        settings={**vars(options), **vars(settings.sampling)},
        checkpoint=folder,
        env_id=checkpoint.world.env_id,
        reader=reader,
        out=out,
        command=command,
    )


def score(options: Evaluate, *, command: str = "worldmodel.evaluate") -> dict[str, Any]:
    """Score episodes, see `Evaluate.score`; returns the content of scores.json.

    Raises:
        UserError: the checkpoint or the data are missing or damaged; an option is not usable; or
            the two don't fit.
    """
    if options.parts is not None:
        raise UserError("--score writes no report: leave --parts out")
    folder, checkpoint, reader, out = _opened(options, options.score)
    source = {
        "checkpoint": options.checkpoint,
        "weights_sha256": weights_digest(folder),
        **source_of(reader, options, command),
    }
    with locked(out):
        scores = score_episodes(
            checkpoint.model,
            reader,
            out,
            episodes=options.episodes,
            source=source,
            again=options.again,
        )
    say(f"the scores are in {out}: scores.json, scores.csv")
    return scores


def _opened(options: Evaluate, data: Path | None) -> tuple[Path, Checkpoint, EpisodeReader, Path]:
    """The checkpoint's folder, the checkpoint, the episodes, and the folder to write to.

    Raises:
        UserError: one of them can't be used, the two don't fit, or an option is out of range.
    """
    clips = ("worldmodel.videogpt.evaluate", options.checkpoint, "--data", str(data or "DIR"))
    folder = find_kind(options.checkpoint, Checkpoint.kind, *clips)
    chosen_parts(options, DREAM_PARTS, {"fvd": options.i3d_weights})  # before anything is read
    check_numbers(
        options,
        clips=2,
        samples=1,
        horizon=1,
        frames=1,
        inverse_dynamics_steps=1,
        stability_steps=2,
        batch_size=1,
        seed=0,
    )
    if data is None:
        raise UserError(
            "--data is needed: the folder of episodes on whose test split "
            f"{options.checkpoint} is measured"
        )
    checkpoint, reader = load_checkpoint(str(folder), device=options.device), EpisodeReader(data)
    check_same_world(checkpoint, reader, options.checkpoint, same_environment=False)
    return folder, checkpoint, reader, options.out or report_folder(folder, options.checkpoint)


if __name__ == "__main__":
    main()
