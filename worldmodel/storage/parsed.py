"""Untrusted JSON as objects of dataclasses and pydantic models."""

import functools
import re
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from worldmodel.errors import UserError, one_line

Parsed = TypeVar("Parsed")
# Pydantic's messages about types, and JSON's words for Python's types.
EXPECTED = re.compile(
    r"(?:Input|Tuple|List|Dictionary|String) (should .*?)(?: or (?:an )?instance of \w+)?"
)
IN_JSON = {
    "a dictionary": "an object",
    "dictionary": "object",
    "tuple": "list",
    " after validation": "",
}
_adapter = functools.lru_cache(TypeAdapter)


def parsed(kind: type[Parsed], data: Any) -> Parsed:
    """JSON data as an object of a dataclass or a pydantic model.

    Raises:
        UserError: the data have another form, or the class refuses them; the message names the
            entry and what was expected.
    """
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise UserError(_reason(error.errors(include_url=False)[0])) from None


def _reason(error: ErrorDetails) -> str:
    """One line about an error, in pydantic's words or the class's own."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]]
    where = one_line("".join(parts).removeprefix(".") or "it", most=80)
    if error["type"] == "missing":
        return f"it lacks {where}"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown entry {where}"
    rule = error["msg"].removeprefix("Value error, ")
    if expected := EXPECTED.fullmatch(rule):
        rule = expected[1]
        for python, json in IN_JSON.items():
            rule = rule.replace(python, json)
        given = "" if ", not " in rule else f", not {one_line(repr(error['input']), most=80)}"
        return f"{where} {rule}{given}"
    # A class that checks several entries at once names the entry itself.
    return rule if where == "it" or rule.startswith(where) else f"{where}: {rule}"
