"""What checkpoints and data sets say of environments, which is data and not to be trusted."""

import sys
from collections.abc import Iterator
from typing import Any

from worldmodel.errors import UserError


def env_ids(data: Any) -> Iterator[str]:
    """What stands under the name env_id, at any depth: one environment may wrap another."""
    entries = data.items() if isinstance(data, dict) else enumerate(data)
    for name, value in entries:
        if name == "env_id":
            yield str(value)
        if isinstance(value, dict | list | tuple):
            yield from env_ids(value)


def refuse_imports(env_id: str, env_kwargs: dict[str, Any], *, even_imported: bool = False) -> None:
    """Raises UserError where `gymnasium.make` would import a module that isn't imported yet:
    "module:Name-v0" runs code.

    Args:
        even_imported: whether modules that are imported already are refused as well.
    """
    for name in env_ids({"env_id": env_id, "env_kwargs": env_kwargs}):
        module, names_module, _ = name.rpartition(":")
        if names_module and even_imported:
            raise UserError(f"{name!r} imports a module, and is not a registered environment")
        if names_module and module not in sys.modules:
            raise UserError(
                f"{name!r} imports a module: import {module!r} yourself first if you trust it"
            )
