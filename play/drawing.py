"""Draw the window's content, a `View`, on a pygame surface."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pygame

from play.map import draw_map
from play.worker import Shown
from worldmodel.errors import printable
from worldmodel.interface.actions import MOST_SHOWN

BACKGROUND = (15, 17, 21)
PANEL = (24, 27, 34)
LINE = (44, 49, 60)
TEXT = (222, 226, 233)
DIM = (132, 141, 156)
ACCENT = (126, 200, 190)
WARM = (240, 180, 90)
HEALTHY, HURT = (120, 190, 110), (215, 85, 75)
STATUS_HEIGHT = 90
ROWS = (12, 38, 64)  # of the status bar, in pixels from its top
MARGIN = 14
GAP = 8
MAP_FRACTION = 4  # the map's side is the pane's divided by this


@dataclass(frozen=True)
class View:
    """The content of the screen; equal views look the same.

    Attributes:
        shown: None while the world is loading.
        pane: side of the square for a frame, in pixels.
        title: what is played.
        names: titles of the panes of the world and the real game.
        action: the last action, in words.
        waking_dots: number of dots of the loading text.
        hint: the most important keys.
        shows_map: whether to show the map, if there is one.
        is_sharp: whether pixels are shown as squares.
        card: (keys, what they do), on the card that waits for a key; empty when it isn't shown.
        help_lines: (keys, what they do); empty when hidden.
    """

    shown: Shown | None
    pane: int
    title: str
    names: tuple[str, str]
    action: str
    policy_steers: bool
    paused: bool
    fps: float
    note: str | None
    waking_dots: int
    hint: str
    shows_map: bool
    is_sharp: bool
    card: tuple[tuple[str, str], ...]
    help_lines: tuple[tuple[str, str], ...]

    @property
    def num_panes(self) -> int:
        return 2 if self.shown is not None and self.shown.moment.real else 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height that it takes, in pixels."""
        width = self.num_panes * self.pane + (self.num_panes - 1) * GAP
        return width, self.pane + STATUS_HEIGHT


def pane_in(window: tuple[int, int], num_panes: int) -> int:
    """The largest pane for which a window of this width and height has room."""
    width = (window[0] - (num_panes - 1) * GAP) // num_panes
    return max(1, min(width, window[1] - STATUS_HEIGHT))


