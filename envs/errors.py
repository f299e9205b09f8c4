"""What keeps an environment from being made here, and that the user can put right."""

import gymnasium


class UnavailableError(gymnasium.error.Error):
    """An environment can't be had here; the message says what to do."""
