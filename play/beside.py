"""The real game beside a dream: brought to the same moment, and given the same actions."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from envs.interface import FlatActions, actions_of
from envs.making import made, refuse_imports
from envs.window import as_rgb
from worldmodel.errors import UserError, one_line
from worldmodel.interface.actions import Action


@dataclass(frozen=True, eq=False)
class RealView:
    """What the real game shows; unchanged after its end.

    Attributes:
        frame: uint8 (H, W, 3); a copy, because some games reuse their array.
        info: the real game variables.
        is_over: whether the real episode has ended.
    """

    frame: np.ndarray
    info: dict[str, Any]
    is_over: bool


class RealBeside:
    """A real game that follows one dream. If it fails, it is closed; `begin` opens another.

    Args:
        dream: has `real_moment`.
    """

    def __init__(self, dream: gymnasium.Env) -> None:
        self._dream: Any = dream.unwrapped
        self._env: gymnasium.Env | None = None
        self._actions: FlatActions  # of the game that is open
        self._opened: tuple[str, dict[str, Any]] | None = None

    def begin(self, start: int | None, actions: Iterable[Action]) -> RealView:
        """Go to the dream's start, then take the dream's actions since.

        Raises:
            UserError: this dream has no real game, it isn't installed, it failed, or the
                checkpoint names one that isn't allowed.
        """
        try:
            return self._begin(start, actions)
        except Exception as error:  # a game's library may raise anything
            raise self._failed("no real game for this moment", error) from error

    def step(self, view: RealView, action: Action) -> RealView:
        """Step the real game; `view` is its latest.

        Raises:
            UserError: it failed.
        """
        try:
            return self._step(view, action)
        except Exception as error:
            raise self._failed("the real game failed", error) from error

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _begin(self, start: int | None, actions: Iterable[Action]) -> RealView:
        moment = self._dream.real_moment(start)
        wanted = (moment.env_id, moment.env_kwargs)
        refuse_imports(moment.env_id, moment.env_kwargs, even_imported=True)
        if self._env is None or self._opened != wanted:
            self.close()
            self._env = made(moment.env_id, **moment.env_kwargs)
            self._opened = wanted
            self._actions = actions_of(self._env)
        frame, info = self._env.reset(seed=int(moment.seed))
        if frame.dtype != np.uint8 or frame.shape[2:] not in ((1,), (3,)):
            raise ValueError(f"{moment.env_id} does not show uint8 frames in RGB or grey")
        view = RealView(as_rgb(frame), info, is_over=False)
        for action in (*map(self._actions.spec.plain, moment.actions), *actions):
            view = self._step(view, action)
        return view

    def _step(self, view: RealView, action: Action) -> RealView:
        if view.is_over:
            return view
        assert self._env is not None
        frame, _, terminated, truncated, info = self._env.step(self._actions.to_own(action))
        return RealView(as_rgb(frame), info, is_over=bool(terminated or truncated))

    def _failed(self, what: str, error: Exception) -> UserError:
        """Close the game, and describe the error in one line."""
        env, self._env = self._env, None
        if env is not None:
            with contextlib.suppress(Exception):  # a broken game may not even close
                env.close()
        return UserError(f"{what}: {one_line(error)}")
