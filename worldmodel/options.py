"""Numbers that a command is given, checked by one rule."""

import math

from worldmodel.errors import UserError

MOST = 2**31 - 1  # of any whole number but a seed: nothing here counts further
MOST_SEED = 2**63 - 1


def check_numbers(options: object, **lowest: float) -> None:
    """Raises UserError where an option is below its lowest value, absurdly large, or no number.

    Args:
        options: a dataclass of a command.
        lowest: of each option to check; one that is None was not given.
    """
    for name, least in lowest.items():
        value = getattr(options, name)
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, float):
            if not least <= value < math.inf:
                raise UserError(f"{option} must be a number from {least:g}, not {value}")
            continue
        most = MOST_SEED if name == "seed" else MOST
        if value is not None and not least <= value <= most:
            raise UserError(f"{option} must be from {least} to {most}, not {value}")
