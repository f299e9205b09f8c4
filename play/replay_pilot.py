"""Replay a session and compare it with its recording."""

from collections.abc import Callable
from typing import Any

import gymnasium

from envs.interface import actions_of
from play.pilot import Moment, Pilot, Steerer
from play.session import Session
from worldmodel.errors import UserError
from worldmodel.interface.actions import Action


class ReplayPilot(Pilot):
    """Replays a recorded session; the player can't steer it.

    Attributes:
        num_frames: replayed so far.
        first_difference: describes the first difference from the recording; None: there is none.

    Raises:
        UserError: the session doesn't fit the environment.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        session: Session,
        *,
        keys: Any = None,
        watch: Callable[[Moment], None] | None = None,
        before_step: Callable[[Steerer], None] | None = None,
    ) -> None:
        _check_fit(env, session)
        self.session = session
        self.num_frames = 0
        self.first_difference: str | None = None
        self._episode_number = 0
        first = session.episodes[0]
        super().__init__(
            env,
            seed=first.seed,
            start=first.start,
            keys=keys,
            watch=watch,
            before_step=before_step,
        )

    @property
    def is_over(self) -> bool:
        """Whether all episodes have been replayed."""
        return self._episode_is_done and self._episode_number == len(self.session.episodes) - 1

    @property
    def frames_agree(self) -> bool | None:
        """Whether all frames were as recorded; None before the end."""
        return self.first_difference is None if self.is_over else None

    def step(self, action_from_keys: Action) -> Moment:
        """Continue to the session's next frame; ignores the keys.

        Raises:
            gymnasium.error.ResetNeeded: the session is over.
        """
        if self.is_over:
            raise gymnasium.error.ResetNeeded("the session is over")
        if not self._episode_is_done:
            actions = self.session.episodes[self._episode_number].actions
            return self._advance(actions[self.moment.step_number], "replay")
        self._episode_number += 1
        episode = self.session.episodes[self._episode_number]
        self.seed, self.start = episode.seed, episode.start
        return self._begin()

    def restart(self) -> str:
        return "this is a replay: you can't steer it"

    another_start = toggle_policy = restart

    @property
    def _episode_is_done(self) -> bool:
        num_actions = len(self.session.episodes[self._episode_number].actions)
        return self.moment.is_over or self.moment.step_number == num_actions

    def _show(self, moment: Moment) -> Moment:
        super()._show(moment)
        self.num_frames += 1
        self._compare(moment)
        return moment

    def _compare(self, moment: Moment) -> None:
        if self.first_difference is not None:
            return
        episode, step = self.session.episodes[self._episode_number], moment.step_number
        where = f"episode {self._episode_number + 1} of {len(self.session.episodes)}"
        if episode.marks[step] != moment.mark:
            seen = "the codes" if self._has_codes else "the frame"
            self.first_difference = f"{seen} at step {step} of {where}"
        elif moment.is_over and step < len(episode.actions):
            self.first_difference = f"the end at step {step} of {where}"


def _check_fit(env: gymnasium.Env, session: Session) -> None:
    """Raises UserError when a session can't have been recorded in such an environment."""
    actions = actions_of(env).spec
    height_and_width = (env.observation_space.shape or ())[:2]
    if session.frame_size != height_and_width:
        raise UserError(
            f"the session's frames are {session.frame_size}, the environment's {height_and_width}"
        )
    num_starts: int | None = getattr(env.unwrapped, "num_starts", None)
    for number, episode in enumerate(session.episodes):
        if episode.actions and not actions.contains(episode.actions):
            raise UserError(f"episode {number} has an action outside {env.action_space}")
        if (episode.start is None) != (num_starts is None):
            raise UserError(f"episode {number}: a dream needs a start, a real game has none")
        if num_starts is not None and (episode.start or 0) >= num_starts:
            raise UserError(f"episode {number}: start {episode.start} of only {num_starts}")
