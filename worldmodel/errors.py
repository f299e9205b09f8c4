"""The one error that a user can fix, and text from anywhere as one safe line."""

MOST_CHARACTERS = 600  # of a message: names and paths in it may be of any length


class UserError(ValueError):
    """Something that the user can fix: the message says what is wrong, what was expected and what
    to do.

    The message is one line of printable characters and bounded length, whatever it quotes.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


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
