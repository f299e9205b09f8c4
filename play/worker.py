"""The thread in which the world steps, so that the window never waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from envs.interface import fps_of
from play.held import HeldKeys
from play.pilot import Moment, Pilot

FASTER = 1.25
MIN_FPS, MAX_FPS = 0.5, 240.0

# Something to do between two steps; returns a note for the person, or None.
Request = Callable[[Pilot], str | None]


@dataclass(frozen=True, eq=False)
class Shown:
    """The newest moment, and how fast moments come.

    Attributes:
        steps_per_s: over the last steps; None until there are two in a row.
        frames_agree: after a replay's end, whether it was the same; None otherwise.
    """

    moment: Moment
    is_over: bool
    steps_per_s: float | None
    frames_agree: bool | None


class Worker:
    """Opens a pilot, steps it at a pace, and closes it, all in a thread of its own.

    Every method returns at once. The window reads `shown`, `paused`, `fps` and `is_done`.

    Args:
        open_pilot: makes the pilot; may take seconds, and is given what tells the person why.
        keys: what the person holds down, and the mouse's motion.
        fps: steps a second to begin with; None for the environment's own pace.
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
        """Whether the thread has ended, by `stop` or by an error."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Let the thread end after the step it is in."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def join(self) -> None:
        """Wait for the end, and raise the error that the thread ended with, if any."""
        self._thread.join()
        if self.error is not None:
            raise self.error

    def toggle_pause(self) -> None:
        with self._wake:
            self.paused = not self.paused
            self._single_steps = 0
            self._wake.notify()

    def single_step(self) -> None:
        """One step, and pause."""
        with self._wake:
            # Pressed while running, the key only has to stop at the step under way.
            self._single_steps += 1
            self.paused = True
            self._wake.notify()

    def change_speed(self, factor: float) -> None:
        with self._wake:
            self.fps = min(max(self.fps * factor, MIN_FPS), MAX_FPS)
            self._due_s = min(self._due_s, time.perf_counter() + 1 / self.fps)
            self._wake.notify()

    def ask(self, request: Request) -> None:
        """Have `request` done before the next step."""
        with self._wake:
            self._requests.append(request)
            self._wake.notify()

    def next_note(self) -> str | None:
        """The oldest note not yet read."""
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
        except BaseException as error:  # raised again in the window's thread, by join
            self.error = error
        finally:
            if self.pilot is not None:
                self.pilot.close()

    def _next_work(self, pilot: Pilot) -> Request | None:
        """Wait for a request or the next step; None to end."""
        with self._wake:
            while not self._stopping:
                if self._requests:
                    self._step_times_s.clear()
                    return self._requests.popleft()
                wait_s = None  # until a key wakes us
                if pilot.is_over:
                    self._single_steps = 0
                elif self.paused:
                    self._step_times_s.clear()
                    if self._single_steps:
                        self._single_steps -= 1
                        return self._step
                else:
                    now_s = time.perf_counter()
                    wait_s = self._due_s - now_s
                    if wait_s <= 0:
                        # A late step doesn't make the next ones hurry.
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
