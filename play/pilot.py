"""Play a dream or a real game, steered by a person or a policy; independent of the window."""

import hashlib
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
from worldmodel.errors import UserError
from worldmodel.interface.actions import Action, ActionSpec
from worldmodel.randomness import generator

Steerer = Literal["person", "policy", "replay"]
MARK_DIGITS = 8
MOST_STACKED = 16  # frames that a policy may see


class Policy(Protocol):
    """A policy of `envs.policy`."""

    num_stacked: int  # frames that it sees, including the newest

    def reset(self) -> None: ...

    def act(self, frame: np.ndarray) -> Any: ...


@dataclass(frozen=True, eq=False)
class Moment:
    """One frame, and the step that led to it.

    Attributes:
        frame: uint8 (H, W, 3), RGB even if the environment's are grey.
        action: the last one; None for an episode's first frame.
        reward: of that action; a dream's is predicted.
        info: the game variables.
        terminated, truncated: Gymnasium's.
        total_reward: of the episode so far.
        step_number: number of actions in the episode so far.
        mark: hash of a dream's codes, or of the frame, see `mark_of`.
        seed: given to the reset that started the episode.
        steered_by: who chose the action.
        start: the dream's start; None in a real game.
        real: the real game at the same moment, while it is shown.
        map: of this episode; None if the world has no pose.
        note: a message for the player, or None.
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


def mark_of(seen: np.ndarray) -> str:
    """A hash of a frame, or of a dream's codes, which determine its frames."""
    return hashlib.sha256(np.ascontiguousarray(seen).data).hexdigest()[:MARK_DIGITS]


