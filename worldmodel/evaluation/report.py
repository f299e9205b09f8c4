"""A report: parts measured one after the other, kept as JSON, shown as Markdown and an HTML page.

What is measured is up to the parts (`Part`), how it is shown up to their sections (`Section`).
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from worldmodel.checkpoint import weights_digest
from worldmodel.command import console, duration, say, usable_device
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, Table, to_lines
from worldmodel.metrics.features import FVD_PROTOCOLS, FeatureNetwork, load_i3d
from worldmodel.storage.files import locked, parse_json, read_bytes, written_whole
from worldmodel.storage.parsed import parsed
from worldmodel.storage.provenance import git_commit, machine

FORMAT_VERSION = 10
MOST_BYTES = 2**27  # of report.json, which holds curves
# What showing a report may raise that another program wrote, or that was changed by hand.
_DAMAGE = (
    UserError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    TemplateError,
)
# Everything from checkpoints and data is escaped: they may come from strangers.
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.tests["table"] = lambda block: isinstance(block, Table)


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
    """Run a TorchScript archive with another digest than StyleGAN-V's: it is code."""
    clips: int = 128
    """Test clips; fewer where the data hold fewer windows."""
    seed: int = 0
    """Seed of clips, samples and intervals."""
    device: str = "cpu"
    """cpu or cuda."""
    batch_size: int = 32
    """Clips or dreams at a time."""


class Picture(NamedTuple):
    """A file beside the report."""

    file: str
    caption: str


class Headline(NamedTuple):
    """A number of the summary."""

    what: str
    value: str
    beside: str  # what to compare it with


@dataclass(frozen=True)
class Part:
    """What can be measured.

    Attributes:
        measure: returns the numbers, and writes the pictures.
        options: names of the options that the numbers depend on, beside weights and data.
        network: whose features are used, if any.
        lacking: why it can't be measured here; "" if it can.
    """

    measure: Callable[[], Any]
    options: tuple[str, ...]
    network: FeatureNetwork | None = None
    lacking: str = ""


@dataclass(frozen=True)
class Section:
    """How a part is shown.

    Attributes:
        blocks: makes tables of the part's numbers.
        reading: how to read them.
        pictures: that measuring the part leaves in the report's folder.
        headlines: makes the numbers of the summary.
        numbers: the type of the numbers; JSON is parsed to it before it is shown.
    """

    blocks: Callable[[Any], Blocks]
    reading: str
    pictures: tuple[Picture, ...] = ()
    headlines: Callable[[Any], list[Headline]] = lambda _: []
    numbers: type = dict


Sections = dict[str, Section]  # by part, in the order of the report


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


def report_folder(folder: Path, name: str) -> Path:
    """Beside a checkpoint of one's own; never inside the package or the hub's cache."""
    return folder / "report" if folder == Path(name) else Path("reports") / Path(name).name


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
        UserError: a part that was asked for can't be measured; a split has no episode; or another
            program's file stands where the report is to be written.
    """
    parts = _measurable(options, parts)
    reader.check_splits()
    with locked(out):
        report, why_new = _read(out / "report.json", weights_digest(checkpoint), sections)
        if why_new:
            say(f"the report in {out} starts over: {why_new}")
        report |= {"checkpoint": options.checkpoint, "env_id": env_id}
        source = source_of(reader, options, command)
        chosen = {name: _settings(settings, part) for name, part in parts.items()}

        def is_kept(name: str) -> bool:
            """Code that changes numbers changes FORMAT_VERSION: the commit doesn't matter."""
            before = report["parts"].get(name)
            return (
                not options.again
                and before is not None
                and before["settings"] == to_json(chosen[name])
                and before["data"]["sha256"] == source["data"]["sha256"]
                and all((out / picture.file).exists() for picture in sections[name].pictures)
            )

        missing = [name for name in parts if not is_kept(name)]
        if kept := [name for name in parts if name not in missing]:
            say(f"kept, as nothing they depend on has changed: {', '.join(kept)}")
        if missing:
            say(_plan(missing, out, report))
        for name in missing:
            report["parts"][name] = _measured(name, parts[name], chosen[name]) | source
            report = _write(out, report, sections)
        report = _write(out, report, sections)  # a kill may have left an older page behind
    say(f"the report is in {out}: open {out / 'report.html'}")
    return report


def _measured(name: str, part: Part, settings: dict[str, Any]) -> dict[str, Any]:
    """A part's numbers, its settings, and how long it took."""
    say(f"measuring: {name}")
    began = time.monotonic()
    numbers = part.measure()
    return {"numbers": numbers, "settings": settings, "seconds": time.monotonic() - began}


def _measurable(options: ReportOptions, parts: dict[str, Part]) -> dict[str, Part]:
    """The parts that can be measured; raises UserError for others that were asked for."""
    for name, part in parts.items():
        if part.lacking and options.parts is not None:
            raise UserError(f"{name} can't be measured: {part.lacking}")
        if part.lacking:
            say(f"{name} is left out: {part.lacking}")
    return {name: part for name, part in parts.items() if not part.lacking}


