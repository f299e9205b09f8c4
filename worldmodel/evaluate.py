"""Measure a world model: python -m worldmodel.evaluate runs/dream-doom --data data/doom-hgs

On the data's test split. Writes a page (report.html), numbers (report.json), tables (report.md),
curves and films. Each part is written when it is done: after an interruption the same command
resumes, and parts measured before with the same settings, data and weights are kept.

    --score DIR    the exact log-likelihood of recorded episodes, into scores.json and scores.csv
"""

import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldmodel.checkpoint import (
    VIDEOGPT,
    Checkpoint,
    VideoGPTCheckpoint,
    find_checkpoint,
    is_videogpt,
    load_checkpoint,
    load_videogpt,
    read_world,
    weights_digest,
)
from worldmodel.checkpoint.device import usable_device
from worldmodel.checkpoint.same_world import check_same_world
from worldmodel.command import check_numbers, console, run_command, say
from worldmodel.configs.presets import PRESETS
from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation.features import FVD_PROTOCOLS, load_c3d, load_i3d
from worldmodel.evaluation.held_out import Settings
from worldmodel.evaluation.parts import (
    C3D_PART,
    CLIP_PARTS,
    DREAM_PARTS,
    I3D_PART,
    Part,
    clip_parts,
    dream_parts,
)
from worldmodel.evaluation.report import (
    is_kept,
    read_report,
    report_blocks,
    write_report,
)
from worldmodel.evaluation.score import score_blocks, score_episodes
from worldmodel.evaluation.stability import NUM_STEPS
from worldmodel.evaluation.tables import to_text
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.pretrained import shipped_names
from worldmodel.storage.files import locked
from worldmodel.storage.provenance import git_commit, machine
from worldmodel.training.schedule import duration
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.whole_clips import ClipSettings


@dataclass(frozen=True)
class Evaluate:
    """Measure a world model, or VideoGPT as published, on the test split of recorded episodes."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A shipped name, a folder, or a Hugging Face Hub id."""
    data: Path | None = None
    """Folder of episodes of the checkpoint's world; for a shipped one by default its preset's."""
    out: Path | None = None
    """Folder of the report; by default CHECKPOINT/report, for a shipped name reports/NAME."""
    parts: str | None = None
    """What to measure, comma-separated; by default all that the checkpoint and the given weights
    allow. Dreams: tokenizer, likelihood, horizon, actions, place, returns, look, policies,
    stability, outcomes, surprise, fvd. VideoGPT as published: reconstruction, likelihood, samples,
    fvd, inception."""
    again: bool = False
    """Measure again what was measured before."""
    score: Path | None = None
    """Instead of a report: the exact log-likelihood of the codes of the episodes in this folder."""
    episodes: str = "all"
    """Which of them to score: all, train, validation, test, or ids as in 0,5-9."""
    i3d_weights: Path | None = None
    """I3D of Kinetics-400 for FVD: StyleGAN-V's i3d_torchscript.pt, or safetensors."""
    c3d_weights: Path | None = None
    """C3D of UCF-101 for the inception score: TGANv2's conv3d_deepnetA_ucf.npz."""
    fvd_protocol: Literal["videogpt", "stylegan-v"] = "videogpt"
    """Preprocessing of FVD; both report the number of clips, which is --clips."""
    trust_weights: bool = False
    """Run a TorchScript archive whose digest is not StyleGAN-V's: it is code."""
    clips: int = 128
    """Test clips; fewer where the data hold fewer windows."""
    samples: int = 10
    """Dreams of each clip."""
    horizon: int = 32
    """Frames that a dream goes beyond each clip's given ones."""
    frames: int = 4096
    """Single frames that the tokenizer is measured on."""
    inverse_dynamics_steps: int = 2000
    """Training steps of the network that reads actions off frames: minutes on one core."""
    stability_steps: int = NUM_STEPS
    """Length of the long dreams."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How all dreams and clips are sampled."""
    seed: int = 0
    """Seed of clips, dreams and intervals."""
    device: str = "cpu"
    """cpu or cuda."""
    batch_size: int = 32
    """Dreams at a time."""


def main() -> None:
    options = tyro.cli(Evaluate, prog="python -m worldmodel.evaluate", description=__doc__)
    command = f"python -m worldmodel.evaluate {shlex.join(sys.argv[1:])}"

    def work() -> None:
        if options.score is None:
            print(to_text(report_blocks(evaluate(options, command=command))))
        else:
            print(to_text(score_blocks(score(options, command=command))))

    run_command(
        work, stopped="stopped; what was measured is kept, and the same command resumes here"
    )