class Pilot:
    """Plays an environment, and can show the real game beside a dream. If the real game fails, it
    is hidden, and the dream continues.

    `close` closes the environment. Methods that return text return a message for the player.

    Args:
        env: a real game, or a dream (which has `num_starts` and `real_moment`).
        seed: of the first episode; each new start adds one.
        start: of a dream's first episode; None: sampled from `seed`.
        find_policy: loads the policy that can take over, when it is first asked to; returns None
            if there is none.
        keys: JSON of controls to use instead of the environment's own.
        watch: called with every moment, in order.
        before_step: called with who steers before every step.

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
        find_policy: Callable[[], Policy | None] = lambda: None,
        keys: Any = None,
        watch: Callable[[Moment], None] | None = None,
        before_step: Callable[[Steerer], None] | None = None,
    ) -> None:
        _check_frames(env)
        self.env = env
        self._flat = actions_of(env)
        self.actions: ActionSpec = self._flat.spec
        self.controls = controls_for(env, self._flat, keys)
        self._hidden = {"pose", *pose_of(env).names} - set(variable_names(env))  # in info
        self.num_starts: int | None = getattr(env.unwrapped, "num_starts", None)
        self.seed = seed
        self.start = self._first_start(start)
        self._find_policy = find_policy
        self._policy: Policy | None = None
        self.policy_steers = False
        self._has_codes = hasattr(type(env.unwrapped), "codes")
        self.actions_taken: list[Action] = []  # since the episode began
        self._watch, self._before_step = watch, before_step
        self._beside = RealBeside(env) if self.is_dream else None
        self._real: RealView | None = None  # while it is shown
        self._trail, self._real_trail = Trailing(env), Trailing(env)
        self._recent: deque[np.ndarray] = deque(maxlen=MOST_STACKED)
        self.moment = self._begin()

    @property
    def is_over(self) -> bool:
        """Whether the episode is over."""
        return self.moment.is_over

    @property
    def is_dream(self) -> bool:
        return self.num_starts is not None

    def step(self, action_from_keys: Action) -> Moment:
        """Take one step with the given action, or the policy's while it steers.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over.
        """
        if self.is_over:
            raise gymnasium.error.ResetNeeded("the episode is over: restart() or another_start()")
        if self._policy is not None and self.policy_steers:
            wanted = self.actions.plain(self._flat.from_own(self._policy.act(self.moment.frame)))
            return self._advance(wanted, "policy")
        return self._advance(action_from_keys, "person")

    def restart(self) -> str | None:
        """Restart the episode with the same seed and start."""
        self.moment = self._begin()
        return self.moment.note

    def another_start(self) -> str | None:
        """Start an episode with the next seed, and in a dream the next start."""
        self.seed += 1
        if self.start is not None and self.num_starts is not None:
            self.start = (self.start + 1) % self.num_starts
        self.moment = self._begin()
        if self.moment.note is not None or self.start is None:
            return self.moment.note
        return f"start {self.start} of {self.num_starts}"

    def toggle_policy(self) -> str:
        """Let the policy steer, or the player again."""
        try:
            self._policy = self._policy or self._find_policy()
        except UserError as error:
            return str(error)
        if self._policy is None:
            return "no policy ships with this world: start with --policy FILE.zip"
        self.policy_steers = not self.policy_steers
        if not self.policy_steers:
            return "you steer"
        self._policy.reset()
        for frame in list(self._recent)[-self._policy.num_stacked : -1]:
            self._policy.act(frame)
        return "the policy steers: press m to take over"

    def toggle_real(self) -> str | None:
        """Show the real game beside the dream, at the same moment, or hide it. Where it has ended
        by then, it starts again."""
        if self._beside is None:
            return "this is the real game: only dreams can show it beside them"
        note = None
        if self._real is not None:
            self._real = None
        else:
            try:
                self._real = self._beside.begin(self.start, self.actions_taken)
                if self._real.is_over:
                    self._real = self._beside.begin(self.start, ())
                    note = "the real game had ended here: it starts again beside the dream"
            except UserError as error:
                return str(error)
        self.moment = replace(self.moment, real=self._real)
        return note

    def close(self) -> None:
        if self._beside is not None:
            self._beside.close()
        self.env.close()

    def _first_start(self, start: int | None) -> int | None:
        if self.num_starts is None:
            if start is not None:
                raise UserError("--start is for dreams: a real game starts by its --seed")
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
        if self._policy is not None:
            self._policy.reset()
        self._trail.clear()
        self._real_trail.clear()
        note = self._move_real(lambda beside, _: beside.begin(self.start, ()))
        return self._arrive(frame, info, note, steered_by="person")

    def _advance(self, action: Action, steered_by: Steerer) -> Moment:
        if self._before_step is not None:
            self._before_step(steered_by)
        frame, reward, terminated, truncated, info = self.env.step(self._flat.to_own(action))
        self.actions_taken.append(action)
        note = self._move_real(lambda beside, view: beside.step(view, action))
        total = self.moment.total_reward + float(reward)
        outcome = (action, float(reward), bool(terminated), bool(truncated))
        return self._arrive(frame, info, note, *outcome, total, steered_by=steered_by)

    def _arrive(
        self,
        frame: np.ndarray,
        info: dict[str, Any],
        note: str | None,
        action: Action | None = None,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
        total_reward: float = 0.0,
        *,
        steered_by: Steerer,
    ) -> Moment:
        seen = self.env.unwrapped.codes if self._has_codes else frame  # pyright: ignore[reportAttributeAccessIssue]
        moment = Moment(
            frame=as_rgb(frame),
            action=action,
            reward=reward,
            info={name: value for name, value in info.items() if name not in self._hidden},
            terminated=terminated,
            truncated=truncated,
            total_reward=total_reward,
            step_number=len(self.actions_taken),
            mark=mark_of(seen),
            seed=self.seed,
            steered_by=steered_by,
            start=self.start,
            real=self._real,
            map=self._extend_map(info),
            note=note,
        )
        return self._show(moment)

    def _extend_map(self, info: dict[str, Any]) -> Map | None:
        """The map including another step."""
        trail = self._trail.extended(info)
        if trail is None:
            return None
        if self._real is None:
            self._real_trail.clear()
        real = None if self._real is None else self._real_trail.extended(self._real.info)
        corners = getattr(self.env.unwrapped, "pose_range", None)
        low, high = (None, None) if corners is None else map(planar, corners)
        return Map(trail, real, low, high)

    def _move_real(self, go: Callable[[RealBeside, RealView], RealView]) -> str | None:
        """Bring the real game, if it is shown, to the dream's moment. If it fails, hide it and
        return a note."""
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
        raise UserError(f"only uint8 frames in RGB or grey can be shown, not {frames}")