def _settings(settings: dict[str, Any], part: Part) -> dict[str, Any]:
    """What a part's numbers depend on, by the names of the options."""
    chosen = {name: settings[name] for name in part.options}
    if part.network is not None:
        chosen["protocol"] = part.network.protocol.name
        chosen["network_sha256"] = part.network.sha256
    return chosen


def _plan(missing: list[str], out: Path, report: dict[str, Any]) -> str:
    """What will be measured and written where, in a line; how long it took before, where known."""
    before = [report["parts"].get(name, {}).get("seconds") for name in missing]
    lengths = [seconds for seconds in before if isinstance(seconds, int | float)]
    took = "with the default settings that takes from half an hour to hours of one CPU core"
    if lengths:
        took = f"{len(lengths)} of them took {duration(sum(lengths))} before"
    return f"measuring {', '.join(missing)} into {out}; {took}"


def _read(path: Path, digest: str, sections: Sections) -> tuple[dict[str, Any], str]:
    """The report at `path` if it is about the weights `digest`, else a new one without parts.

    Returns:
        The report, and why there is a new one where an old one stood; empty where none did.

    Raises:
        UserError: something else than a report lies there, or a damaged one.
    """
    new = {"format_version": FORMAT_VERSION, "weights_sha256": digest, "parts": {}}
    if not os.path.lexists(path):
        for name in ("report.md", "report.html"):
            if os.path.lexists(path.with_name(name)):
                raise UserError(
                    f"{path.with_name(name)} is there without a report.json, so another program "
                    "wrote it: choose another --out, or move it away"
                )
        return new, ""
    content = read_bytes(path, most_bytes=MOST_BYTES)
    try:
        report = parse_json(content)
        if report["format_version"] != FORMAT_VERSION:
            return new, "it was written by another version of this command"
        if report["weights_sha256"] != digest:
            return new, "it is about other weights"
        to_markdown(report, sections)
        to_html(report, sections)
    except _DAMAGE as error:
        raise UserError(
            f"{path} is damaged or no report of this command ({type(error).__name__}): remove it, "
            "or choose another --out"
        ) from None
    return report, ""


def _write(folder: Path, report: dict[str, Any], sections: Sections) -> dict[str, Any]:
    """Write report.json, report.md and report.html; returns what JSON holds."""
    plain = to_json(report)
    for name, text in (
        ("report.json", json.dumps(plain, indent=2, allow_nan=False) + "\n"),
        ("report.md", to_markdown(plain, sections)),
        ("report.html", to_html(plain, sections)),
    ):
        with written_whole(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return plain


def to_json(value: Any) -> Any:
    """The same in JSON's types: keys as text, dataclasses and named tuples as objects, NaN and
    infinity as null."""
    if hasattr(value, "_asdict"):
        return to_json(value._asdict())
    if is_dataclass(value):
        return to_json(vars(value))
    if isinstance(value, dict):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_json(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def to_markdown(report: dict[str, Any], sections: Sections) -> str:
    """Tables of a report that went through `to_json`."""
    return "\n".join([*to_lines(report_blocks(report, sections)), ""])


def to_html(report: dict[str, Any], sections: Sections) -> str:
    """A report that went through `to_json` as one page that opens from disk, without a network and
    without scripts; pictures lie beside it."""
    template = _templates.get_template("report.html.jinja")
    shown = list(_shown(report, sections))
    headlines = [line for _, section, numbers in shown for line in section.headlines(numbers)]
    return template.render(report=report, headlines=headlines, shown=shown)


def report_blocks(report: dict[str, Any], sections: Sections) -> Blocks:
    """Everything in a report that went through `to_json`, headings as in Markdown."""
    blocks: Blocks = [f"# {report.get('checkpoint', '')}: {report.get('env_id', '')}"]
    for name, section, numbers in _shown(report, sections):
        source = _source(report["parts"][name])
        blocks += [f"## {name.capitalize()}", *section.blocks(numbers), source]
    return blocks


def _shown(report: dict[str, Any], sections: Sections) -> Iterator[tuple[str, Section, Any]]:
    """The measured parts in the order of the report: names, sections and numbers."""
    for name, section in sections.items():
        if name in report["parts"]:
            yield name, section, parsed(section.numbers, report["parts"][name]["numbers"])


def _source(part: dict[str, Any]) -> str:
    on = part["machine"]
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in part["settings"].items()
        if value is not None
    )
    commit = part["commit"] or "unknown"
    commit = commit[:12] + "+" * commit.endswith("+")  # with changes
    return (
        f"{settings}; {on['gpu'] if part['device'] == 'cuda' else on['cpu']}, "
        f"torch {on['torch']}, commit {commit}; `{part['command']}`, {part['seconds']:.0f} s"
    )