def evaluate(options: Evaluate, *, command: str = "worldmodel.evaluate") -> dict[str, Any]:
    """Do what `Evaluate` says.

    Args:
        command: kept in the report beside the numbers.

    Returns:
        The report, as in report.json.

    Raises:
        UserError: the checkpoint or the data are missing or damaged; an option is not usable;
            the two don't fit; or something else than a report stands where it is to be written.
    """
    folder = find_checkpoint(options.checkpoint)  # once: a hub's may change meanwhile
    published = is_videogpt(str(folder))
    if published and options.sampling.guidance:
        raise UserError("--guidance is for dreams, which are stepped; these are whole clips")
    own = Sampling() if published else read_world(str(folder)).sampling
    sampling = options.sampling.applied_to(own)
    options = replace(options, sampling=SamplingOptions(**vars(sampling)))
    names = _check(options, published=published)
    data = _data(options)
    load = load_videogpt if published else load_checkpoint
    checkpoint = load(str(folder), device=options.device)
    reader = EpisodeReader(data)
    check_same_world(checkpoint, reader, options.checkpoint, same_environment=False)
    out = options.out or _report_folder(folder, options.checkpoint)
    with locked(out):
        return _evaluate(options, checkpoint, folder, reader, out, names, command)


def _evaluate(
    options: Evaluate,
    checkpoint: Checkpoint | VideoGPTCheckpoint,
    folder: Path,
    reader: EpisodeReader,
    out: Path,
    names: tuple[str, ...],
    command: str,
) -> dict[str, Any]:
    """Measure what isn't measured yet, under the lock of the report's folder."""
    published = isinstance(checkpoint, VideoGPTCheckpoint)
    parts = _parts(checkpoint.model, reader, out, options, names)
    for name in names:
        if parts[name].lacking and options.parts is not None:
            raise UserError(f"{name} can't be measured: {parts[name].lacking}")
        if parts[name].lacking:
            say(f"{name} is left out: {parts[name].lacking}")
    names = tuple(name for name in names if not parts[name].lacking)
    report, why_new = read_report(out / "report.json", weights_digest(folder))
    if why_new:
        say(f"the report in {out} starts over: {why_new}")
    report |= {"checkpoint": options.checkpoint, "env_id": checkpoint.world.env_id}
    if published:
        report["model"] = VIDEOGPT
    source = _source(reader, options, command)
    settings = {name: _settings(options, parts[name]) for name in names}
    data_sha256 = source["data"]["sha256"]
    kept = [
        name
        for name in names
        if not options.again and is_kept(report, name, settings[name], data_sha256, out)
    ]
    if kept:
        say(f"kept, as nothing they depend on has changed: {', '.join(kept)}")
    missing = [name for name in names if name not in kept]
    if missing:
        say(_plan(missing, out, report))
    for name in missing:
        say(f"measuring: {name}")
        began = time.monotonic()
        numbers = parts[name].measure()
        report["parts"][name] = {
            "numbers": numbers,
            "settings": settings[name],
            **source,
            "seconds": time.monotonic() - began,
        }
        report = write_report(out, report)
    report = write_report(out, report)  # a kill may have left an older page behind
    say(f"the report is in {out}: open {out / 'report.html'}")
    return report


def _plan(missing: list[str], out: Path, report: dict[str, Any]) -> str:
    """What will be measured and written where, in a line; how long it took before, where known."""
    before = [report["parts"].get(name, {}).get("seconds") for name in missing]
    lengths = [seconds for seconds in before if isinstance(seconds, int | float)]
    took = (
        f"{len(lengths)} of them took {duration(sum(lengths))} before"
        if lengths
        else "with the default settings that takes from half an hour to hours of one CPU core"
    )
    return f"measuring {len(missing)} parts ({', '.join(missing)}) into {out}; {took}"


