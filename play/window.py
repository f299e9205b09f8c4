"""The window: takes input and shows frames sixty times per second, independent of the world."""

import os
import sys
import threading
import time
from collections.abc import Callable

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
import pygame
from pygame._sdl2 import controller

from play.commands import Command, command_of, help_lines, meaning_lines
from play.drawing import GAP, STATUS_HEIGHT, Painter, View, pane_in
from play.gamepad import Gamepad
from play.pilot import Pilot
from play.worker import FASTER, HeldKeys, Shown, Worker
from worldmodel.errors import UserError
from worldmodel.interface.controls import Controls

UI_FPS = 60
NOTE_S = 4.0
NUM_BUTTONS = 3  # of the mouse; the wheel counts as further buttons
STARTING = (
    pygame.KEYDOWN,
    pygame.MOUSEBUTTONDOWN,
    pygame.CONTROLLERBUTTONDOWN,
)  # events that take the card away
NO_DISPLAY = "there is no display to open a window on; without one, this works: "


def check_display(instead: str) -> None:
    """Raises UserError if no window can open here; `instead` is a command that works."""
    named = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in named):
        raise UserError(NO_DISPLAY + instead)


class Mouse:
    """Passes on buttons, and motion while it is caught: then it is hidden and can't leave the
    window. A click catches it, escape frees it."""

    def __init__(self, keys: HeldKeys) -> None:
        self.is_caught = False
        self._keys = keys

    def handle(self, event: pygame.event.Event, *, steers: bool) -> None:
        """Handle any event. If the mouse's motion `steers`, the first click only catches it."""
        if event.type == pygame.MOUSEMOTION and self.is_caught:
            self._keys.move(*event.rel)
        elif event.type == pygame.MOUSEBUTTONUP:
            self._keys.release(f"mouse {event.button}")
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button <= NUM_BUTTONS:
            if steers and not self.is_caught:
                self._catch(True)
            else:
                self._keys.press(f"mouse {event.button}")

    def free(self) -> None:
        if self.is_caught:
            self._catch(False)

    def _catch(self, is_caught: bool) -> None:
        self.is_caught = is_caught
        pygame.mouse.set_relative_mode(is_caught)


