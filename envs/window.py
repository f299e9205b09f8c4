"""A window that shows an environment's frames."""

import weakref
from typing import Any

import numpy as np

LONGER_SIDE = 512  # pixels
_open: "weakref.WeakSet[FrameWindow]" = weakref.WeakSet()


def as_rgb(frame: np.ndarray) -> np.ndarray:
    """A copy of a frame (H, W, 1 or 3), as (H, W, 3)."""
    return np.repeat(frame, 3, -1) if frame.shape[-1] == 1 else frame.copy()


def any_is_open() -> bool:
    """Whether a `FrameWindow` is on the screen."""
    return len(_open) > 0


class FrameWindow:
    """Shows frames without distortion; opens with the first one.

    Args:
        title: of the window.
        fps: frames per second; `show` waits accordingly.
    """

    def __init__(self, title: str, *, fps: float) -> None:
        self.title, self.fps = title, fps
        self._window: Any = None

    def show(self, frame: np.ndarray) -> None:
        """Show a frame, uint8 (H, W, 1 or 3), as large as fits."""
        import pygame

        height, width = frame.shape[:2]
        scale = LONGER_SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if self._window is None:
            pygame.display.init()
            self._window = pygame.Window(self.title, size)
            self._clock = pygame.time.Clock()
            _open.add(self)
        picture = pygame.surfarray.make_surface(as_rgb(frame).swapaxes(0, 1))
        self._window.get_surface().blit(pygame.transform.scale(picture, size), (0, 0))
        pygame.event.pump()
        self._window.flip()
        self._clock.tick(self.fps)

    def picture(self) -> np.ndarray:
        """The content of the open window, uint8 (H, W, 3)."""
        import pygame

        return pygame.surfarray.array3d(self._window.get_surface()).swapaxes(0, 1)

    def close(self) -> None:
        """Close only this window; pygame stays initialised, because others may be using it."""
        if self._window is not None:
            self._window.destroy()
            self._window = None
            _open.discard(self)
