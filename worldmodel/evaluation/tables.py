"""Lines of Markdown from numbers that went through `to_json`."""

from typing import Any


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table, a line a row."""
    return ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]


def number(value: float | None, digits: int = 2) -> str:
    """A number, "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(value: dict[str, Any], digits: int = 2) -> str:
    """A number with its 95 % interval in brackets."""
    low, high = number(value["low"], digits), number(value["high"], digits)
    return f"{number(value['value'], digits)} [{low}, {high}]"
