"""A sequence of actions as a user writes it: right:8,forward."""

import numpy as np

from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec

MOST_DIGITS = 12  # of a number


def action_sequence(spec: ActionSpec, text: str, num_steps: int) -> np.ndarray:
    """(num_steps,) of "right:8,forward": each as often as it says, the last to the end.

    Raises:
        UserError: the world has no such actions, or there are too many of them.
    """
    taken: list[int] = []
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        if count and not (count.isdecimal() and count.strip("0")):
            raise UserError(f"--action {text}: {count!r} is no number of steps")
        # No more digits than it takes to be too long: Python counts no further than 4,300.
        times = num_steps + 1 if len(count) > MOST_DIGITS else int(count or 1)
        taken += [_numbered(spec, name)] * min(times, num_steps + 1)
    if len(taken) > num_steps:
        raise UserError(f"--action {text} is longer than the {num_steps} steps there are")
    taken += taken[-1:] * (num_steps - len(taken))
    return np.asarray(taken, np.int64)


def _numbered(spec: ActionSpec, action: str) -> int:
    if spec.kind != "discrete":
        raise UserError("--action goes with worlds of one discrete action: leave it out")
    names = [*spec.meanings, *map(str, range(len(spec.meanings), spec.sizes[0]))]
    if action in names:
        return names.index(action)
    if action.isdecimal() and len(action) <= MOST_DIGITS and int(action) < spec.sizes[0]:
        return int(action)
    raise UserError(f"unknown action {action!r}; the known ones are: {', '.join(names)}")
