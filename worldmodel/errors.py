"""The one error that a user can fix, and text from anywhere as one safe line."""

import sysconfig
import traceback
from pathlib import Path

MOST_CHARACTERS = 600  # of a message: names and paths in it may be of any length
# Where the fault of someone's environment is not: Python's own modules, and this project's.
_ROOT = Path(__file__).parents[1]
_OWN = tuple(f"{_ROOT / package}/" for package in ("collect", "envs", "play", "worldmodel"))
_NOT_OTHERS = (sysconfig.get_path("stdlib"), "<frozen", *_OWN)


class UserError(ValueError):
    """Something that the user can fix: the message says what is wrong, what was expected and what
    to do.

    The message is one line of printable characters and bounded length, whatever it quotes.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


def raised(error: BaseException) -> str:
    """An exception of code that isn't this project's: type, message, and where it was raised. Of a
    UserError the message alone."""
    if isinstance(error, UserError):
        return str(error)
    others = [
        at
        for at in traceback.extract_tb(error.__traceback__)
        if not at.filename.startswith(_NOT_OTHERS) and "site-packages" not in at.filename
    ]
    where = others or traceback.extract_tb(error.__traceback__)
    place = f" ({where[-1].filename}, line {where[-1].lineno})" if where else ""
    text = one_line(error, most=MOST_CHARACTERS // 2)
    name = type(error).__name__
    return (name if text == name else f"{name}: {text}") + place


def one_line(value: object, *, most: int = MOST_CHARACTERS) -> str:
    """The text of an error, a space or a name, as one line that a terminal can show.

    Line breaks become spaces, control characters and lone surrogates become "?", and the middle of
    a text longer than `most` characters is omitted. An empty text is replaced by the value's type.
    """
    text = str(value)
    if len(text) > 2 * most:  # before anything walks through megabytes
        text = text[:most] + " ... " + text[-most:]
    text = printable(" ".join(text.split())) or type(value).__name__
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    """The text with "?" in place of control characters and what a terminal can't show."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def os_error(error: OSError) -> str:
    """The system's message with the file concerned: "data/x: No space left on device"."""
    reason = error.strerror or str(error) or type(error).__name__
    name = error.filename
    return f"{name}: {reason}" if name is not None else reason
