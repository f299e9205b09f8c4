"""What the person's hands do, shared by the thread that sees it and the one that steps."""

import threading


class HeldKeys:
    """The keys that are down, and how far the mouse has gone.

    A key tapped and released between two steps still counts for the next one.
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
        """The mouse went so many pixels."""
        with self._lock:
            self._motion = self._motion[0] + right, self._motion[1] + down

    def release_all(self) -> None:
        with self._lock:
            self._pressed, self._down, self._unseen = [], set(), set()
            self._motion = (0, 0)

    def take(self) -> tuple[str, ...]:
        """Keys down now or tapped since the last call, oldest first."""
        with self._lock:
            taken = tuple(self._pressed)
            self._unseen = set()
            self._forget_released()
            return taken

    def take_motion(self) -> tuple[int, int]:
        """Pixels to the right and down that the mouse went since the last call."""
        with self._lock:
            taken, self._motion = self._motion, (0, 0)
            return taken

    def _forget_released(self) -> None:
        self._pressed = [key for key in self._pressed if key in self._down | self._unseen]
