"""How models are trained: the loop, what is trained in it, and on which devices."""


class TrainingError(ValueError):
    """Training can't start or go on; the message says what to do."""
