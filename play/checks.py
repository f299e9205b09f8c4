"""What comes from files, and from strangers' checkpoints, is checked before anything uses it.

Every check raises ValueError with one line: the entry, and what was expected.
"""

import math
from collections.abc import Sequence
from typing import Any

from worldmodel.errors import printable

MAX_INTEGER = 2**53


def check_entries(
    data: Any, expected: Sequence[str], name: str, *, optional: Sequence[str] = ()
) -> None:
    """`data` is an object of these entries and no others."""
    if not isinstance(data, dict):
        raise ValueError(f"{name} must be an object of {', '.join([*expected, *optional])}")
    if missing := [entry for entry in expected if entry not in data]:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    if unknown := [entry for entry in data if entry not in (*expected, *optional)]:
        raise ValueError(f"{name} has an unknown entry {unknown[0][:80]!r}")


def integer(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:  # a bool is no integer here
        raise ValueError(f"{name} must be an integer from {least} to {most}")
    return value


def finite(value: Any, name: str) -> int | float:
    # An integer in JSON may be too large for a float.
    is_number = type(value) is float or (type(value) is int and abs(value) <= MAX_INTEGER)
    if not is_number or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number")
    return value


def text(value: Any, name: str, *, most: int = 4096) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise ValueError(f"{name} must be printable text of at most {most} characters")
    return value


def legible(value: str, *, most: int = 24) -> str:
    """Any text as something that fonts can draw: short, and without control characters."""
    return printable(value[:most])
