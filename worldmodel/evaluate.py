"""Measure a world model: python -m worldmodel.evaluate runs/dream-doom --data data/doom-hgs

On the data's test split. Writes numbers (report.json), tables (report.md), curves and films;
each part is written when it is done, and parts measured before are kept.
"""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldmodel.checkpoint import (
    VIDEOGPT,
    CheckpointError,
    find_checkpoint,
    is_videogpt,
    load_checkpoint,
    load_videogpt,
)
from worldmodel.data import DataError, EpisodeReader
from worldmodel.device import usable_device
from worldmodel.evaluation.features import FVD_PROTOCOLS, MetricError, load_c3d, load_i3d
from worldmodel.evaluation.following import measure_actions
from worldmodel.evaluation.held_out import HeldOut, Settings, console
from worldmodel.evaluation.horizon import measure_dreams_fvd, measure_horizon
from worldmodel.evaluation.outcomes import measure_outcomes
from worldmodel.evaluation.report import (
    read_report,
    to_markdown,
    weights_digest,
    write_report,
)
from worldmodel.evaluation.stability import NUM_STEPS, measure_stability
from worldmodel.evaluation.tokens import measure_likelihood, measure_tokenizer
from worldmodel.evaluation.whole_clips import ClipSettings, WholeClips
from worldmodel.model import WorldModel
from worldmodel.presets import PRESETS
from worldmodel.prior.sampling import Sampling
from worldmodel.provenance import git_commit, machine
from worldmodel.shipped import shipped_names
from worldmodel.videogpt import VideoGPT

PARTS = ("tokenizer", "likelihood", "horizon", "actions", "stability", "outcomes")
PUBLISHED_PARTS = ("reconstruction", "likelihood", "samples")  # of VideoGPT as published
# With weights of others only.
I3D_PART, C3D_PART = "fvd", "inception"


class EvaluationError(ValueError):
    """An option is not usable, or doesn't fit the checkpoint; the message says what to do."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a world model, or VideoGPT as published, on the test split of recorded episodes."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A shipped name, a folder, or a Hugging Face Hub id."""
    data: Path | None = None
    """Folder of episodes of the checkpoint's world; that of a shipped one's preset by default."""
    out: Path | None = None
    """Folder of the report; CHECKPOINT/report by default, for a shipped name reports/NAME."""
    parts: str | None = None
    """What to measure, parted by commas; by default all that the checkpoint and the weights given
    allow. Dreams: tokenizer, likelihood, horizon, actions, stability, outcomes, fvd. VideoGPT as
    published: reconstruction, likelihood, samples, fvd, inception."""
    i3d_weights: Path | None = None
    """I3D of Kinetics-400 for FVD: StyleGAN-V's i3d_torchscript.pt, or safetensors."""
    c3d_weights: Path | None = None
    """C3D of UCF-101 for the inception score: TGANv2's conv3d_deepnetA_ucf.npz."""
    fvd_protocol: Literal["videogpt", "stylegan-v"] = "videogpt"
    """Whose preprocessing FVD takes; both report the number of clips, which is --clips."""
    trust_weights: bool = False
    """Run a TorchScript archive of another digest than StyleGAN-V's: it is code."""
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
    temperature: float | None = None
    """Of all dreams and samples; by default 0.8, for VideoGPT as published 1."""
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
    except (CheckpointError, DataError, EvaluationError, MetricError) as error:
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
    folder = find_checkpoint(options.checkpoint)  # once: a hub's may change meanwhile
    published = is_videogpt(str(folder))
    if options.temperature is None:
        options = replace(options, temperature=1.0 if published else 0.8)
    parts = _check(options, published=published)
    data = _data(options)
    load = load_videogpt if published else load_checkpoint
    checkpoint = load(str(folder), device=options.device)
    reader = EpisodeReader(data)
    _check_fit(checkpoint.model, reader, options)
    networks = _Networks(options, parts)
    out = options.out or _report_folder(folder, options.checkpoint)
    report = read_report(out / "report.json", weights_digest(folder))
    report |= {"checkpoint": options.checkpoint, "env_id": checkpoint.world.env_id}
    if published:
        report["model"] = VIDEOGPT
    source = {
        "command": command,
        "data": {"folder": str(data), "num_episodes": len(reader)},
        "device": options.device,
        "commit": git_commit(),
        "machine": machine(),
    }
    if isinstance(checkpoint.model, VideoGPT):
        measures = _measures_of_clips(checkpoint.model, reader, out, options, networks)
    else:
        measures = _measures_of_dreams(checkpoint.model, reader, out, options, networks)
    for name in parts:
        console.print(f"measuring: {name}")
        began = time.monotonic()
        numbers = measures[name]()
        report["parts"][name] = {
            "numbers": numbers,
            "settings": _settings(options),
            **source,
            "seconds": time.monotonic() - began,
        }
        report = write_report(out, report)
    console.print(f"the report is in {out}")
    return report


