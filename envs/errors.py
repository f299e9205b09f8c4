"""Errors that a user can put right, and how they are told."""

import gymnasium


class UnavailableError(gymnasium.error.Error):
    """An environment can't be had here; the message says what to do."""


def in_a_line(said: object) -> str:
    """What an error or a space says, without line breaks; where it says nothing, its kind."""
    return " ".join(str(said).split()) or type(said).__name__
