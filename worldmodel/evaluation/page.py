"""The report as one HTML page that opens from disk, without a network and without scripts."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from worldmodel.evaluation.sections import headlines, sections
from worldmodel.evaluation.tables import Table

# Everything from checkpoints and data is escaped: they may come from strangers.
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.tests["table"] = lambda block: isinstance(block, Table)


def to_html(report: dict[str, Any]) -> str:
    """The page of a report that went through `to_json`; pictures lie beside it."""
    known = sections(report)
    measured = {name: known[name] for name in known if name in report["parts"]}
    return _templates.get_template("report.html.jinja").render(
        report=report, headlines=headlines(report), sections=measured
    )
