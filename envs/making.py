"""Environments by their ids, and what to do where one can't be made."""

from typing import Any

import gymnasium

from worldmodel.errors import UserError, one_line

# Gymnasium's own families of environments, and the extra that installs what each needs.
EXTRAS = {
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.classic_control": "classic-control",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.toy_text": "toy-text",
}


def made(env_id: str, /, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make`, without the checker that wraps every step.

    Raises:
        UserError: it can't be made; says why, and what to install where that is known.
    """
    try:
        return gymnasium.make(env_id, disable_env_checker=True, **arguments)
    except UserError:
        raise
    except Exception as error:  # a foreign constructor raises what it likes
        reason = f"{env_id} can't be made: {one_line(error).rstrip('.')}"
        raise UserError(reason + _hint(env_id, error)) from error


def _hint(env_id: str, error: Exception) -> str:
    """What to install, where a package is missing of an environment of Gymnasium's own."""
    if not isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
        return ""
    spec = gymnasium.registry.get(env_id)
    family = str(getattr(spec, "entry_point", "")).partition(":")[0]
    for module, extra in EXTRAS.items():
        if family.startswith(module):
            return f". Install what it needs: pip install 'gymnasium[{extra}]'"
    return ". Install the package that it needs"
