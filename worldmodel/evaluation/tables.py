"""What a report shows of numbers that went through `to_json`: tables and paragraphs."""

from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table of text; every row is as long as the header."""

    header: list[str]
    rows: list[list[str]]


Blocks = list[Table | str]  # of a part of a report, from top to bottom; text is a paragraph


def to_lines(blocks: Blocks) -> list[str]:
    """Lines of Markdown, blocks parted by empty ones."""
    lines: list[str] = []
    for block in blocks:
        lines += table(*block) if isinstance(block, Table) else [_plain(block)]
        lines.append("")
    return lines[:-1]


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
    """A number with its 95 % interval in brackets."""
    low, high = number(value["low"], digits), number(value["high"], digits)
    return f"{number(value['value'], digits)} [{low}, {high}]"


def _plain(text: str) -> str:
    """One line without HTML: names come from checkpoints and data of strangers."""
    return " ".join(text.split()).replace("<", "&lt;")
