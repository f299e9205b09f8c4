"""Rules for names and free-form JSON that are stored, or come from a file."""

import json
from collections.abc import Sequence
from typing import Any

from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import parse_json

MOST_NAME = 200  # characters


def check_names(what: str, names: Sequence[str]) -> None:
    """Raises UserError unless the names are different and printable, of 1 to 200 characters."""
    for name in names:
        if not 0 < len(name) <= MOST_NAME or not name.isprintable():
            raise UserError(
                f"{what}: {one_line(repr(name), most=80)} is not a printable name of 1 to "
                f"{MOST_NAME} characters"
            )
    if len(set(names)) < len(names):
        raise UserError(f"{what} must be different names, not {', '.join(names)}")


def check_json(what: str, data: dict[str, Any], *, most_bytes: int) -> None:
    """Raises UserError unless `data` can be written as JSON of so many bytes and read again: finite
    numbers and Unicode text, not nested too deeply."""
    try:
        text = json.dumps(data, allow_nan=False)
        parse_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{what} can't be written as JSON: {reason}") from None
    if len(text) > most_bytes:
        raise UserError(f"{what} must be at most {most_bytes} bytes as JSON, not {len(text)}")
