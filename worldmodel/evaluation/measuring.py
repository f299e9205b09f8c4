"""How a report is measured part by part: what is kept, what is measured again, and from what."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldmodel.checkpoint import weights_digest
from worldmodel.checkpoint.device import usable_device
from worldmodel.command import console, say
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.report import Sections, is_kept, read_report, write_report
from worldmodel.metrics.features import FVD_PROTOCOLS, FeatureNetwork, load_i3d
from worldmodel.storage.files import locked
from worldmodel.storage.provenance import git_commit, machine
from worldmodel.training.schedule import duration


@dataclass(frozen=True)
class ReportOptions:
    """Options of the commands that write a report."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A shipped name, a folder, or a Hugging Face Hub id."""
    data: Path | None = None
    """Folder of episodes of the checkpoint's world."""
    out: Path | None = None
    """Folder of the report; by default CHECKPOINT/report, for a shipped name reports/NAME."""
    parts: str | None = None
    """What to measure, comma-separated; by default everything."""
    again: bool = False
    """Measure again what was measured before."""
    i3d_weights: Path | None = None
    """I3D of Kinetics-400 for FVD: StyleGAN-V's i3d_torchscript.pt, or safetensors."""
    fvd_protocol: Literal["videogpt", "stylegan-v"] = "videogpt"
    """Preprocessing of FVD; both report the number of clips, which is --clips."""
    trust_weights: bool = False
    """Run a TorchScript archive whose digest is not StyleGAN-V's: it is code."""
    clips: int = 128
    """Test clips; fewer where the data hold fewer windows."""
    seed: int = 0
    """Seed of clips, samples and intervals."""
    device: str = "cpu"
    """cpu or cuda."""
    batch_size: int = 32
    """Clips or dreams at a time."""


@dataclass(frozen=True)
class Part:
    """What can be measured.

    Attributes:
        measure: gives the numbers, and writes the pictures.
        options: names of the options that the numbers depend on, beside weights and data.
        network: whose features it takes, if any.
        lacking: why it can't be measured here; "": it can.
    """

    measure: Callable[[], dict[str, Any]]
    options: tuple[str, ...]
    network: FeatureNetwork | None = None
    lacking: str = ""


def chosen_parts(
    options: ReportOptions, always: tuple[str, ...], with_weights: dict[str, Path | None]
) -> tuple[str, ...]:
    """The parts asked for, or all that can be measured with the weights given.

    Args:
        always: parts that need no weights but the checkpoint's.
        with_weights: the other parts, and the weights given for each.

    Raises:
        UserError: there is no such part, or no such device.
    """
    usable_device(options.device)
    if options.parts is None:
        return (*always, *(name for name, weights in with_weights.items() if weights is not None))
    names = tuple(name.strip() for name in options.parts.split(","))
    known = (*always, *with_weights)
    for name in names:
        if name not in known:
            raise UserError(f"unknown part {name!r}; the known ones are: {','.join(known)}")
    return names


def i3d_of(options: ReportOptions) -> FeatureNetwork:
    """Raises UserError where the weights are missing or damaged."""
    return load_i3d(
        options.i3d_weights,
        FVD_PROTOCOLS[options.fvd_protocol],
        device=options.device,
        trust_weights=options.trust_weights,
    )


def measure_parts(
    options: ReportOptions,
    parts: dict[str, Part],
    sections: Sections,
    *,
    settings: dict[str, Any],
    checkpoint: Path,
    env_id: str,
    reader: EpisodeReader,
    out: Path,
    command: str,
) -> dict[str, Any]:
    """Measure what isn't measured yet, and write the report after each part.

    Args:
        settings: values of the options that parts name.

    Returns:
        The report, as in report.json.

    Raises:
        UserError: a part that was asked for can't be measured; or something else than a report
            stands where it is to be written.
    """
    parts = _measurable(options, parts)
    with locked(out):
        report, why_new = read_report(out / "report.json", weights_digest(checkpoint), sections)
        if why_new:
            say(f"the report in {out} starts over: {why_new}")
        report |= {"checkpoint": options.checkpoint, "env_id": env_id}
        source = source_of(reader, options, command)
        chosen = {name: _settings(settings, part) for name, part in parts.items()}
        measured, data_sha256 = report["parts"], source["data"]["sha256"]
        kept = [
            name
            for name in parts
            if not options.again
            and is_kept(measured.get(name), sections[name], chosen[name], data_sha256, out)
        ]
        if kept:
            say(f"kept, as nothing they depend on has changed: {', '.join(kept)}")
        missing = [name for name in parts if name not in kept]
        if missing:
            say(_plan(missing, out, report))
        for name in missing:
            say(f"measuring: {name}")
            began = time.monotonic()
            report["parts"][name] = {
                "numbers": parts[name].measure(),
                "settings": chosen[name],
                **source,
                "seconds": time.monotonic() - began,
            }
            report = write_report(out, report, sections)
        report = write_report(out, report, sections)  # a kill may have left an older page behind
    say(f"the report is in {out}: open {out / 'report.html'}")
    return report


def _measurable(options: ReportOptions, parts: dict[str, Part]) -> dict[str, Part]:
    """The parts that can be measured; raises UserError for others that were asked for."""
    for name, part in parts.items():
        if part.lacking and options.parts is not None:
            raise UserError(f"{name} can't be measured: {part.lacking}")
        if part.lacking:
            say(f"{name} is left out: {part.lacking}")
    return {name: part for name, part in parts.items() if not part.lacking}


def source_of(reader: EpisodeReader, options: ReportOptions, command: str) -> dict[str, Any]:
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


def report_folder(folder: Path, name: str) -> Path:
    """Beside a checkpoint of one's own; never inside the package or the hub's cache."""
    return folder / "report" if folder == Path(name) else Path("reports") / Path(name).name


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


def _settings(settings: dict[str, Any], part: Part) -> dict[str, Any]:
    """What a part's numbers depend on, by the names of the options."""
    chosen = {name: settings[name] for name in part.options}
    if part.network is not None:
        chosen["protocol"] = part.network.protocol.name
        chosen["network_sha256"] = part.network.sha256
    return chosen