class _Networks:
    """The networks that parts need, loaded before anything is measured.

    Raises:
        MetricError: their weights are missing or damaged.
    """

    def __init__(self, options: Evaluate, parts: tuple[str, ...]) -> None:
        if I3D_PART in parts:
            self.i3d = load_i3d(
                options.i3d_weights,
                FVD_PROTOCOLS[options.fvd_protocol],
                device=options.device,
                trust_weights=options.trust_weights,
            )
        if C3D_PART in parts:
            self.c3d = load_c3d(options.c3d_weights, device=options.device)


def _measures_of_dreams(
    model: WorldModel, reader: EpisodeReader, out: Path, options: Evaluate, networks: _Networks
) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts by name; the test clips are read, and dreamed, once for all that want them."""

    @cache
    def held_out() -> HeldOut:
        settings = Settings(
            num_clips=options.clips,
            num_samples=options.samples,
            horizon=options.horizon,
            num_frames=options.frames,
            sampling=_sampling(options),
            seed=options.seed,
            batch_size=options.batch_size,
        )
        try:
            return HeldOut(model, reader, settings)
        except DataError as error:
            raise DataError(f"{error} (--horizon {settings.horizon} asks for that many)") from None

    return {
        "tokenizer": lambda: measure_tokenizer(held_out()),
        "likelihood": lambda: measure_likelihood(held_out()),
        "horizon": lambda: measure_horizon(held_out(), out),
        "actions": lambda: measure_actions(
            held_out(), out, training_steps=options.inverse_dynamics_steps
        ),
        "stability": lambda: measure_stability(
            model,
            reader,
            out,
            sampling=_sampling(options),
            seed=options.seed,
            num_steps=options.stability_steps,
        ),
        "outcomes": lambda: measure_outcomes(held_out(), out),
        I3D_PART: lambda: measure_dreams_fvd(held_out(), networks.i3d),
    }


def _measures_of_clips(
    model: VideoGPT, reader: EpisodeReader, out: Path, options: Evaluate, networks: _Networks
) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts by name; the test clips are read, and sampled, once for all that want them."""
    settings = ClipSettings(options.clips, _sampling(options), options.seed, options.batch_size)
    whole = WholeClips(model, reader, settings)
    return {
        "reconstruction": whole.reconstruction,
        "likelihood": whole.likelihood,
        "samples": lambda: whole.samples(out),
        I3D_PART: lambda: whole.fvd(networks.i3d),
        C3D_PART: lambda: whole.inception_score(networks.c3d),
    }


def _sampling(options: Evaluate) -> Sampling:
    assert options.temperature is not None  # set by `evaluate`
    return Sampling(options.temperature, options.top_k, options.top_p)


def _settings(options: Evaluate) -> dict[str, Any]:
    left_out = ("checkpoint", "data", "out", "parts", "device", "i3d_weights", "c3d_weights")
    return {name: value for name, value in asdict(options).items() if name not in left_out}


def _parts(options: Evaluate, *, published: bool) -> tuple[str, ...]:
    """The parts asked for, or all that go with the checkpoint and the weights given."""
    always = PUBLISHED_PARTS if published else PARTS
    weights = {I3D_PART: options.i3d_weights, C3D_PART: options.c3d_weights}
    with_weights = (I3D_PART, C3D_PART) if published else (I3D_PART,)
    if options.parts is None:
        return (*always, *(part for part in with_weights if weights[part] is not None))
    parts = tuple(part.strip() for part in options.parts.split(","))
    known = (*always, *with_weights)
    for part in parts:
        if part not in known:
            raise EvaluationError(f"unknown part {part!r}; the known ones are: {','.join(known)}")
    return parts


def _check(options: Evaluate, *, published: bool) -> tuple[str, ...]:
    """The parts to measure; raises EvaluationError for options out of range."""
    parts = _parts(options, published=published)
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
        usable_device(options.device)
        _sampling(options)
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    return parts


def _data(options: Evaluate) -> Path:
    """The folder of episodes. Raises EvaluationError where nothing says which."""
    if options.data is not None:
        return options.data
    if options.checkpoint in shipped_names():
        return Path(PRESETS[options.checkpoint].data)
    raise EvaluationError(
        f"--data is needed: the folder of episodes whose test split {options.checkpoint} is to be "
        "measured on"
    )


def _check_fit(model: WorldModel | VideoGPT, reader: EpisodeReader, options: Evaluate) -> None:
    info = reader.info
    if isinstance(model, VideoGPT):
        shape = model.config.tokenizer.clip_shape[1:]
        others = ("classes", model.config.class_names, info.class_names)
    else:
        shape = model.config.tokenizer.frame_shape
        others = ("variables", model.config.variable_names, info.variable_names)
    for what, learned, recorded in (
        ("frames", shape, info.frame_shape),
        ("actions", model.config.actions, info.actions),
        others,
    ):
        if learned != recorded:
            raise EvaluationError(
                f"{options.checkpoint} has learned other {what} than {reader.folder} holds: "
                f"{learned} against {recorded}"
            )


def _report_folder(folder: Path, name: str) -> Path:
    """Beside a checkpoint of one's own; never inside the package or the hub's cache."""
    return folder / "report" if folder == Path(name) else Path("reports") / Path(name).name


if __name__ == "__main__":
    main()
