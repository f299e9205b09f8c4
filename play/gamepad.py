"""Gamepads: sticks and buttons that hold down the keys of the world's controls.

SDL's names of axes and buttons are used, which are the same for every gamepad that it knows.
"""

import pygame
from pygame._sdl2 import controller

from play.commands import Command, layout_of
from play.worker import HeldKeys
from worldmodel.interface.controls import Controls

DEAD = 0.35  # of a stick's reach
REACH = 32767.0
MOUSE_SPEED = 16.0  # pixels a tick with the right stick at its end
STICK = (pygame.CONTROLLER_AXIS_LEFTX, pygame.CONTROLLER_AXIS_LEFTY)
LOOK = (pygame.CONTROLLER_AXIS_RIGHTX, pygame.CONTROLLER_AXIS_RIGHTY)
CROSS = {
    "left": pygame.CONTROLLER_BUTTON_DPAD_LEFT,
    "right": pygame.CONTROLLER_BUTTON_DPAD_RIGHT,
    "up": pygame.CONTROLLER_BUTTON_DPAD_UP,
    "down": pygame.CONTROLLER_BUTTON_DPAD_DOWN,
}
STEERING = (  # buttons for the actions that are not on the stick, in order
    pygame.CONTROLLER_BUTTON_A,
    pygame.CONTROLLER_BUTTON_B,
    pygame.CONTROLLER_BUTTON_X,
    pygame.CONTROLLER_BUTTON_Y,
    pygame.CONTROLLER_BUTTON_LEFTSHOULDER,
    pygame.CONTROLLER_BUTTON_RIGHTSHOULDER,
)
COMMANDS: dict[int, Command] = {
    pygame.CONTROLLER_BUTTON_START: "pause",
    pygame.CONTROLLER_BUTTON_BACK: "another",
}


class Gamepad:
    """Turns the events of gamepads into held keys, the mouse's motion and commands."""

    def __init__(self, keys: HeldKeys) -> None:
        self._keys = keys
        self._open: dict[int, controller.Controller] = {}
        self._held: set[str] = set()
        self._forget()

    def handle(self, event: pygame.event.Event) -> Command | None:
        """Take an event of any kind; returns the command of a pressed button."""
        if event.type == pygame.CONTROLLERDEVICEADDED:
            pad = controller.Controller(event.device_index)
            self._open[pad.id] = pad  # it stays open while it is kept
        elif event.type == pygame.CONTROLLERDEVICEREMOVED:
            self._open.pop(event.instance_id, None)
            self._forget()
        elif event.type == pygame.WINDOWFOCUSLOST:  # the window releases all keys
            self._forget()
            self._held = set()
        elif event.type == pygame.CONTROLLERAXISMOTION:
            self._axes[event.axis] = event.value / REACH
        elif event.type == pygame.CONTROLLERBUTTONUP:
            self._buttons.discard(event.button)
        elif event.type == pygame.CONTROLLERBUTTONDOWN:
            self._buttons.add(event.button)
            return COMMANDS.get(event.button)
        return None

    def tick(self, controls: Controls | None) -> None:
        """Hold the keys of what is pushed now; called once a tick of the window."""
        if controls is None or not (self._axes or self._buttons or self._held):
            return  # as without a gamepad
        layout = layout_of(controls)
        x, y = (self._axes.get(axis, 0.0) for axis in STICK)
        pushed = {"left": x < -DEAD, "right": x > DEAD, "up": y < -DEAD, "down": y > DEAD}
        held = {
            layout.stick[way]
            for way, is_pushed in pushed.items()
            if way in layout.stick and (is_pushed or CROSS[way] in self._buttons)
        }
        buttons = zip(STEERING, layout.buttons, strict=False)
        held |= {key for button, (key, _) in buttons if button in self._buttons}
        for key in self._held - held:
            self._keys.release(key)
        for key in held - self._held:
            self._keys.press(key)
        self._held = held
        look = [self._axes.get(axis, 0.0) for axis in LOOK]
        if max(map(abs, look)) > DEAD:
            self._keys.move(*(round(MOUSE_SPEED * push) for push in look))

    def _forget(self) -> None:
        """Nothing is pushed."""
        self._axes: dict[int, float] = {}
        self._buttons: set[int] = set()
