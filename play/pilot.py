"""Who steers what: a person or a policy, in a dream or the real game. Knows no window."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import gymnasium
import numpy as np

from envs.interface import actions_of, pose_of, variable_names
from envs.window import as_rgb
from play.beside import RealBeside, RealView
from play.commands import controls_for
from play.map import Map, Trailing, planar
from play.replay import mark_of
from worldmodel.errors import UserError
from worldmodel.interface.actions import Action, ActionSpec
from worldmodel.randomness import generator

Steerer = Literal["person", "policy", "replay"]


class Policy(Protocol):
    """What the pilot asks of a policy; those of `envs.policy` are such."""

    num_stacked: int  # frames that it looks at, the newest included

    def reset(self) -> None: ...

    def act(self, frame: np.ndarray) -> Any: ...


@dataclass(frozen=True, eq=False)
class Moment:
    """One frame, and how it came about.

    Attributes:
        frame: uint8 (H, W, 3), RGB also where the environment's are grey.
        action: what led here; None for an episode's first frame.
        reward: of that action; a dream's is predicted.
        info: the game variables.
        terminated, truncated: Gymnasium's.
        total_reward: of the episode so far.
        step_number: actions taken in the episode.
        mark: of what is seen, as sessions keep it: of a dream's codes, else of the frame.
        seed: given to the reset that began the episode.
        steered_by: who chose the action.
        start: the dream's start; None in a real game.
        real: the real game at the same moment, while it is shown.
        map: where the player has been in this episode; None where the world tells no pose.
        note: what the person should be told, or None.
    """

    frame: np.ndarray
    action: Action | None
    reward: float
    info: dict[str, Any]
    terminated: bool
    truncated: bool
    total_reward: float
    step_number: int
    mark: str
    seed: int
    steered_by: Steerer
    start: int | None
    real: RealView | None
    map: Map | None = None
    note: str | None = None

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated


class Pilot:
    """Plays an environment, and can show the real game beside a dream. A real game that fails
    there is hidden, and the dream goes on.

    It owns the environment: `close` closes it. Methods named `toggle_...` return a note for
    the person.

    Args:
        env: real, or a dream (it then has `num_starts` and `real_moment`).
        seed: of the first episode; each new start adds one.
        start: of a dream's first episode; None draws one from `seed`.
        policy: to hand over to; None if there is none.
        keys: JSON of controls to use instead of those that the environment announces.
        watch: called with every moment, in order.

    Raises:
        UserError: the environment can't be played with keys, or not with these; or it has no such
            start.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        seed: int,
        start: int | None = None,
        policy: Policy | None = None,
        keys: Any = None,
        watch: Callable[[Moment], None] | None = None,
    ) -> None:
        _check_frames(env)
        self.env = env
        self._flat = actions_of(env)
        self.actions: ActionSpec = self._flat.spec
        self.controls = controls_for(env, self._flat, keys)
        self._hidden = {"pose", *pose_of(env).names} - set(variable_names(env))  # of an info
        self.num_starts: int | None = getattr(env.unwrapped, "num_starts", None)
        self.seed = seed
        self.start = self._first_start(start)
        self.policy = policy
        self.policy_steers = False
        self._has_codes = hasattr(type(env.unwrapped), "codes")
        self.actions_taken: list[Action] = []  # since the episode began
        self._watch = watch
        self._beside = RealBeside(env) if self.is_dream else None
        self._real: RealView | None = None  # while it is shown
        self._trail, self._real_trail = Trailing(env), Trailing(env)
        self._recent: deque[np.ndarray] = deque(maxlen=policy.num_stacked if policy else 1)
        self.moment = self._begin()

    @property
    def is_over(self) -> bool:
        """Whether `step` has nothing left to do until a restart."""
        return self.moment.is_over

    @property
    def is_dream(self) -> bool:
        return self.num_starts is not None

    def step(self, action_from_keys: Action) -> Moment:
        """Take one step with the person's action, or the policy's while it steers.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over.
        """
        if self.is_over:
            raise gymnasium.error.ResetNeeded("the episode is over: restart() or another_start()")
        if self.policy is not None and self.policy_steers:
            wanted = self.actions.plain(self._flat.from_own(self.policy.act(self.moment.frame)))
            return self._advance(wanted, "policy")
        return self._advance(action_from_keys, "person")

    def restart(self) -> str | None:
        """Go back to where this episode began: the same seed and start."""
        self.moment = self._begin()
        return self.moment.note

    def another_start(self) -> str | None:
        """Begin elsewhere: the next seed, and in a dream the next start."""
        self.seed += 1
        if self.start is not None and self.num_starts is not None:
            self.start = (self.start + 1) % self.num_starts
        self.moment = self._begin()
        if self.moment.note is not None or self.start is None:
            return self.moment.note
        return f"start {self.start} of {self.num_starts}"

    def toggle_policy(self) -> str:
        """Hand over to the policy, or take back."""
        if self.policy is None:
            return "no policy to hand over to: start with --policy FILE.zip"
        self.policy_steers = not self.policy_steers
        if not self.policy_steers:
            return "you steer"
        self.policy.reset()
        for frame in list(self._recent)[:-1]:  # what it would have seen until now
            self.policy.act(frame)
        return "the policy steers: m takes back"

    def toggle_real(self) -> str | None:
        """Show the real game beside the dream, at the same moment, or hide it."""
        if self._beside is None:
            return "this is the real game: a dream can show it beside itself"
        if self._real is not None:
            self._real = None
        else:
            try:
                self._real = self._beside.begin(self.start, self.actions_taken)
            except UserError as error:
                return str(error)
        self.moment = replace(self.moment, real=self._real)
        return None

    def close(self) -> None:
        if self._beside is not None:
            self._beside.close()
        self.env.close()

    def _first_start(self, start: int | None) -> int | None:
        if self.num_starts is None:
            if start is not None:
                raise UserError("--start is for dreams: a real game begins by its --seed")
            return None
        if start is None:
            return int(generator(self.seed, "first start").integers(self.num_starts))
        if not 0 <= start < self.num_starts:
            raise UserError(f"--start must be from 0 to {self.num_starts - 1}, not {start}")
        return start

    def _begin(self) -> Moment:
        options = None if self.start is None else {"start": self.start}
        frame, info = self.env.reset(seed=self.seed, options=options)
        self.actions_taken = []
        self._recent.clear()
        if self.policy is not None:
            self.policy.reset()
        self._trail.clear()
        self._real_trail.clear()
        note = self._take_real_along(lambda beside, _: beside.begin(self.start, ()))
        return self._show(
            Moment(
                frame=as_rgb(frame),
                action=None,
                reward=0.0,
                info=self._variables(info),
                terminated=False,
                truncated=False,
                total_reward=0.0,
                step_number=0,
                mark=self._mark(frame),
                seed=self.seed,
                steered_by="person",
                start=self.start,
                real=self._real,
                map=self._mapped(info),
                note=note,
            )
        )

    def _advance(self, action: Action, steered_by: Steerer) -> Moment:
        frame, reward, terminated, truncated, info = self.env.step(self._flat.to_own(action))
        self.actions_taken.append(action)
        note = self._take_real_along(lambda beside, view: beside.step(view, action))
        return self._show(
            Moment(
                frame=as_rgb(frame),
                action=action,
                reward=float(reward),
                info=self._variables(info),
                terminated=bool(terminated),
                truncated=bool(truncated),
                total_reward=self.moment.total_reward + float(reward),
                step_number=self.moment.step_number + 1,
                mark=self._mark(frame),
                seed=self.seed,
                steered_by=steered_by,
                start=self.start,
                real=self._real,
                map=self._mapped(info),
                note=note,
            )
        )

    def _variables(self, info: dict[str, Any]) -> dict[str, Any]:
        """The entries of an info that are not only about where the player is."""
        return {name: value for name, value in info.items() if name not in self._hidden}

    def _mapped(self, info: dict[str, Any]) -> Map | None:
        """The map after another step."""
        trail = self._trail.extended(info)
        if trail is None:
            return None
        if self._real is None:
            self._real_trail.clear()
        real = None if self._real is None else self._real_trail.extended(self._real.info)
        low, high = self._corners()
        return Map(trail, real, low, high)

    def _corners(self) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        found = getattr(self.env.unwrapped, "pose_range", None)
        if found is None:
            return None, None
        low, high = (planar(corner) for corner in found)
        return low, high

    def _mark(self, frame: np.ndarray) -> str:
        return mark_of(self.env.unwrapped.codes if self._has_codes else frame)  # pyright: ignore[reportAttributeAccessIssue]

    def _take_real_along(self, go: Callable[[RealBeside, RealView], RealView]) -> str | None:
        """Bring the real game, where it is shown, to the dream's moment. Returns a note when it
        has failed; it is then hidden."""
        if self._beside is None or self._real is None:
            return None
        try:
            self._real = go(self._beside, self._real)
        except UserError as error:
            self._real = None
            return str(error)
        return None

    def _show(self, moment: Moment) -> Moment:
        self.moment = moment
        self._recent.append(moment.frame)
        if self._watch is not None:
            self._watch(moment)
        return moment


def _check_frames(env: gymnasium.Env) -> None:
    """Raises UserError when its frames can't be shown."""
    frames = env.observation_space
    if frames.dtype != np.uint8 or (frames.shape or ())[2:] not in ((1,), (3,)):
        raise UserError(
            f"only uint8 frames in RGB or grey can be shown, but those here are {frames}"
        )
