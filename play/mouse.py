"""The mouse as something to steer with: a click catches it, escape lets it go."""

import pygame

from play.held import HeldKeys

NUM_BUTTONS = 3  # a wheel's turns come as further buttons


class Mouse:
    """Passes on the buttons, and the motion while it is caught: then it is hidden, and can't
    leave the window.

    Args:
        keys: told what the mouse does.
    """

    def __init__(self, keys: HeldKeys) -> None:
        self.is_caught = False
        self._keys = keys

    def handle(self, event: pygame.event.Event, *, steers: bool) -> None:
        """Take in an event, of whatever kind.

        Args:
            steers: whether its motion does. The first click then only catches it.
        """
        if event.type == pygame.MOUSEMOTION and self.is_caught:
            self._keys.move(*event.rel)
        elif event.type == pygame.MOUSEBUTTONUP:
            self._keys.release(f"mouse {event.button}")
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button <= NUM_BUTTONS:
            if steers and not self.is_caught:
                self._catch(True)
            else:
                self._keys.press(f"mouse {event.button}")

    def let_go(self) -> None:
        if self.is_caught:
            self._catch(False)

    def _catch(self, is_caught: bool) -> None:
        self.is_caught = is_caught
        pygame.mouse.set_relative_mode(is_caught)
