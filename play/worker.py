"""Step the world in its own thread, so that the window never waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from envs.interface import fps_of
from play.pilot import Moment, Pilot

FASTER = 1.25
MIN_FPS, MAX_FPS = 0.5, 240.0

# Something to do between two steps; returns a note for the player, or None.
Request = Callable[[Pilot], str | None]


class HeldKeys:
    """The keys that are down, and the mouse's motion; thread-safe.

    A key that is tapped between two steps counts for the next one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pressed: list[str] = []  # down now, or since the last take; oldest first
        self._down: set[str] = set()
        self._unseen: set[str] = set()  # pressed since the last take
        self._motion = (0, 0)

    def press(self, key: str) -> None:
        with self._lock:
            self._pressed = [*(other for other in self._pressed if other != key), key]
            self._down.add(key)
            self._unseen.add(key)

    def release(self, key: str) -> None:
        with self._lock:
            self._down.discard(key)
            self._forget_released()

    def move(self, right: int, down: int) -> None:
        """Add a motion of the mouse, in pixels."""
        with self._lock:
            self._motion = self._motion[0] + right, self._motion[1] + down

    def release_all(self) -> None:
        with self._lock:
            self._pressed, self._down, self._unseen = [], set(), set()
            self._motion = (0, 0)

    def take(self) -> tuple[str, ...]:
        """The keys that are down or were tapped since the last call, oldest first."""
        with self._lock:
            taken = tuple(self._pressed)
            self._unseen = set()
            self._forget_released()
            return taken

    def take_motion(self) -> tuple[int, int]:
        """The mouse's motion since the last call, in pixels to the right and down."""
        with self._lock:
            taken, self._motion = self._motion, (0, 0)
            return taken

    def _forget_released(self) -> None:
        self._pressed = [key for key in self._pressed if key in self._down | self._unseen]


@dataclass(frozen=True, eq=False)
class Shown:
    """The newest moment, and the speed.

    Attributes:
        steps_per_s: of the last steps; None until there are two in a row.
        frames_agree: after a replay, whether all frames were as recorded; None otherwise.
    """

    moment: Moment
    is_over: bool
    steps_per_s: float | None
    frames_agree: bool | None


class Worker:
    """Opens a pilot, steps it at a given speed, and closes it, all in its own thread.

    Every method returns at once. The window reads `shown`, `paused`, `fps` and `is_done`.

    Args:
        open_pilot: makes the pilot; takes a function for messages to the player.
        keys: the player's input.
        fps: initial steps per second; None: the environment's own.
    """

    def __init__(
        self,
        open_pilot: Callable[[Callable[[str], None]], Pilot],
        *,
        keys: HeldKeys,
        fps: float | None,
    ) -> None:
        self.shown: Shown | None = None
        self.pilot: Pilot | None = None
        self.paused = False
        self.held = False  # by what covers the picture; requests are still answered
        self.fps = fps or 1.0
        self.error: BaseException | None = None
        self._open_pilot = open_pilot
        self._keys = keys
        self._fps_is_given = fps is not None
        self._wake = threading.Condition()
        self._requests: deque[Request] = deque()
        self._notes: deque[str] = deque()
        self._single_steps = 0
        self._stopping = False
        self._due_s = 0.0
        self._step_times_s: deque[float] = deque(maxlen=20)
        self._thread = threading.Thread(target=self._run, name="world")

    def start(self) -> None:
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether the thread has ended, after `stop` or an error."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End the thread after the current step."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def join(self) -> None:
        """Wait for the end, and raise the thread's error, if any."""
        self._thread.join()
        if self.error is not None:
            raise self.error

    def toggle_pause(self) -> None:
        with self._wake:
            self.paused = not self.paused
            self._single_steps = 0
            self._wake.notify()

    def hold(self, held: bool) -> None:
        """Take no steps until it is released; whether the player has paused stays as it is."""
        if held != self.held:
            with self._wake:
                self.held = held
                self._due_s = time.perf_counter() + 1 / self.fps
                self._wake.notify()

    def single_step(self) -> None:
        """Take one step, then pause."""
        with self._wake:
            # While running, this only pauses after the current step.
            self._single_steps += 1
            self.paused = True
            self._wake.notify()

    def change_speed(self, factor: float) -> None:
        with self._wake:
            self.fps = min(max(self.fps * factor, MIN_FPS), MAX_FPS)
            self._due_s = min(self._due_s, time.perf_counter() + 1 / self.fps)
            self._wake.notify()

    def ask(self, request: Request) -> None:
        """Run a request before the next step."""
        with self._wake:
            self._requests.append(request)
            self._wake.notify()

    def next_note(self) -> str | None:
        """The oldest unread note."""
        return self._notes.popleft() if self._notes else None

    def _run(self) -> None:
        try:
            self.pilot = pilot = self._open_pilot(self._notes.append)
            if not self._fps_is_given:
                self.fps = fps_of(pilot.env)
            self._publish(pilot)
            self._due_s = time.perf_counter() + 1 / self.fps
            while (work := self._next_work(pilot)) is not None:
                if note := work(pilot):
                    self._notes.append(note)
                self._publish(pilot)
        except BaseException as error:  # `join` raises it in the window's thread
            self.error = error
        try:
            if self.pilot is not None:
                self.pilot.close()
        except BaseException as error:  # the last episode can't be stored, for example
            self.error = self.error or error

    def _next_work(self, pilot: Pilot) -> Request | None:
        """Wait for a request or the next step; None: end."""
        with self._wake:
            while not self._stopping:
                if self._requests:
                    self._step_times_s.clear()
                    return self._requests.popleft()
                wait_s = None  # until notified
                if pilot.is_over:
                    self._single_steps = 0
                elif self.paused or self.held:
                    self._step_times_s.clear()
                    if self._single_steps and not self.held:
                        self._single_steps -= 1
                        return self._step
                else:
                    now_s = time.perf_counter()
                    wait_s = self._due_s - now_s
                    if wait_s <= 0:
                        # After a late step, the next ones don't catch up.
                        self._due_s = max(self._due_s + 1 / self.fps, now_s)
                        return self._step
                self._wake.wait(wait_s)
            return None

    def _step(self, pilot: Pilot) -> str | None:
        action = pilot.controls.resolve(self._keys.take(), self._keys.take_motion())
        moment = pilot.step(action)
        self._step_times_s.append(time.perf_counter())
        return moment.note

    def _publish(self, pilot: Pilot) -> None:
        times_s = self._step_times_s
        steps_per_s = (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 else None
        agree = getattr(pilot, "frames_agree", None)
        self.shown = Shown(pilot.moment, pilot.is_over, steps_per_s, agree)
