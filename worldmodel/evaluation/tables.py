"""Tables and paragraphs of a report, as Markdown and for a terminal."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from worldmodel.errors import printable
from worldmodel.metrics.statistics import Interval

FEWEST = 10  # episodes: an interval over fewer says little


class Table(NamedTuple):
    """A table of text; every row is as long as the header."""

    header: list[str]
    rows: list[list[str]]


Blocks = list[Table | str]  # from top to bottom; text is a paragraph


def to_lines(blocks: Blocks) -> list[str]:
    """Lines of Markdown, with empty ones between the blocks."""
    lines: list[str] = []
    for block in blocks:
        lines += table(*block) if isinstance(block, Table) else [_plain(block)]
        lines.append("")
    return lines[:-1]


def to_text(blocks: Blocks) -> str:
    """The same for a terminal: aligned columns, and no control characters."""
    lines: list[str] = []
    for block in blocks:
        lines += _columns(block) if isinstance(block, Table) else [_bare(block)]
        lines.append("")
    return "\n".join(lines[:-1])


def _columns(block: Table) -> list[str]:
    rows = [[_bare(cell) for cell in row] for row in (block.header, *block.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _bare(text: str) -> str:
    """One line without Markdown's signs for headings and code."""
    return printable(" ".join(text.lstrip("#").replace("`", "").split()))


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, a line a row."""
    return [
        "| " + " | ".join(_plain(cell).replace("|", r"\|") for cell in row) + " |"
        for row in [header, ["---"] * len(header), *rows]
    ]


def _plain(text: str) -> str:
    """One line without HTML: names come from checkpoints and data of strangers."""
    return " ".join(text.split()).replace("<", "&lt;")


def number(value: float | None, digits: int = 2) -> str:
    """A number, "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(value: Interval | dict[str, Any], digits: int = 2) -> str:
    """A number with its 95 % interval in brackets, or with the number of episodes if they are
    few; "-" where there is none.

    Args:
        value: an interval, also as JSON holds it.
    """
    of = Interval(**value) if isinstance(value, dict) else value
    text = number(of.value, digits)
    if text == "-":
        return text
    if of.num_groups is not None and of.num_groups < FEWEST:
        return f"{text} (n={of.num_groups}, too few for an interval)"
    return f"{text} [{number(of.low, digits)}, {number(of.high, digits)}]"


def row(name: str, values: Mapping[Any, Interval], digits: int = 2) -> list[str]:
    """A name and its intervals."""
    return [name, *[interval(of, digits) for of in values.values()]]


def steps_table(what: str, curves: Mapping[str, Mapping[int, Interval]], digits: int = 2) -> Table:
    """A row for each curve, a column for each number of steps."""
    steps = next(iter(curves.values()))
    rows = [row(name, curve, digits) for name, curve in curves.items()]
    return Table([what, *map(str, steps)], rows)
