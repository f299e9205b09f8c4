"""A function of yours as a policy: `module:name`."""

import hashlib
import importlib
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from worldmodel.command import named_function
from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import file_digest

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def names_function(policy: str) -> bool:
    """Whether a --policy is `module:name`, not a file's path."""
    return _NAME.fullmatch(policy) is not None and not Path(policy).exists()


def function_digest(name: str) -> str:
    """sha256 of `module:name` and of the module's file, as hex. The module must be importable."""
    file = getattr(importlib.import_module(name.partition(":")[0]), "__file__", None)
    contents = file_digest(Path(file)) if file else "no file"
    return hashlib.sha256(f"{name} {contents}".encode()).hexdigest()


class FunctionPolicy:
    """A function from an environment's observation to its action, both its own.

    Args:
        name: `module:name` of such a function, or of a class: an instance, made without arguments,
            is called instead. If it has a method `reset`, this is called with a seed when an
            episode begins: what it chooses at random must depend on that seed alone.
        env: the environment that it plays in.

    Raises:
        UserError: there is no such function.
    """

    def __init__(self, name: str, env: gymnasium.Env[Any, Any]) -> None:
        self._function = named_function("--policy", name)
        if not callable(self._function):
            raise UserError(f"--policy {name} is {one_line(self._function)}, not a function")
        self._name, self._env = name, env
        self._world: Any = env.unwrapped
        self._own_actions = getattr(self._world, "own_actions", None)

    def reset(self, *, seed: int | None = None) -> None:
        """Start an episode."""
        if hasattr(self._function, "reset"):
            self._function.reset(seed)

    def act(self, frame: np.ndarray) -> Any:
        """The action for the environment's current state; `frame` is it where there is no other.

        Raises:
            UserError: the function's answer is not an action.
        """
        has_state = hasattr(self._world, "state_space")
        action = self._function(self._world.state() if has_state else frame)
        own = self._own_actions
        space: Any = self._env.action_space if own is None else own.own
        try:
            numbers = np.asarray(action)
            own_type = numbers.astype(space.dtype)
            is_action = space.contains(own_type[()]) and np.allclose(numbers, own_type)
        except (TypeError, ValueError):
            is_action = False
        if not is_action:
            raise UserError(
                f"--policy {self._name} chose {one_line(action)}, which is not in the "
                f"environment's {one_line(space)}"
            )
        return own_type[()] if own is None else own.from_own(own_type)
