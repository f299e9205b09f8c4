"""Measure a world model: python -m worldmodel.evaluate runs/dream-doom --data data/doom-hgs

On the data's test split. Writes numbers (report.json), tables (report.md), curves and films;
each part is written when it is done, and parts measured before are kept.
"""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from worldmodel.checkpoint import CheckpointError, find_checkpoint, load_checkpoint
from worldmodel.data import DataError, EpisodeReader
from worldmodel.evaluation.following import measure_actions
from worldmodel.evaluation.held_out import HeldOut, Settings, console
from worldmodel.evaluation.horizon import measure_horizon
from worldmodel.evaluation.outcomes import measure_outcomes
from worldmodel.evaluation.report import (
    git_commit,
    machine,
    read_report,
    to_markdown,
    weights_digest,
    write_report,
)
from worldmodel.evaluation.stability import NUM_STEPS, measure_stability
from worldmodel.evaluation.tokens import measure_likelihood, measure_tokenizer
from worldmodel.model import WorldModel
from worldmodel.prior.sampling import Sampling

PARTS = ("tokenizer", "likelihood", "horizon", "actions", "stability", "outcomes")


class EvaluationError(ValueError):
    """An option is not usable, or doesn't fit the checkpoint; the message says what to do."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a world model on the test split of recorded episodes."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A shipped name, a folder, or a Hugging Face Hub id."""
    data: Path = Path("data/doom-hgs")
    """Folder of episodes of the checkpoint's world."""
    out: Path | None = None
    """Folder of the report; CHECKPOINT/report by default, for a shipped name reports/NAME."""
    parts: str = ",".join(PARTS)
    """What to measure, parted by commas."""
    clips: int = 128
    """Test clips; fewer where the data hold fewer windows."""
    samples: int = 10
    """Dreams of each clip."""
    horizon: int = 32
    """Frames dreamed on from each clip's given ones."""
    frames: int = 4096
    """Single frames that the tokenizer is measured on."""
    inverse_dynamics_steps: int = 2000
    """Training of the network that reads actions off frames: minutes of one core."""
    stability_steps: int = NUM_STEPS
    """Length of the long dreams."""
    temperature: float = 0.8
    """Of all dreams."""
    top_k: int | None = None
    """Sample each token among its k likeliest."""
    top_p: float | None = None
    """Sample each token among the fewest that together have this probability."""
    seed: int = 0
    """Of clips, dreams and intervals."""
    device: str = "cpu"
    """cpu or cuda."""
    batch_size: int = 32
    """Dreams at a time."""


def main() -> None:
    options = tyro.cli(Evaluate, prog="python -m worldmodel.evaluate", description=__doc__)
    try:
        command = f"python -m worldmodel.evaluate {shlex.join(sys.argv[1:])}"
        report = evaluate(options, command=command)
    except (CheckpointError, DataError, EvaluationError) as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        raise SystemExit(f"error: the report can't be written: {error}") from None
    except KeyboardInterrupt:
        console.print("stopped; the parts measured so far are in the report")
        raise SystemExit(130) from None
    print(to_markdown(report))


def evaluate(options: Evaluate, *, command: str = "worldmodel.evaluate") -> dict[str, Any]:
    """Do what `Evaluate` says.

    Args:
        command: kept in the report beside the numbers.

    Returns:
        The report, as in report.json.

    Raises:
        CheckpointError, DataError: the checkpoint or the data are missing or damaged.
        EvaluationError: an option is not usable, or the two don't fit.
    """
    parts = _check(options)
    folder = find_checkpoint(options.checkpoint)
    checkpoint = load_checkpoint(options.checkpoint, device=options.device)
    reader = EpisodeReader(options.data)
    _check_fit(checkpoint.model, reader, options)
    out = options.out or _report_folder(folder, options.checkpoint)
    report = read_report(out / "report.json", weights_digest(folder))
    report |= {"checkpoint": options.checkpoint, "env_id": checkpoint.world.env_id}
    source = {
        "command": command,
        "data": {"folder": str(options.data), "num_episodes": len(reader)},
        "device": options.device,
        "commit": git_commit(),
        "machine": machine(),
    }
    measures = _Measures(checkpoint.model, reader, out, options)
    for name in parts:
        console.print(f"measuring: {name}")
        began = time.monotonic()
        numbers = measures.of(name)
        report["parts"][name] = {
            "numbers": numbers,
            "settings": _settings(options),
            **source,
            "seconds": time.monotonic() - began,
        }
        report = write_report(out, report)
    console.print(f"the report is in {out}")
    return report


