"""Bounds on configs, which may come from a stranger."""

from typing import Literal, get_args, get_origin, get_type_hints

LARGEST_SIZE = 2**16  # of any one number in a config, which may come from a stranger
MOST_LAYERS = 256
MOST_CODEBOOKS = 64  # each is built, which takes time even without memory


def check_fields(config: object, *, may_be_zero: tuple[str, ...] = ()) -> None:
    """Raises ValueError unless every field is of its type, every number positive and not absurd."""
    for name, wanted in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(wanted) is Literal:
            if value not in get_args(wanted):
                raise ValueError(f"{name} must be {' or '.join(get_args(wanted))}, not {value!r}")
        elif get_origin(wanted) is tuple:
            if not isinstance(value, tuple) or len(value) != len(get_args(wanted)):
                raise ValueError(f"{name} must be {len(get_args(wanted))} numbers, not {value!r}")
            for number, kind in zip(value, get_args(wanted), strict=True):
                _check_number(name, number, kind, name in may_be_zero)
        else:
            _check_number(name, value, wanted, name in may_be_zero)


def _check_number(name: str, number: object, kind: type, may_be_zero: bool) -> None:
    if type(number) is not kind and (kind is not float or type(number) is not int):
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ValueError(f"{name} must be {words[kind]}, not {number!r}")
    assert isinstance(number, int | float)
    largest = MOST_LAYERS if name.endswith("layers") else LARGEST_SIZE
    largest = MOST_CODEBOOKS if name == "num_codebooks" else largest
    if not 0 <= number <= largest:
        raise ValueError(f"{name} must be from 0 to {largest}, not {number!r}")
    if number == 0 and not may_be_zero:
        raise ValueError(f"{name} must not be 0")


def check_products(products: dict[str, tuple[int, int]]) -> None:
    """Raises ValueError where the sizes together ask for more than is had or waited for."""
    for what, (number, most) in products.items():
        if number > most:
            raise ValueError(f"these sizes make {number} {what}, more than {most}")


def check_names(**names: tuple[str, ...]) -> None:
    for what, given in names.items():
        if len(given) > LARGEST_SIZE:
            raise ValueError(f"{what} must be at most {LARGEST_SIZE}, not {len(given)}")