def score(options: Evaluate, *, command: str = "worldmodel.evaluate") -> dict[str, Any]:
    """Score episodes, as `Evaluate.score` says; returns what scores.json holds.

    Raises:
        UserError: the checkpoint or the data are missing or damaged; an option is not usable; or
            the two don't fit.
    """
    folder = find_checkpoint(options.checkpoint)
    if is_videogpt(str(folder)):
        raise UserError(
            f"{options.checkpoint} models clips of one length, not episodes: --score is for dreams"
        )
    if options.parts is not None:
        raise UserError("--score writes no report: leave --parts out")
    _check(options, published=False)
    assert options.score is not None
    reader = EpisodeReader(options.score)
    checkpoint = load_checkpoint(str(folder), device=options.device)
    check_same_world(checkpoint, reader, options.checkpoint, same_environment=False)
    out = options.out or _report_folder(folder, options.checkpoint)
    source = {
        "checkpoint": options.checkpoint,
        "weights_sha256": weights_digest(folder),
        **_source(reader, options, command),
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


def _parts(
    model: WorldModel | VideoGPT,
    reader: EpisodeReader,
    out: Path,
    options: Evaluate,
    names: tuple[str, ...],
) -> dict[str, Part]:
    """What can be measured; networks are loaded before anything is.

    Raises:
        UserError: the weights of a network are missing or damaged.
    """
    sampling = options.sampling.applied_to(Sampling())
    i3d = c3d = None
    if I3D_PART in names:
        i3d = load_i3d(
            options.i3d_weights,
            FVD_PROTOCOLS[options.fvd_protocol],
            device=options.device,
            trust_weights=options.trust_weights,
        )
    if C3D_PART in names:
        c3d = load_c3d(options.c3d_weights, device=options.device)
    if isinstance(model, VideoGPT):
        settings = ClipSettings(
            options.clips, options.sampling.applied_to(Sampling()), options.seed, options.batch_size
        )
        return clip_parts(model, reader, out, settings, i3d=i3d, c3d=c3d)
    settings = Settings(
        num_clips=options.clips,
        num_samples=options.samples,
        horizon=options.horizon,
        num_frames=options.frames,
        sampling=sampling,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    return dream_parts(
        model,
        reader,
        out,
        settings,
        inverse_dynamics_steps=options.inverse_dynamics_steps,
        stability_steps=options.stability_steps,
        i3d=i3d,
    )


def _source(reader: EpisodeReader, options: Evaluate, command: str) -> dict[str, Any]:
    """Where numbers come from, besides their settings and the weights."""
    with console.status("reading the data's digest"):
        digest = reader.digest()
    return {
        "command": command,
        "data": {"folder": str(reader.folder), "num_episodes": len(reader), "sha256": digest},
        "device": options.device,
        "commit": git_commit(),
        "machine": machine(),
    }


def _settings(options: Evaluate, part: Part) -> dict[str, Any]:
    """What a part's numbers depend on, by the names of the options."""
    chosen = {**vars(options), **vars(options.sampling)}
    settings = {name: chosen[name] for name in part.options}
    if part.network is not None:
        settings["protocol"] = part.network.protocol.name
        settings["network_sha256"] = part.network.sha256
    return settings


def _names(options: Evaluate, *, published: bool) -> tuple[str, ...]:
    """The parts asked for, or all that go with the checkpoint and the weights given."""
    always = CLIP_PARTS if published else DREAM_PARTS
    weights = {I3D_PART: options.i3d_weights, C3D_PART: options.c3d_weights}
    with_weights = (I3D_PART, C3D_PART) if published else (I3D_PART,)
    if options.parts is None:
        return (*always, *(part for part in with_weights if weights[part] is not None))
    parts = tuple(part.strip() for part in options.parts.split(","))
    known = (*always, *with_weights)
    for part in parts:
        if part not in known:
            raise UserError(f"unknown part {part!r}; the known ones are: {','.join(known)}")
    return parts


def _check(options: Evaluate, *, published: bool) -> tuple[str, ...]:
    """The parts to measure; raises UserError for options out of range."""
    parts = _names(options, published=published)
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
    try:
        usable_device(options.device)
    except ValueError as error:
        raise UserError(str(error)) from None
    return parts


def _data(options: Evaluate) -> Path:
    """The folder of episodes. Raises UserError where nothing says which."""
    if options.data is not None:
        return options.data
    if options.checkpoint in shipped_names():
        return Path(PRESETS[options.checkpoint].data)
    raise UserError(
        f"--data is needed: the folder of episodes on whose test split {options.checkpoint} is "
        "measured"
    )


def _report_folder(folder: Path, name: str) -> Path:
    """Beside a checkpoint of one's own; never inside the package or the hub's cache."""
    return folder / "report" if folder == Path(name) else Path("reports") / Path(name).name


if __name__ == "__main__":
    main()
