"""How many frames and minutes are enough: python -m benchmarks.learning_curve DATA

Trains dreams of one world on more and more of its recorded frames for the longest time, and on all
of them for less time, and measures each on the same test episodes. One core, one thread. Stopped,
the same command resumes. With --publish, `worldmodel.train --describe` names the result, and
docs/learning-curve.png shows it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from benchmarks.measuring import Output, Results, about, measured_on, run_benchmark
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.evaluate import Evaluate, evaluate
from worldmodel.evaluation import plots
from worldmodel.evaluation.tables import Blocks, Table, number
from worldmodel.storage.files import write_json
from worldmodel.train import Train, train
from worldmodel.training.costs import LEARNING_CURVE

STEPS_AHEAD = (1, 8, 16)
TOKENIZER_SHARE = 0.3  # of the minutes
PICTURE = Path(__file__).parents[1] / "docs/learning-curve.png"


@dataclass(frozen=True)
class Options(Output):
    """Train and measure dreams on parts of a data set."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder of episodes."""
    frames: str = "2000,6000,18000"
    """Frames of the training split to learn from, comma-separated; the last is the largest."""
    minutes: str = "3,9,27"
    """Minutes of training, tokenizer and prior together, comma-separated."""
    preset: str = "auto-small"
    """Sizes and recipe."""
    clips: int = 64
    """Test clips that each dream is measured on."""
    work: Path = Path("runs/learning-curve")
    """Folder for the parts of the data and for the dreams."""
    publish: bool = False
    """Write the result where --describe finds it, and draw it for the documentation."""


def measure(options: Options) -> Results:
    frames = [round(number) for number in _numbers(options.frames, "frames")]
    minutes = _numbers(options.minutes, "minutes")
    torch.set_num_threads(1)
    reader = EpisodeReader(options.data)
    reader.check_splits()
    work = options.work / reader.digest()[:8]
    kinds = [(count, minutes[-1]) for count in frames] + [(frames[-1], m) for m in minutes[:-1]]
    rows = []
    for count, spent in kinds:
        part = _part(reader, count, work / f"{count}-frames")
        out = work / f"{options.preset}-{count}-frames-{spent:g}-minutes"
        tokenizer_minutes = TOKENIZER_SHARE * spent
        train(
            Train(
                preset=options.preset,
                data=part,
                out=out,
                tokenizer_minutes=tokenizer_minutes,
                prior_minutes=spent - tokenizer_minutes,
                validate_minutes=1000,
                device="cpu",
            )
        )
        report = evaluate(
            Evaluate(
                str(out),
                options.data,
                parts="horizon",
                clips=options.clips,
                samples=1,
                horizon=max(STEPS_AHEAD),
            )
        )
        rows.append({"frames": count, "minutes": spent, **_quality(report)})
    results = {"env_id": _world(reader), "preset": options.preset, "rows": rows}
    if options.publish:
        write_json(LEARNING_CURVE, {**results, **about()})
        _draw(results)
    return results


def _numbers(text: str, name: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [0.0]
    if not all(0 < n < math.inf for n in numbers) or numbers != sorted(set(numbers)):
        raise UserError(f"--{name} must be rising numbers above 0 as in 3,9, not {text}")
    return numbers


def _part(reader: EpisodeReader, num_frames: int, folder: Path) -> Path:
    """The test and validation episodes, and as many training episodes as hold so many frames."""
    lengths = reader.index["episode_length"] + 1
    learned = reader.split("train")
    total = np.cumsum(lengths[learned])
    if total[-1] < num_frames:
        raise UserError(f"{reader.folder} has {total[-1]} frames to learn from, not {num_frames}")
    chosen = learned[: int(np.searchsorted(total, num_frames)) + 1]
    held_out = [reader.split("validation"), reader.split("test")]
    with EpisodeWriter(folder, reader.info) as writer:
        for i in np.concatenate([chosen, *held_out]).tolist():
            if int(reader.index["episode_id"][i]) not in writer.done:
                writer.append(reader.episode(i))
    return folder


def _world(reader: EpisodeReader) -> str:
    info = reader.info
    return str(info.env_kwargs.get("env_id", info.env_id))


def _quality(report: dict[str, Any]) -> dict[str, Any]:
    """Decibels above copying the last frame, by steps ahead."""
    over = report["parts"]["horizon"]["numbers"]["one_over_copy"]
    return {"above_copying": {str(k): over[str(k)]["db"] for k in STEPS_AHEAD}}


def _draw(results: Results) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rows = results["rows"]
    most = {name: max(row[name] for row in rows) for name in ("frames", "minutes")}
    for axes, name, other in zip(
        figure.subplots(1, 2, sharey=True), most, reversed(most), strict=True
    ):
        shown = sorted((r for r in rows if r[other] == most[other]), key=lambda r: r[name])
        measured = [row[name] for row in shown]
        for steps in STEPS_AHEAD:
            over = [row["above_copying"][str(steps)]["value"] for row in shown]
            axes.plot(measured, over, "o-", label=f"{steps}")
        axes.set(xscale="log", xlabel=name, title=f"{most[other]:g} {other}")
        axes.set_xticks(measured, [f"{value:g}" for value in measured])
        axes.minorticks_off()
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="dB above copying")
    figure.axes[0].legend(title="steps ahead")
    plots.save(figure, PICTURE)


def tables(results: Results) -> Blocks:
    rows = [
        [f"{row['frames']:g}", f"{row['minutes']:g}"]
        + [number(row["above_copying"][str(k)]["value"], 1) for k in STEPS_AHEAD]
        for row in results["rows"]
    ]
    header = ["frames", "minutes", *(f"{k} steps ahead" for k in STEPS_AHEAD)]
    caption = f"{results['env_id']}, {results['preset']}; dB above copying the last frame"
    return [f"{caption}; {measured_on(results)}", Table(header, rows)]


if __name__ == "__main__":
    run_benchmark("learning_curve", Options, measure, tables)
