"""What checks the shapes in signatures, and how often.

Checking every call doubles the time of the tests. Nearly all mistakes show in a function's first
calls, so only these are checked, in each test module anew.
"""

import functools
from collections.abc import Callable
from typing import Any

import jaxtyping
import torch
from beartype import BeartypeConf, beartype

CHECKED_CALLS = 5  # of each function, in each test module
check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as in PEP 484
_jaxtyped = jaxtyping.jaxtyped
_counts: dict[Callable[..., Any], int] = {}


def begin_anew() -> None:
    """Check the first calls of every function again."""
    _counts.clear()


def jaxtyped_at_first(*, typechecker: Callable[..., Any]) -> Callable[..., Any]:
    """`jaxtyping.jaxtyped`, but only the first calls of a function are checked, and only the first
    instances of a dataclass."""

    def decorate(decorated: Any) -> Any:
        if not isinstance(decorated, type):
            return _checked_at_first(decorated, _jaxtyped(decorated, typechecker=typechecker))
        init = decorated.__init__
        checked = _jaxtyped(decorated, typechecker=typechecker)
        if checked.__init__ is not init:
            checked.__init__ = _checked_at_first(init, checked.__init__)
        return checked

    return decorate


def _checked_at_first(function: Callable[..., Any], checked: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # the compiler may not count
            return function(*args, **kwargs)
        count = _counts.get(call, 0)
        if count == CHECKED_CALLS:
            return function(*args, **kwargs)
        _counts[call] = count + 1
        return checked(*args, **kwargs)

    return call


def install(modules: list[str]) -> None:
    """Check these modules, which must not have been imported."""
    jaxtyping.install_import_hook(modules, f"{__name__}.check")
    jaxtyping.jaxtyped = jaxtyped_at_first  # the hook decorates with this