class Painter:
    """Draws views; holds the fonts."""

    def __init__(self) -> None:
        # pygame's own font is the same on every machine.
        self._tiny = pygame.font.Font(None, 16)
        self._small = pygame.font.Font(None, 20)
        self._text = pygame.font.Font(None, 24)
        self._large = pygame.font.Font(None, 40)

    def draw(self, screen: pygame.Surface, view: View) -> None:
        """Draw a view in the middle of a surface, which is at least of `view.size`."""
        screen.fill(BACKGROUND)
        area = pygame.Rect((0, 0), view.size).clip(screen.get_rect())
        area.center = screen.get_rect().center
        screen = screen.subsurface(area)
        whole = pygame.Rect(0, 0, screen.get_width(), view.pane)
        if view.shown is None:
            dots = "." * view.waking_dots
            left = whole.centerx - self._large.size("waking up...")[0] // 2
            self._write(screen, "waking up" + dots, (left, whole.centery - 24), self._large, TEXT)
            self._write(screen, view.title, whole.move(0, 28).center, self._text, DIM, "center")
        else:
            self._draw_panes(screen, view, view.shown)
            self._draw_status(screen, view, view.shown)
        if view.card:
            self._draw_card(screen, view)
        elif view.help_lines:
            self._draw_lines(screen, pygame.Rect(0, 0, *whole.size), view.help_lines)
        elif view.note:
            self._pill(screen, view.note, whole.centerx, whole.bottom - 32)

    def _draw_panes(self, screen: pygame.Surface, view: View, shown: Shown) -> None:
        moment = shown.moment
        pane = pygame.Rect(0, 0, view.pane, view.pane)
        _blit_frame(screen, moment.frame, pane, sharp=view.is_sharp)
        if moment.real is not None:
            beside = pane.move(view.pane + GAP, 0)
            _blit_frame(screen, moment.real.frame, beside, sharp=view.is_sharp)
            common = [name for name in moment.real.info if name in moment.info]  # no pose
            real_facts = _facts({name: moment.real.info[name] for name in common})
            real_facts = "over: r restarts both" if moment.real.is_over else real_facts
            dream_facts = _facts({name: moment.info[name] for name in common})
            self._pill(screen, f"{view.names[0]}   {dream_facts}", pane.centerx, 22)
            self._pill(screen, f"{view.names[1]}   {real_facts}", beside.centerx, 22)
        if view.shows_map and moment.map is not None:
            side = max(view.pane // MAP_FRACTION, 1)
            inset = pygame.Rect(pane.right - side - GAP, GAP, side, side)
            _blit_frame(screen, draw_map(moment.map, side), inset)
        if shown.is_over:
            self._draw_end(screen, shown, pane)

    def _draw_end(self, screen: pygame.Surface, shown: Shown, pane: pygame.Rect) -> None:
        _shade(screen, pane, 215)
        moment = shown.moment
        if shown.frames_agree is not None:
            agree = "the same" if shown.frames_agree else "not the same"
            title, hint = "the replay is over", f"its frames are {agree}    q quits"
        else:
            health = _numbers(moment.info).get("health")
            ended = "you died: no health is left" if health == 0 else "this episode is over"
            title = ended if moment.terminated else "time is over"
            hint = "r  restart from the same moment      n  another start"
        for text, y, font, color in (
            (title, -26, self._large, TEXT),
            (f"return {moment.total_reward:,.1f}", 8, self._text, WARM),
            (hint, 40, self._text, TEXT),
        ):
            self._write(screen, text, pane.move(0, y).center, font, color, "center")

    def _draw_status(self, screen: pygame.Surface, view: View, shown: Shown) -> None:
        bar = pygame.Rect(0, view.pane, screen.get_width(), STATUS_HEIGHT)
        pygame.draw.rect(screen, PANEL, bar)
        pygame.draw.line(screen, LINE, bar.topleft, bar.topright)
        top, middle, bottom = (bar.top + row for row in ROWS)
        right = bar.right - MARGIN
        at = (right, top + 2)
        left = self._write(screen, view.hint, at, self._small, DIM, "topright").left
        if view.paused and not shown.is_over:
            at = (left - 16, top)
            left = self._write(screen, "paused", at, self._text, WARM, "topright").left
        self._draw_action(screen, view, shown, top, room=left - 2 * MARGIN)
        self._draw_counts(screen, view, shown, middle)
        self._draw_variables(screen, shown.moment.info, bottom, room=right)

    def _draw_action(
        self, screen: pygame.Surface, view: View, shown: Shown, y: int, *, room: int
    ) -> None:
        steerer = "policy" if view.policy_steers else ""
        if shown.moment.steered_by == "replay":
            steerer = "replay"
        action = self._shortened(view.action, room - self._small.size(steerer)[0] - 8)
        x = self._write(screen, action, (MARGIN, y), self._text, ACCENT).right
        self._write(screen, steerer, (x + 8, y + 2), self._small, WARM)

    def _draw_counts(self, screen: pygame.Surface, view: View, shown: Shown, y: int) -> None:
        moment = shown.moment
        reward = "-" if moment.action is None else f"{moment.reward:+.1f}"
        is_idle = view.paused or shown.steps_per_s is None
        rate = "-" if is_idle else f"{shown.steps_per_s:.1f}"
        self._field(screen, MARGIN, y, "reward", reward)
        self._field(screen, 126, y, "return", f"{moment.total_reward:,.1f}")
        self._field(screen, 250, y, "step", f"{moment.step_number:,}")
        self._field(screen, 350, y, "steps/s", f"{rate} of {view.fps:.3g}")

    def _draw_variables(
        self, screen: pygame.Surface, info: dict[str, object], y: int, *, room: int
    ) -> None:
        """Draw the health as a bar, then as many other variables as fit."""
        numbers = _numbers(info)
        x = MARGIN
        if (health := numbers.pop("health", None)) is not None:
            x = self._draw_health(screen, health, x, y) + 22
        for name, value in numbers.items():
            shown, width = _in_digits(value), self._small.size(name)[0] + 6
            # At a minimal width, so that a growing number doesn't move the others.
            width += max(self._text.size(shown)[0], self._text.size("0.00")[0]) + 16
            if x + width > room:
                break
            self._field(screen, x, y, name, shown)
            x += width

    def _draw_health(self, screen: pygame.Surface, health: float, x: int, y: int) -> int:
        """Draw the health bar; returns its right end, with room for the largest number."""
        x = self._write(screen, "health", (x, y + 2), self._small, DIM).right + 6
        fraction = min(max(health / 100, 0.0), 1.0)
        trough = pygame.Rect(x, y + 2, 60, 11)
        pygame.draw.rect(screen, LINE, trough, border_radius=5)
        if fraction > 0:
            full = pygame.Rect(
                trough.topleft, (max(8, round(trough.width * fraction)), trough.height)
            )
            pygame.draw.rect(screen, HEALTHY if fraction > 0.3 else HURT, full, border_radius=5)
        self._write(screen, f"{health:.0f}", (trough.right + 7, y), self._small, TEXT)
        return trough.right + 7 + self._small.size("100")[0]

    def _draw_card(self, screen: pygame.Surface, view: View) -> None:
        """What this is, the keys, and that it waits for one."""
        pane = pygame.Rect(0, 0, screen.get_width(), view.pane)
        middle = pane.inflate(0, -pane.height // 2)
        self._draw_lines(screen, middle, view.card, shaded=pane)
        top, bottom = pane.height // 8, pane.bottom - pane.height // 8
        self._write(screen, view.title, (pane.centerx, top), self._large, TEXT, "center")
        self._write(screen, "press a key", (pane.centerx, bottom), self._large, WARM, "center")

    def _draw_lines(
        self,
        screen: pygame.Surface,
        pane: pygame.Rect,
        lines: tuple[tuple[str, str], ...],
        *,
        shaded: pygame.Rect | None = None,
    ) -> None:
        """Keys and what they do, in the middle of a pane."""
        _shade(screen, shaded or pane, 215)
        # The largest font that fits; two columns for a long list.
        for font, num_columns in (
            (self._text, 1),
            (self._small, 1),
            (self._tiny, 1),
            (self._tiny, 2),
        ):
            num_rows = -(-len(lines) // num_columns)
            columns = [lines[i : i + num_rows] for i in range(0, len(lines), num_rows)]
            widths = [_column_width(column, font) for column in columns]
            room = pane.width - sum(map(sum, widths))
            if room >= 0 and num_rows * font.get_linesize() <= pane.height:
                break
        spacing = min(28, pane.height // (num_rows + 2))
        x = max(room, 0) // 2
        for column, (keys_width, words_width) in zip(columns, widths, strict=True):
            x += keys_width
            for row, (keys, description) in enumerate(column):
                y = pane.centery + spacing * row - spacing * num_rows // 2
                self._write(screen, keys, (x - GAP, y), font, ACCENT, "topright")
                self._write(screen, description, (x + GAP, y), font, TEXT)
            x += words_width

    def _field(self, screen: pygame.Surface, x: int, y: int, name: str, value: str) -> None:
        x = self._write(screen, name, (x, y + 2), self._small, DIM).right
        self._write(screen, value, (x + 6, y), self._text, TEXT)

    def _pill(self, screen: pygame.Surface, text: str, x: int, y: int) -> None:
        room = max(screen.get_width() - 40, 1)  # longer text wraps
        label = self._small.render(text, True, TEXT, wraplength=room)
        box = label.get_rect(center=(x, y))
        _shade(screen, box.inflate(20, 10), 190, radius=10)
        screen.blit(label, box)

    def _shortened(self, text: str, room: int) -> str:
        """The text, truncated to a width in pixels."""
        if self._text.size(text)[0] <= room:
            return text
        while text and self._text.size(text + "...")[0] > room:
            text = text[:-1]
        return text + "..."

    def _write(
        self,
        screen: pygame.Surface,
        text: str,
        at: tuple[int, int],
        font: pygame.font.Font,
        color: tuple[int, int, int],
        anchor: str = "topleft",
    ) -> pygame.Rect:
        """Write text with its `anchor` (of pygame.Rect) at a point, and return its rectangle."""
        label = font.render(text, True, color)
        box = label.get_rect(**{anchor: at})
        screen.blit(label, box)
        return box


def _column_width(lines: Sequence[tuple[str, str]], font: pygame.font.Font) -> tuple[int, int]:
    """Widths of the keys and the descriptions of a column of the help, with gaps."""
    keys, words = (max(font.size(line[i])[0] for line in lines) for i in (0, 1))
    return keys + 2 * GAP, words + 2 * GAP


def _blit_frame(
    screen: pygame.Surface, frame: np.ndarray, pane: pygame.Rect, *, sharp: bool = False
) -> None:
    """Show a frame, uint8 (H, W, 3), as large as fits, its pixels smoothed or as squares."""
    height, width = frame.shape[:2]
    image = pygame.image.frombuffer(np.ascontiguousarray(frame).tobytes(), (width, height), "RGB")
    scale = min(pane.width / width, pane.height / height)
    resize = pygame.transform.scale if sharp else pygame.transform.smoothscale
    scaled = resize(image, (round(width * scale), round(height * scale)))
    screen.blit(scaled, scaled.get_rect(center=pane.center))


def _shade(screen: pygame.Surface, box: pygame.Rect, alpha: int, radius: int = 0) -> None:
    veil = pygame.Surface(box.size, pygame.SRCALPHA)
    pygame.draw.rect(veil, (*BACKGROUND, alpha), veil.get_rect(), border_radius=radius)
    screen.blit(veil, box)


def _facts(info: dict[str, object]) -> str:
    return "  ".join(f"{name} {_in_digits(value)}" for name, value in _numbers(info).items())


def _numbers(info: dict[str, object]) -> dict[str, float]:
    """The game variables with printable names."""
    return {
        printable(name[:MOST_SHOWN]): float(value)
        for name, value in info.items()
        if isinstance(value, int | float | np.number) and not isinstance(value, bool)
    }


def _in_digits(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() or abs(value) >= 100 else f"{value:.2f}"
