"""A report: numbers with where they come from, as JSON, Markdown and an HTML page.

A product has its own sections (`Sections`); how they are kept, written and shown is the same.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, Table, to_lines
from worldmodel.metrics.statistics import Interval
from worldmodel.storage.files import parse_json, read_bytes, written_whole

FORMAT_VERSION = 7
MOST_BYTES = 2**27  # of report.json, which holds curves
# What reading a report may raise that another program wrote, or that was changed by hand.
_DAMAGE = (
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
class Picture:
    """A file beside the report, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Headline:
    """A number of the summary."""

    what: str
    value: str
    beside: str  # what to compare it with


def _none(numbers: dict[str, Any]) -> list[Headline]:
    return []


@dataclass(frozen=True)
class Section:
    """How a part of a report is shown.

    Attributes:
        blocks: makes its tables of the part's numbers.
        reading: how to read them.
        pictures: that measuring the part leaves in the report's folder.
        headlines: its numbers that come first.
    """

    blocks: Callable[[dict[str, Any]], Blocks]
    reading: str
    pictures: tuple[Picture, ...] = ()
    headlines: Callable[[dict[str, Any]], list[Headline]] = _none


Sections = dict[str, Section]  # by part, in the order of the report


def read_report(path: Path, digest: str, sections: Sections) -> tuple[dict[str, Any], str]:
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


def write_report(folder: Path, report: dict[str, Any], sections: Sections) -> dict[str, Any]:
    """Write report.json, report.md and report.html, each whole or not at all; returns what JSON
    holds."""
    plain = to_json(report)
    for name, text in (
        ("report.json", json.dumps(plain, indent=2, allow_nan=False) + "\n"),
        ("report.md", to_markdown(plain, sections)),
        ("report.html", to_html(plain, sections)),
    ):
        with written_whole(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return plain


def is_kept(
    part: dict[str, Any] | None,
    section: Section,
    settings: dict[str, Any],
    data_sha256: str,
    folder: Path,
) -> bool:
    """Whether a part of a report was measured with these settings and data, and its pictures are
    in the folder.

    The commit doesn't matter: code that changes numbers changes FORMAT_VERSION.
    """
    return (
        part is not None
        and part["settings"] == to_json(settings)
        and part["data"]["sha256"] == data_sha256
        and all((folder / picture.file).exists() for picture in section.pictures)
    )


def to_json(value: Any) -> Any:
    """The same in JSON's types: keys as text, intervals as objects, NaN and infinity as null."""
    if isinstance(value, Interval):
        return to_json(value._asdict())
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
    measured = {name: section for name, section in sections.items() if name in report["parts"]}
    headlines = [
        headline
        for name, section in measured.items()
        for headline in section.headlines(report["parts"][name]["numbers"])
    ]
    template = _templates.get_template("report.html.jinja")
    return template.render(report=report, headlines=headlines, sections=measured)


def report_blocks(report: dict[str, Any], sections: Sections) -> Blocks:
    """Everything in a report that went through `to_json`, headings as in Markdown."""
    blocks: Blocks = [f"# {report.get('checkpoint', '')}: {report.get('env_id', '')}"]
    for name, section in sections.items():
        if name in report["parts"]:
            part = report["parts"][name]
            blocks += [f"## {name.capitalize()}", *section.blocks(part["numbers"]), _source(part)]
    return blocks


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
