"""Make environments by id, and refuse ids from untrusted files that would import code."""

import sys
from collections.abc import Iterator
from typing import Any

import gymnasium

from worldmodel.errors import UserError, one_line

# Gymnasium's extra that installs the dependencies of each family of environments.
EXTRAS = {
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.classic_control": "classic-control",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.toy_text": "toy-text",
}


def made(env_id: str, /, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make` without the checker that wraps every step.

    Raises:
        UserError: it can't be made; the message says why, and what to install where that is known.
    """
    try:
        return gymnasium.make(env_id, disable_env_checker=True, **arguments)
    except UserError:
        raise
    except Exception as error:  # an external constructor may raise anything
        reason = f"{env_id} can't be made: {one_line(error).rstrip('.')}"
        raise UserError(reason + _hint(env_id, error)) from error


def _hint(env_id: str, error: Exception) -> str:
    """What to install if the environment lacks a package."""
    if isinstance(error, gymnasium.error.NameNotFound) and ":" not in env_id:
        return f". If one of your modules registers it, name that too: module:{env_id}"
    if not isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
        return ""
    family = family_of(env_id)
    for module, extra in EXTRAS.items():
        if family.startswith(module):
            return f". Install what it needs: pip install 'gymnasium[{extra}]'"
    return ". Install the package that it needs"


def family_of(env_id: str) -> str:
    """The module that a registered environment comes from; "": unknown."""
    spec = gymnasium.registry.get(env_id)
    return str(getattr(spec, "entry_point", "")).partition(":")[0]


def env_ids(data: Any) -> Iterator[str]:
    """All values of the key env_id, at any depth: an environment may wrap another."""
    entries = data.items() if isinstance(data, dict) else enumerate(data)
    for name, value in entries:
        if name == "env_id":
            yield str(value)
        if isinstance(value, dict | list | tuple):
            yield from env_ids(value)


def refuse_imports(env_id: str, env_kwargs: dict[str, Any], *, even_imported: bool = False) -> None:
    """Raises UserError if `gymnasium.make` would run the code of a module that isn't imported yet,
    as "module:Name-v0" does.

    Args:
        even_imported: whether to refuse modules that are already imported as well.
    """
    for name in env_ids({"env_id": env_id, "env_kwargs": env_kwargs}):
        module, names_module, _ = name.rpartition(":")
        if names_module and even_imported:
            raise UserError(f"{name!r} imports a module: only registered environments are allowed")
        if names_module and module not in sys.modules:
            raise UserError(
                f"{name!r} imports a module: import {module!r} yourself first if you trust it"
            )
