"""A person at the keyboard, in the real game or in a dream of it: `python -m play`."""


class PlayError(Exception):
    """Something the user can put right. Its message is one line: what is wrong, what to do."""
