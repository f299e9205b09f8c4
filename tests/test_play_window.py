"""The window, on SDL's dummy display and, where there is one, on a virtual X screen."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

os.environ["SDL_VIDEODRIVER"] = "dummy"
import pygame

from play.commands import layout_of
from play.drawing import STATUS_HEIGHT, Painter, View
from play.pilot import Moment, Pilot
from play.session import read_session
from play.window import Window
from play.worker import Shown
from worldmodel.checkpoint import load_checkpoint
from worldmodel.interface.controls import Controls, default_controls

MEANINGS = ("noop", "left", "right", "forward")


class GatedWorld(gymnasium.Env[np.ndarray, np.int64]):
    """Each step waits until the test lets it go on, as if the model thought for long."""

    metadata = {"render_modes": [], "render_fps": 100}  # noqa: RUF012
    action_space = gymnasium.spaces.Discrete(4)
    observation_space = gymnasium.spaces.Box(0, 255, (8, 12, 3), np.uint8)
    action_meanings = MEANINGS
    controls: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.is_thinking = threading.Event()
        self.actions: list[int] = []
        self.num_resets = 0
        self.is_closed = False
        self.length = 10**9
        self.fails = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        self.num_resets += 1
        self.actions = []
        return np.zeros((8, 12, 3), np.uint8), {"health": 100.0}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        self.is_thinking.set()
        assert self.gate.wait(60)
        self.is_thinking.clear()
        if self.fails:
            raise RuntimeError("the model broke")
        self.actions.append(int(action))
        frame = np.full((8, 12, 3), len(self.actions) % 256, np.uint8)
        return frame, 1.0, len(self.actions) >= self.length, False, {"health": 20.0}

    def close(self) -> None:
        self.is_closed = True


def key(name: str, *, down: bool = True) -> None:
    kind = pygame.KEYDOWN if down else pygame.KEYUP
    pygame.event.post(pygame.event.Event(kind, key=pygame.key.key_code(name)))


def until(condition: Callable[[], Any]) -> None:
    """Wait for something that must happen; a minute is for a very busy machine."""
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.005)


def act_out(
    script: Callable[[Window, GatedWorld], None],
    world: GatedWorld,
    *,
    starts_at_once: bool = True,
    is_kept: bool = False,
) -> Window:
    """Run a window in this thread while `script` sits at the keyboard in another."""
    window = Window(
        lambda tell: Pilot(world, seed=0),
        title="toy",
        names=("dream", "real game"),
        pane=128,
        fps=None,
        stop=threading.Event(),
        instead="take a walk",
        starts_at_once=starts_at_once,
        is_kept=is_kept,
    )
    failures: list[BaseException] = []

    def person() -> None:
        try:
            until(lambda: window.worker.shown is not None and window.view is not None)
            script(window, world)
        except BaseException as failure:
            failures.append(failure)
        finally:
            world.gate.set()
            if not window.worker.is_done:
                pygame.event.post(pygame.event.Event(pygame.QUIT))

    thread = threading.Thread(target=person)
    thread.start()
    try:
        window.run()
    finally:
        thread.join()
        assert world.is_closed
        assert not [t for t in threading.enumerate() if t.name == "world"]
    if failures:
        raise failures[0]
    return window


def test_a_wait_is_explained_until_it_is_over() -> None:
    """Compiling takes longer than other notes are shown."""
    gate, views = threading.Event(), []

    def open_slowly(tell: Callable[[str], None]) -> Pilot:
        tell("compiling once, about 8 s")
        assert gate.wait(60)
        return Pilot(GatedWorld(), seed=0)

    window = Window(
        open_slowly,
        title="toy",
        names=("dream", "real game"),
        pane=256,
        fps=None,
        stop=threading.Event(),
        instead="take a walk",
        starts_at_once=True,
    )

    def person() -> None:
        until(lambda: window.view is not None and window.view.note is not None)
        window._note_ends_s = 0.0  # long ago
        tick = window.num_ticks
        until(lambda: window.num_ticks > tick + 5)
        views.append(window.view)
        gate.set()
        until(lambda: window.view is not None and window.view.shown is not None)
        until(lambda: window.view is not None and window.view.note is None)
        pygame.event.post(pygame.event.Event(pygame.QUIT))

    thread = threading.Thread(target=person)
    thread.start()
    window.run()
    thread.join()
    assert views[0].shown is None
    assert views[0].note == "compiling once, about 8 s"


def test_the_window_lives_while_the_model_thinks() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        world.gate.clear()
        until(world.is_thinking.is_set)
        ticks_before, steps_before = window.num_ticks, len(world.actions)
        key("h")
        key("up")
        until(lambda: window.view is not None and window.view.help_lines)
        until(lambda: window.num_ticks > ticks_before + 20)
        key("h")
        until(lambda: window.view is not None and not window.view.help_lines)
        key("up", down=False)  # a tap within one long step still steers the next
        ticks_now = window.num_ticks
        until(lambda: window.num_ticks > ticks_now + 2)
        assert world.is_thinking.is_set()
        assert len(world.actions) == steps_before
        world.gate.set()
        until(lambda: len(world.actions) > steps_before + 3)
        assert world.actions[steps_before + 1 : steps_before + 3] == [3, 0]

    act_out(script, GatedWorld())


def test_the_game_waits_behind_the_card_and_the_help() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        def stays(steps: int) -> bool:
            """Whether no step is taken for a while."""
            ticks = window.num_ticks
            until(lambda: window.num_ticks > ticks + 30)
            return len(world.actions) == steps

        until(lambda: window.view and window.view.card)
        assert window.view is not None
        assert ("up / w", "forward") in window.view.card
        assert stays(0)
        key("up")
        until(lambda: not (window.view and window.view.card))
        until(lambda: len(world.actions) > 2)
        assert 3 in world.actions  # it already steers
        key("h")
        until(lambda: window.view and window.view.help_lines)
        time.sleep(0.05)  # a step that was under way may end
        assert stays(len(world.actions))
        assert not window.worker.paused
        before = len(world.actions)
        key("escape")
        until(lambda: len(world.actions) > before)

    act_out(script, GatedWorld(), starts_at_once=False)


def test_a_recorded_walk_is_quit_at_once() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        until(lambda: len(world.actions) > 2)
        key("q")
        until(lambda: window.worker.is_done)

    act_out(script, GatedWorld(), is_kept=True)


def test_a_gamepad_steers_and_gives_commands() -> None:
    def post(kind: int, **what: Any) -> None:
        pygame.event.post(pygame.event.Event(kind, what))

    def script(window: Window, world: GatedWorld) -> None:
        until(lambda: window.view and window.view.card)
        post(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_A)
        until(lambda: not (window.view and window.view.card))
        post(pygame.CONTROLLERAXISMOTION, axis=pygame.CONTROLLER_AXIS_LEFTY, value=-32768)
        until(lambda: 3 in world.actions)
        post(pygame.CONTROLLERAXISMOTION, axis=pygame.CONTROLLER_AXIS_LEFTY, value=900)
        post(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_DPAD_RIGHT)
        until(lambda: world.actions[-1:] == [2])
        post(pygame.CONTROLLERBUTTONUP, button=pygame.CONTROLLER_BUTTON_DPAD_RIGHT)
        until(lambda: world.actions[-1:] == [0])
        post(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_START)
        until(lambda: window.worker.paused)

    act_out(script, GatedWorld(), starts_at_once=False)


@pytest.mark.parametrize(
    ("name", "stick", "buttons"),
    [
        ("dream-doom", "left right up", []),
        (
            "dream-battle2",
            "left right up down",
            ["strafe right", "strafe left", "attack", "sprint"],
        ),
        ("dream-pushing", "left right up down", ["up", "down", "close"]),
    ],
)
def test_what_stick_and_buttons_do(name: str, stick: str, buttons: list[str]) -> None:
    checkpoint = load_checkpoint(name)
    spec, own = checkpoint.model.config.actions, checkpoint.world.controls
    controls = Controls.from_json(own, spec) if own else default_controls(spec)
    layout = layout_of(controls)
    assert layout.stick == {direction: direction for direction in stick.split()}
    assert [what for _, what in layout.buttons] == buttons


def test_the_picture_fills_a_window_of_any_size() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        for size in ((700, 500), (330, 900), (1200, 400)):
            pygame.event.post(pygame.event.Event(pygame.USEREVENT, size=size))
            until(lambda size=size: window.view and window.view.size <= size)
            wanted = min(size[0], size[1] - STATUS_HEIGHT)
            until(lambda wanted=wanted: window.view and window.view.pane == wanted)
        key("z")
        until(lambda: window.view and window.view.is_sharp)

    handle = Window._handle

    def resizing(window: Window, event: pygame.event.Event) -> None:
        if event.type == pygame.USEREVENT:  # as a person who drags the window's corner
            pygame.display.set_mode(event.size, pygame.RESIZABLE)
        handle(window, event)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Window, "_handle", resizing)
        act_out(script, GatedWorld())


def test_keys_steer_pause_step_and_restart() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        worker = window.worker
        key("left")
        until(lambda: 1 in world.actions)
        key("left", down=False)
        key("space")
        until(lambda: worker.paused and window.view is not None and window.view.paused)
        until(lambda: worker.shown and worker.shown.moment.step_number == len(world.actions))
        time.sleep(0.05)  # a step that was under way may end
        before = len(world.actions)
        key("d")
        for taken in (1, 2):
            key(".")
            until(lambda taken=taken: len(world.actions) == before + taken)
        key("d", down=False)
        assert world.actions[before:] == [2, 2]
        assert worker.paused
        key("r")
        until(lambda: world.num_resets == 2)
        key("n")
        until(lambda: world.num_resets == 3)
        assert worker.pilot is not None
        until(lambda: worker.pilot and worker.pilot.seed == 1)
        key("p")
        until(lambda: len(world.actions) > 2)
        fps = worker.fps
        key("+")
        until(lambda: worker.fps > fps)
        key("-")
        until(lambda: worker.fps == pytest.approx(fps))
        key("m")
        until(lambda: window.view and window.view.note and "--policy" in window.view.note)
        key("tab")
        until(lambda: window.view and window.view.note and "real game" in window.view.note)
        key("escape")
        until(lambda: window.view and window.view.note and "press q again" in window.view.note)
        key("q")
        until(lambda: worker.is_done)

    act_out(script, GatedWorld())


def mouse(kind: int, **what: Any) -> None:
    pygame.event.post(pygame.event.Event(kind, what))


def test_a_click_catches_the_mouse_and_escape_lets_it_go() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        def hint() -> str:
            return window.view.hint if window.view else ""

        def after_now() -> list[int]:
            """The actions after the step under way."""
            before = len(world.actions)
            until(lambda: len(world.actions) > before + 2)
            return world.actions[before + 1 :]

        until(lambda: hint() == "click  mouse      h  keys")
        mouse(pygame.MOUSEMOTION, rel=(200, 0), pos=(9, 9), buttons=(0, 0, 0))
        assert not any(after_now())  # not caught yet
        mouse(pygame.MOUSEBUTTONDOWN, button=1, pos=(9, 9))
        mouse(pygame.MOUSEBUTTONUP, button=1, pos=(9, 9))
        until(lambda: hint() == "escape  free the mouse")
        assert pygame.mouse.get_relative_mode()
        assert not any(after_now())  # the click that caught it is no action
        world.gate.clear()
        until(world.is_thinking.is_set)
        before = len(world.actions)
        for right in (120, 80):
            mouse(pygame.MOUSEMOTION, rel=(right, 0), pos=(9, 9), buttons=(0, 0, 0))
        mouse(pygame.MOUSEBUTTONDOWN, button=5, pos=(9, 9))  # the wheel
        ticks = window.num_ticks
        until(lambda: window.num_ticks > ticks + 2)
        world.gate.set()
        until(lambda: len(world.actions) > before + 2)
        assert world.actions[before + 1 : before + 3] == [2, 0]
        mouse(pygame.MOUSEBUTTONDOWN, button=1, pos=(9, 9))
        until(lambda: 3 in world.actions)
        mouse(pygame.MOUSEBUTTONUP, button=1, pos=(9, 9))
        key("space")
        until(lambda: 1 in world.actions)  # it steers here
        assert not window.worker.paused
        key("escape")
        until(lambda: hint() == "click  mouse      h  keys")
        assert not pygame.mouse.get_relative_mode()
        mouse(pygame.MOUSEBUTTONDOWN, button=1, pos=(9, 9))
        until(lambda: window.mouse.is_caught)
        pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
        until(lambda: not window.mouse.is_caught)
        key("escape")
        key("escape")
        until(lambda: window.worker.is_done)

    world = GatedWorld()
    world.controls = {
        "idle": 0,
        "keys": [
            {"keys": ["mouse 1"], "sets": {"0": 3}},
            {"keys": ["space"], "sets": {"0": 1}},
        ],
        "mouse": {"x": {"component": 0, "per_pixel": 0.01}},
    }
    act_out(script, world)


def test_an_end_is_shown_until_a_restart() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        until(lambda: window.view and window.view.shown and window.view.shown.is_over)
        assert len(world.actions) == 5
        key("r")
        until(lambda: world.num_resets == 2)
        until(lambda: window.view and window.view.shown and window.view.shown.is_over)

    world = GatedWorld()
    world.length = 5
    act_out(script, world)


def test_an_error_in_the_world_comes_out() -> None:
    def script(window: Window, world: GatedWorld) -> None:
        world.fails = True
        until(lambda: window.worker.is_done)

    with pytest.raises(RuntimeError, match="the model broke"):
        act_out(script, GatedWorld())


def test_the_picture_shows_the_frame_and_the_keys() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[:, :, 0] = 200
    moment = Moment(
        frame=frame,
        action=3,
        reward=1.0,
        info={"health": 80.0},
        terminated=False,
        truncated=False,
        total_reward=5.0,
        step_number=7,
        mark="",
        seed=0,
        steered_by="person",
        start=None,
        real=None,
    )
    view = View(
        shown=Shown(moment, is_over=False, steps_per_s=8.7, frames_agree=None),
        pane=320,
        title="toy",
        names=("dream", "real game"),
        action="forward",
        policy_steers=False,
        paused=False,
        fps=8.75,
        note=None,
        waking_dots=0,
        hint="h  keys",
        shows_map=False,
        is_sharp=False,
        card=(),
        help_lines=(),
    )
    pygame.font.init()
    try:
        screen = pygame.Surface(view.size)
        Painter().draw(screen, view)
        assert screen.get_at((160, 160))[:3] == (200, 0, 0)
        rows = [pygame.surfarray.array3d(screen)[:, -30:]]  # with the health
        for others in ({"ammo": 9}, {"ammo": 9, "name that has no room": 3.0, "kind": "x"}):
            seen = replace(moment, info={"health": 80.0, **others})
            shown = Shown(seen, is_over=False, steps_per_s=8.7, frames_agree=None)
            Painter().draw(screen, replace(view, shown=shown))
            rows.append(pygame.surfarray.array3d(screen)[:, -30:])
        assert (rows[1] != rows[0]).any()
        np.testing.assert_array_equal(rows[2], rows[1])
        for num_lines in (5, 40):
            lines = tuple((f"key {number}", "does this") for number in range(num_lines))
            Painter().draw(screen, replace(view, help_lines=lines))
            assert screen.get_at((4, 4))[0] < 80
        # A long note is broken into lines: its box stays off the sides.
        with_note = replace(view, note="the real game failed: " + "why " * 40)
        Painter().draw(screen, with_note)
        assert screen.get_at((160, 288))[0] != 200
        assert all(screen.get_at((x, 288))[:3] == (200, 0, 0) for x in (2, 317))
    finally:
        pygame.quit()


@pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs Xvfb and xdotool"
)
@pytest.mark.parametrize("world", ["doom-hgs", "robot-pushing"])
def test_a_real_window_plays_and_closes(world: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            display = ":" + pipe.readline().strip()
        env = {**os.environ, "DISPLAY": display}
        del env["SDL_VIDEODRIVER"]
        film = tmp_path / "walk.mp4"
        playing = subprocess.Popen(
            [sys.executable, "-m", "play", "--env", world, "--record", str(film)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            until(lambda: film.exists() or playing.poll() is not None)
            # Again and again: the world may not be there yet.
            pointing = "mousemove 640 400 keydown Up click 1 sleep 0.2 mousemove_relative 20 0"
            for _ in range(20):
                subprocess.run(["xdotool", *pointing.split(), "sleep", "0.1"], env=env, check=True)
            # Until it hears us: the window may have just opened.
            while playing.poll() is None:
                subprocess.run(["xdotool", "key", "q"], env=env, check=True)
                time.sleep(0.2)
            output = playing.communicate()[0]
        finally:
            playing.kill()
            playing.wait()
    finally:
        screen.terminate()
        screen.wait()
    assert playing.returncode == 0, output
    assert "first frame after" in output
    assert film.exists()
    actions = read_session(film.with_suffix(".json")).episodes[0].actions
    if world == "robot-pushing":
        right, away = np.asarray(actions)[:, :2].max(0)
        assert right > 0  # by the mouse
        assert away == 1
    else:
        assert MEANINGS.index("forward") in actions