class _Measures:
    """The parts by name; the test clips are read, and dreamed, once for all that want them."""

    def __init__(
        self, model: WorldModel, reader: EpisodeReader, out: Path, options: Evaluate
    ) -> None:
        self.model, self.reader, self.out, self.options = model, reader, out, options

    @cached_property
    def held_out(self) -> HeldOut:
        settings = Settings(
            num_clips=self.options.clips,
            num_samples=self.options.samples,
            horizon=self.options.horizon,
            num_frames=self.options.frames,
            sampling=_sampling(self.options),
            seed=self.options.seed,
            batch_size=self.options.batch_size,
        )
        try:
            return HeldOut(self.model, self.reader, settings)
        except DataError as error:
            raise DataError(f"{error} (--horizon {settings.horizon} asks for that many)") from None

    def of(self, name: str) -> dict[str, Any]:
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "tokenizer": lambda: measure_tokenizer(self.held_out),
            "likelihood": lambda: measure_likelihood(self.held_out),
            "horizon": lambda: measure_horizon(self.held_out, self.out),
            "actions": lambda: measure_actions(
                self.held_out, self.out, training_steps=self.options.inverse_dynamics_steps
            ),
            "stability": lambda: measure_stability(
                self.model,
                self.reader,
                self.out,
                sampling=_sampling(self.options),
                seed=self.options.seed,
                num_steps=self.options.stability_steps,
            ),
            "outcomes": lambda: measure_outcomes(self.held_out, self.out),
        }
        return measures[name]()


def _sampling(options: Evaluate) -> Sampling:
    return Sampling(options.temperature, options.top_k, options.top_p)


def _settings(options: Evaluate) -> dict[str, Any]:
    left_out = ("checkpoint", "data", "out", "parts", "device")
    return {name: value for name, value in asdict(options).items() if name not in left_out}


def _check(options: Evaluate) -> tuple[str, ...]:
    """The parts asked for; raises EvaluationError for options out of range."""
    parts = tuple(part.strip() for part in options.parts.split(","))
    for part in parts:
        if part not in PARTS:
            raise EvaluationError(f"unknown part {part!r}; the known ones are: {','.join(PARTS)}")
    lowest = {
        "clips": 2,
        "samples": 1,
        "horizon": 1,
        "frames": 1,
        "inverse_dynamics_steps": 1,
        "stability_steps": 2,
        "batch_size": 1,
        "seed": 0,
    }
    for name, least in lowest.items():
        value = getattr(options, name)
        if value < least:
            option = name.replace("_", "-")
            raise EvaluationError(f"--{option} must be at least {least}, not {value}")
    try:
        _sampling(options)
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    if options.device not in ("cpu", "cuda"):
        raise EvaluationError(f"unknown device {options.device!r}: cpu or cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise EvaluationError("no CUDA device is at hand: leave --device out")
    return parts


def _check_fit(model: WorldModel, reader: EpisodeReader, options: Evaluate) -> None:
    config, info = model.config, reader.info
    for what, learned, recorded in (
        ("frames", config.tokenizer.frame_shape, info.frame_shape),
        ("actions", config.actions, info.actions),
        ("variables", config.variable_names, info.variable_names),
    ):
        if learned != recorded:
            raise EvaluationError(
                f"{options.checkpoint} has learned other {what} than {options.data} holds: "
                f"{learned} against {recorded}"
            )


def _report_folder(folder: Path, name: str) -> Path:
    """Beside a checkpoint of one's own; never inside the package or the hub's cache."""
    return folder / "report" if folder == Path(name) else Path("reports") / Path(name).name


if __name__ == "__main__":
    main()
