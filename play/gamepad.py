"""Gamepads: a stick and buttons that hold down the keys of the world's controls."""

import pygame

from play.commands import Command, layout_of
from play.worker import HeldKeys
from worldmodel.interface.controls import Controls

DEAD = 0.35  # of a stick's reach
MOUSE_SPEED = 16.0  # pixels a tick with the right stick at its end
STICK_X, STICK_Y, LOOK_X, LOOK_Y = range(4)  # axes
COMMANDS: dict[int, Command] = {7: "pause", 6: "another", 9: "pause", 8: "another"}  # start, back
MOST_BUTTONS = 6  # that steer


class Gamepad:
    """Turns a gamepad's events into held keys, the mouse's motion and commands."""

    def __init__(self, keys: HeldKeys) -> None:
        self._keys = keys
        self._axes = [0.0] * 4
        self._hat = (0, 0)
        self._buttons: set[int] = set()
        self._held: set[str] = set()
        self._joysticks: dict[int, pygame.joystick.JoystickType] = {}

    def handle(self, event: pygame.event.Event) -> Command | None:
        """Take an event of any kind; returns the command of a pressed button."""
        if event.type == pygame.JOYDEVICEADDED:
            joystick = pygame.joystick.Joystick(event.device_index)
            self._joysticks[joystick.get_instance_id()] = joystick  # open while it is kept
        elif event.type == pygame.JOYDEVICEREMOVED:
            self._joysticks.pop(event.instance_id, None)
            self._axes, self._hat, self._buttons = [0.0] * 4, (0, 0), set()
        elif event.type == pygame.JOYAXISMOTION and event.axis < len(self._axes):
            self._axes[event.axis] = event.value
        elif event.type == pygame.JOYHATMOTION:
            self._hat = event.value
        elif event.type == pygame.JOYBUTTONUP:
            self._buttons.discard(event.button)
        elif event.type == pygame.JOYBUTTONDOWN:
            self._buttons.add(event.button)
            return COMMANDS.get(event.button)
        return None

    def tick(self, controls: Controls | None) -> None:
        """Hold the keys of what is pushed now; call it once a tick of the window."""
        if controls is None:
            return
        layout = layout_of(controls)
        x = self._hat[0] or self._axes[STICK_X]
        y = -self._hat[1] or self._axes[STICK_Y]
        pushed = {"left": x < -DEAD, "right": x > DEAD, "up": y < -DEAD, "down": y > DEAD}
        held = {layout.stick[way] for way, is_on in pushed.items() if is_on and way in layout.stick}
        held |= {
            key
            for number, (key, _) in enumerate(layout.buttons[:MOST_BUTTONS])
            if number in self._buttons
        }
        for key in self._held - held:
            self._keys.release(key)
        for key in held - self._held:
            self._keys.press(key)
        self._held = held
        look = [
            self._axes[axis] if abs(self._axes[axis]) > DEAD else 0 for axis in (LOOK_X, LOOK_Y)
        ]
        if any(look):
            self._keys.move(*(round(MOUSE_SPEED * push) for push in look))
