"""What a report shows of numbers that went through `to_json`: tables and paragraphs."""

from typing import Any, NamedTuple

from worldmodel.errors import printable

FEWEST = 10  # episodes of an interval: of fewer, drawing them again says little


class Table(NamedTuple):
    """A table of text; every row is as long as the header."""

    header: list[str]
    rows: list[list[str]]


Blocks = list[Table | str]  # of a part of a report, from top to bottom; text is a paragraph


def to_lines(blocks: Blocks) -> list[str]:
    """Lines of Markdown, with empty ones between the blocks."""
    lines: list[str] = []
    for block in blocks:
        lines += table(*block) if isinstance(block, Table) else [_plain(block)]
        lines.append("")
    return lines[:-1]


def to_text(blocks: Blocks) -> str:
    """The same for a terminal: columns under each other, and nothing that it would obey."""
    lines: list[str] = []
    for block in blocks:
        lines += _columns(block) if isinstance(block, Table) else [_bare(block)]
        lines.append("")
    return "\n".join(lines[:-1])


def _columns(block: Table) -> list[str]:
    rows = [[_bare(cell) for cell in row] for row in (block.header, *block.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [
        [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for row in (rows[0], ["-" * width for width in widths], *rows[1:])
    ]
    return ["  ".join(row).rstrip() for row in padded]


def _bare(text: str) -> str:
    """One line without Markdown's signs for headings and code."""
    return printable(" ".join(text.lstrip("#").replace("`", "").split()))


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, a line a row."""
    return [
        "| " + " | ".join(_plain(cell).replace("|", r"\|") for cell in row) + " |"
        for row in [header, ["---"] * len(header), *rows]
    ]


def number(value: float | None, digits: int = 2) -> str:
    """A number, "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(value: dict[str, Any], digits: int = 2) -> str:
    """A number with its 95 % interval in brackets, or with how few episodes it is of; "-" where
    there is none."""
    if value["value"] is None:
        return number(None)
    num_groups = value.get("num_groups")  # older reports don't say
    if num_groups is not None and num_groups < FEWEST:
        return f"{number(value['value'], digits)} (n={num_groups}, too few for an interval)"
    low, high = number(value["low"], digits), number(value["high"], digits)
    return f"{number(value['value'], digits)} [{low}, {high}]"


def _plain(text: str) -> str:
    """One line without HTML: names come from checkpoints and data of strangers."""
    return " ".join(text.split()).replace("<", "&lt;")
