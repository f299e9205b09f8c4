"""The one error that a user can put right, and text from anywhere as one safe line."""

MOST_CHARACTERS = 600  # of a message: names and paths in it may be of any length


class UserError(ValueError):
    """Something that the user can put right: the message says what is wrong, what was expected
    and what to do.

    The message is one line of printable characters and bounded length, whatever it quotes.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


def one_line(said: object, *, most: int = MOST_CHARACTERS) -> str:
    """What an error, a space or a name says, as one line that a terminal can show.

    Line breaks become spaces, control characters and lone surrogates "?", and of a text longer
    than `most` characters the middle is left out. Where an exception says nothing, its type.
    """
    text = str(said)
    if len(text) > 2 * most:  # before anything walks through megabytes
        text = text[:most] + " ... " + text[-most:]
    text = printable(" ".join(text.split())) or type(said).__name__
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    """The text with "?" in place of what a terminal would obey or could not show."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def os_error(error: OSError) -> str:
    """What the system said, with the file it was about: "data/x: No space left on device"."""
    reason = error.strerror or str(error) or type(error).__name__
    name = error.filename
    return f"{name}: {reason}" if name is not None else reason