class Window:
    """Shows a pilot, and passes the player's input to it.

    Args:
        open_pilot: makes the pilot, in the worker's thread; takes a function for messages.
        title: what is played.
        names: titles of the panes of the world and the real game.
        pane: side of the square for a frame, in pixels.
        fps: initial steps per second; None: the environment's own.
        shows_map: from the beginning.
        stop: set from outside (Ctrl-C) to close the window.
        instead: the command to run where no window can open.
        starts_at_once: whether to play without waiting for a key.
        is_kept: whether the walk is recorded, so that quitting loses nothing.
    """

    def __init__(
        self,
        open_pilot: Callable[[Callable[[str], None]], Pilot],
        *,
        title: str,
        names: tuple[str, str],
        pane: int,
        fps: float | None,
        shows_map: bool = False,
        stop: threading.Event,
        instead: str,
        starts_at_once: bool = False,
        is_kept: bool = False,
    ) -> None:
        self.keys = HeldKeys()
        self.mouse = Mouse(self.keys)
        self.gamepad = Gamepad(self.keys)
        self.worker = Worker(open_pilot, keys=self.keys, fps=fps)
        self.num_ticks = 0  # iterations of the event loop
        self.view: View | None = None  # what the screen shows
        self.first_frame_at_s: float | None = None  # by time.perf_counter
        self._title = title
        self._names = names
        self._pane = pane
        self._stop = stop
        self._instead = instead
        self._is_kept = is_kept
        self._shows_card = not starts_at_once
        self._shows_help = False
        self._is_sharp = False
        self._quits_until_s = 0.0  # when a second press of q still quits
        self._shows_map = shows_map
        self._note: str | None = None
        self._note_ends_s = 0.0

    def run(self) -> None:
        """Show the window until it is closed, then stop the worker.

        Raises:
            UserError: no window can open here.
            Exception: the worker's error, if any.
        """
        try:
            pygame.display.init()
            if pygame.display.get_driver() != os.environ.get("SDL_VIDEODRIVER"):
                _refuse_invisible(pygame.display.get_driver())
            pygame.font.init()
            controller.init()
            pygame.display.set_caption(f"{self._title} - play")
            screen = pygame.display.set_mode(self._current_view().size, pygame.RESIZABLE)
        except pygame.error as error:
            pygame.quit()
            raise UserError(f"{NO_DISPLAY}{self._instead} (SDL says: {error})") from error
        try:
            self.worker.hold(self._shows_card)  # before it can take a step
            self.worker.start()
            self._loop(screen)
        finally:
            pygame.quit()  # closes the window at once, even during a step
            self.worker.stop()
        self.worker.join()

    def _loop(self, screen: pygame.Surface) -> None:
        painter, clock = Painter(), pygame.time.Clock()
        needs_drawing = True
        while not (self._stop.is_set() or self.worker.is_done):
            for event in pygame.event.get():
                needs_drawing |= event.type in (pygame.WINDOWEXPOSED, pygame.WINDOWSIZECHANGED)
                self._handle(event)
            self.gamepad.tick(self._controls)
            self.worker.hold(self._shows_card or self._shows_help)
            view = self._current_view()
            if view != self.view or needs_drawing:
                screen = _surface()
                if self.view is not None and view.num_panes != self.view.num_panes:
                    screen = self._with_room_for(view)
                painter.draw(screen, view)
                pygame.display.flip()
                self.view, needs_drawing = view, False
                if view.shown is not None and self.first_frame_at_s is None:
                    self.first_frame_at_s = time.perf_counter()
            self.num_ticks += 1
            clock.tick(UI_FPS)

    @property
    def _controls(self) -> Controls | None:
        """None until the world is loaded."""
        return self.worker.pilot.controls if self.worker.pilot is not None else None

    def _handle(self, event: pygame.event.Event) -> None:
        controls = self._controls
        command = self.gamepad.handle(event)
        if not self._shows_card:
            self.mouse.handle(event, steers=controls is not None and controls.uses_mouse)
        if event.type == pygame.QUIT:
            self._stop.set()
        elif self._shows_card and self.worker.shown is not None and event.type in STARTING:
            self._shows_card = False
            if event.type == pygame.KEYDOWN:
                self._press_on_card(pygame.key.name(event.key), controls)
        elif event.type == pygame.KEYDOWN:
            self._press(pygame.key.name(event.key), controls)
        elif command is not None:
            self._obey(command)
        elif event.type == pygame.KEYUP:
            self.keys.release(pygame.key.name(event.key))
        elif event.type == pygame.WINDOWFOCUSLOST:
            self.keys.release_all()
            self.mouse.free()

    def _press_on_card(self, key: str, controls: Controls | None) -> None:
        """Any key takes the card away; some do more."""
        command = command_of(key, controls)
        if command is None:
            self.keys.press(key)
        elif command in ("help", "quit"):
            self._obey(command)

    def _press(self, key: str, controls: Controls | None) -> None:
        command = command_of(key, controls)
        if key == "escape" and self.mouse.is_caught:
            self.mouse.free()
        elif key == "escape" and self._shows_help:
            self._shows_help = False
        elif command is None:
            self.keys.press(key)
        else:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case "pause":
                self.worker.toggle_pause()
            case "step":
                self.worker.single_step()
            case "restart":
                self.worker.ask(lambda pilot: pilot.restart())
            case "another":
                self.worker.ask(lambda pilot: pilot.another_start())
            case "policy":
                self.worker.ask(lambda pilot: pilot.toggle_policy())
            case "real":
                self.worker.ask(lambda pilot: pilot.toggle_real())
            case "faster":
                self.worker.change_speed(FASTER)
            case "slower":
                self.worker.change_speed(1 / FASTER)
            case "map":
                self._toggle_map()
            case "full screen":
                pygame.display.toggle_fullscreen()
            case "pixels":
                self._is_sharp = not self._is_sharp
            case "help":
                self._shows_help = not self._shows_help
            case "quit":
                self._quit()

    def _quit(self) -> None:
        """Quit, at the second press where a walk would be lost."""
        shown = self.worker.shown
        is_walking = shown is not None and shown.moment.step_number > 0 and not shown.is_over
        if is_walking and not self._is_kept and time.perf_counter() > self._quits_until_s:
            self._show_note("this walk is not recorded: press q again to quit")
            self._quits_until_s = self._note_ends_s
        else:
            self._stop.set()

    def _toggle_map(self) -> None:
        shown = self.worker.shown
        if shown is not None and shown.moment.map is None:
            self._show_note("there is no map, because this world has no pose")
        else:
            self._shows_map = not self._shows_map

    def _show_note(self, text: str) -> None:
        self._note, self._note_ends_s = text, time.perf_counter() + NOTE_S

    def _current_view(self) -> View:
        """The view of the current state."""
        now_s = time.perf_counter()
        if note := self.worker.next_note():
            self._note, self._note_ends_s = note, now_s + NOTE_S
        elif now_s > self._note_ends_s and self.worker.shown is not None:
            self._note = None
        shown, pilot = self.worker.shown, self.worker.pilot
        num_panes = 2 if shown is not None and shown.moment.real is not None else 1
        pane = self._pane
        if pygame.display.get_surface() is not None:
            pane = pane_in(_surface().get_size(), num_panes)
        controls = self._controls
        return View(
            shown=shown,
            pane=pane,
            title=self._title,
            names=self._names,
            action=_last_action(shown, controls),
            policy_steers=pilot is not None and pilot.policy_steers,
            paused=self.worker.paused,
            fps=self.worker.fps,
            note=self._note,
            waking_dots=int(now_s * 2) % 4 if shown is None else 0,
            hint=self._hint(controls),
            shows_map=self._shows_map,
            is_sharp=self._is_sharp,
            card=self._card(controls),
            help_lines=self._help(controls, shown),
        )

    def _help(self, controls: Controls | None, shown: Shown | None) -> tuple[tuple[str, str], ...]:
        """Keys and words in the help; empty when it isn't shown."""
        if controls is None or not self._shows_help:
            return ()
        numbers = () if shown is None else shown.moment.info
        return (*help_lines(controls), *meaning_lines(controls, numbers))

    def _card(self, controls: Controls | None) -> tuple[tuple[str, str], ...]:
        """The keys on the card that waits for one; empty when it isn't shown."""
        if not self._shows_card or controls is None:
            return ()
        return (*controls.help_lines(), ("h", "all keys"))

    def _with_room_for(self, view: View) -> pygame.Surface:
        """A window that is as wide as the panes need, as far as the desktop has room."""
        if pygame.display.is_fullscreen():
            return _surface()
        desktop = pygame.display.get_desktop_sizes()[0]
        height = _surface().get_height() - STATUS_HEIGHT
        width = view.num_panes * height + (view.num_panes - 1) * GAP
        return _resized((min(width, max(desktop[0], 640)), height + STATUS_HEIGHT))

    def _hint(self, controls: Controls | None) -> str:
        if self.mouse.is_caught:
            return "escape  free the mouse"
        return "click  mouse      h  keys" if controls and controls.uses_mouse else "h  keys"


def _surface() -> pygame.Surface:
    """The window's own."""
    surface = pygame.display.get_surface()
    assert surface is not None
    return surface


def _last_action(shown: Shown | None, controls: Controls | None) -> str:
    if shown is None or controls is None:
        return ""
    action = shown.moment.action
    return "start" if action is None else controls.words(action)


def _refuse_invisible(driver: str) -> None:
    """Raises pygame.error for an invisible driver that SDL has fallen back to."""
    if driver in ("dummy", "offscreen"):
        raise pygame.error(f"only the {driver!r} video driver works here")


def _resized(size: tuple[int, int]) -> pygame.Surface:
    """Resize the window, and centre it on the desktop."""
    screen = pygame.display.set_mode(size, pygame.RESIZABLE)
    desktop = pygame.display.get_desktop_sizes()[0]
    x, y = (max(room - side, 0) // 2 for room, side in zip(desktop, size, strict=True))
    pygame.display.set_window_position((x, y))
    return screen
