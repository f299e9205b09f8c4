"""Numbers that a command is given, checked by one rule."""

import math
from collections.abc import Collection

from worldmodel.errors import UserError

MOST = 2**31 - 1  # of any whole number but a seed: nothing here counts further
MOST_SEED = 2**63 - 1


def check_numbers(options: object, *, above_zero: Collection[str] = (), **lowest: float) -> None:
    """Raises UserError where an option is below its lowest value, absurdly large, or no number.

    Args:
        options: a dataclass of a command; an option that is None was not given.
        above_zero: names of options that must be above 0.
        lowest: lowest value of each other option to check.
    """
    for name, least in {**dict.fromkeys(above_zero, 0), **lowest}.items():
        value = getattr(options, name)
        option = f"--{name.replace('_', '-')}"
        if name in above_zero and value is not None and not 0 < value < math.inf:
            raise UserError(f"{option} must be above 0, not {value}")
        if isinstance(value, float):
            if not least <= value < math.inf:
                raise UserError(f"{option} must be a number from {least:g}, not {value}")
            continue
        most = MOST_SEED if name == "seed" else MOST
        if value is not None and not least <= value <= most:
            raise UserError(f"{option} must be from {least} to {most}, not {value}")
