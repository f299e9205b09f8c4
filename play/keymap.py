"""What the person's keys and mouse mean in one world: actions, commands, and the help text.

Keys go by pygame's names for them ("left", "a", "space"), so nothing here needs a window.
"""

from collections.abc import Sequence

from play.actions import Action, Actions, Number
from play.commands import COMMAND_KEYS, Command, CommandKey, command_of
from play.controls import Binding, Controls


class KeyMap:
    """Keys and mouse to actions, and actions to words.

    Args:
        actions: that there are.
        controls: that fit them.

    Attributes:
        idle_action: what is done without a key.
        uses_mouse: whether the mouse's motion steers.
    """

    def __init__(self, actions: Actions, controls: Controls) -> None:
        self.idle_action: Action = actions.of(controls.idle)
        self._actions, self._controls = actions, controls
        self._axes = (controls.mouse_x, controls.mouse_y)
        self.uses_mouse = any(self._axes)
        self._keys = {key for binding in controls.bindings for key in binding.keys}
        self._names: dict[tuple[int, Number], str] = {
            (0, action): name for action, name in enumerate(actions.meanings)
        }
        for binding in controls.bindings:
            if binding.name and len(binding.sets) == 1:
                self._names.setdefault(binding.sets[0], binding.name)

    def resolve(self, keys: Sequence[str], motion: tuple[int, int] = (0, 0)) -> Action:
        """The action for the keys that are down, oldest first, and the mouse's motion.

        Args:
            motion: pixels to the right and down since the last step.
        """
        pressed_at = {key: number for number, key in enumerate(keys)}
        values = list(self._controls.idle)
        best: dict[int, tuple[int, list[int]]] = {}
        for binding in self._controls.bindings:
            if not pressed_at.keys() >= set(binding.keys):
                continue
            latest_first = sorted((pressed_at[key] for key in binding.keys), reverse=True)
            weight = (binding.rank, latest_first)
            for component, value in binding.sets:
                if weight >= best.get(component, (0, [])):
                    best[component], values[component] = weight, value
        for axis, pixels in zip(self._axes, motion, strict=True):
            if axis is not None:
                component = self._actions.components[axis.component]
                moved = values[axis.component] + axis.per_pixel * pixels
                values[axis.component] = component.nearest(moved)
        return self._actions.of(tuple(values))

    def command_of(self, key: str) -> Command | None:
        """The command that a key gives here, or None."""
        return None if key in self._keys else command_of(key)

    def words(self, action: Action) -> str:
        """An action as people read it: what of it isn't idle."""
        if isinstance(action, int):
            return self._value_in_words(0, action)
        parts = [
            self._value_in_words(number, value)
            for number, value in enumerate(action)
            if value != self._controls.idle[number]
        ]
        return ", ".join(parts) or "idle"

    def help_lines(self) -> list[tuple[str, str]]:
        """(keys, what they do): the actions first, then every command."""
        steering: dict[str, list[str]] = {}
        for binding in self._controls.bindings:
            keys = steering.setdefault(self._binding_in_words(binding), [])
            keys.append(" + ".join(binding.keys))
        lines = [(" / ".join(keys), words) for words, keys in steering.items()]
        for axis, motion in zip(self._axes, ("left / right", "up / down"), strict=True):
            if axis is not None:
                lines.append((f"mouse {motion}", self._actions.components[axis.component].name))
        if self.uses_mouse:
            lines.append(("click", "the mouse steers, until escape"))
        return lines + [(self._shown(entry), entry.description) for entry in COMMAND_KEYS]

    def _shown(self, entry: CommandKey) -> str:
        return " / ".join(key for key in entry.shown.split(" / ") if key not in self._keys)

    def _binding_in_words(self, binding: Binding) -> str:
        return binding.name or ", ".join(self._value_in_words(*pair) for pair in binding.sets)

    def _value_in_words(self, number: int, value: Number) -> str:
        if (number, value) in self._names:
            return self._names[number, value]
        component, idle = self._actions.components[number], self._controls.idle[number]
        if not component.is_integer:
            return f"{component.name} {value:+.2f}"
        is_button = component.high - component.low == 1
        if is_button and value > idle:
            return component.name
        return f"{component.name} {value - idle:+.0f}"
