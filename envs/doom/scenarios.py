"""The ViZDoom scenarios: their levels, actions and game variables."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vizdoom
from vizdoom import Button, DoomGame, GameVariable

from envs.doom.battle2 import battle2_wad

Buttons = tuple[float, ...]


@dataclass(frozen=True)
class Factor:
    """One component of an action.

    Attributes:
        choices: descriptive name -> value of each button, in the order of the scenario's buttons.
    """

    name: str
    choices: dict[str, Buttons]


@dataclass(frozen=True)
class Scenario:
    """A level, its actions, and its game variables.

    Attributes:
        load: sets a new game's level, buttons and rules.
        factors: of an action; the buttons of the chosen values are added up.
        variables: name -> function that reads it from a running game.
        controls: keys and mouse for `play`; empty: derived from the choices' names.
        idle_tics: to skip before the first frame.
        has_senses: whether `DoomEnv.senses` works without `labels=True`.
    """

    load: Callable[[DoomGame], None]
    factors: tuple[Factor, ...]
    variables: dict[str, Callable[[DoomGame], float]]
    controls: dict[str, Any]
    idle_tics: int = 0
    has_senses: bool = False


def _health(game: DoomGame) -> float:
    """Health in [0, 100]; the engine may report a negative value on death."""
    return max(0.0, game.get_game_variable(GameVariable.HEALTH))


def _pickups(game: DoomGame) -> float:
    """Medikits minus poison vials taken so far.

    The scenario's script stores the score as a 16.16 fixed-point number, 100 per item. Unlike
    changes of health, it counts medikits taken at full health.
    """
    return game.get_game_variable(GameVariable.USER1) / 65536 / 100


def _load_shipped(game: DoomGame, name: str) -> None:
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{name}.cfg"))


_HEALTH_GATHERING_SUPREME = Scenario(
    load=lambda game: _load_shipped(game, "health_gathering_supreme"),
    factors=(
        Factor(
            "move",
            {"noop": (0, 0, 0), "left": (1, 0, 0), "right": (0, 1, 0), "forward": (0, 0, 1)},
        ),
    ),
    variables={"health": _health, "pickups": _pickups},
    controls={},
)

_BATTLE2_BUTTONS = (
    Button.MOVE_FORWARD,
    Button.MOVE_BACKWARD,
    Button.MOVE_RIGHT,
    Button.MOVE_LEFT,
    Button.ATTACK,
    Button.SPEED,
    Button.TURN_LEFT_RIGHT_DELTA,
)
# Degrees per tic to the right; 11 values, as in VideoGPT Table 9.
_TURNS = range(-10, 11, 2)


def _press(*buttons: Button, turn: float = 0) -> Buttons:
    pressed = [float(button in buttons) for button in _BATTLE2_BUTTONS]
    pressed[-1] = turn
    return tuple(pressed)


def _turn_name(degrees: int) -> str:
    side = "right" if degrees > 0 else "left"
    return f"turn {side} {abs(degrees)}" if degrees else "look ahead"


def _load_battle2(game: DoomGame) -> None:
    """The rules of Dosovitskiy and Koltun (2017), "D4": 1 point per kill, at most 2100 tics."""
    game.set_doom_scenario_path(str(battle2_wad()))
    game.set_doom_map("map01")
    game.set_doom_skill(2)
    game.set_episode_timeout(2100)
    game.set_available_buttons(list(_BATTLE2_BUTTONS))
    # The phase of the weapon's swing carries over from one game to the next.
    game.add_game_args("+movebob 0")


_BATTLE2 = Scenario(
    load=_load_battle2,
    factors=(
        Factor(
            "walk",
            {
                "stay": _press(),
                "forward": _press(Button.MOVE_FORWARD),
                "backward": _press(Button.MOVE_BACKWARD),
            },
        ),
        Factor(
            "strafe",
            {
                "stay": _press(),
                "strafe right": _press(Button.MOVE_RIGHT),
                "strafe left": _press(Button.MOVE_LEFT),
            },
        ),
        Factor("attack", {"hold fire": _press(), "attack": _press(Button.ATTACK)}),
        Factor("sprint", {"walk": _press(), "sprint": _press(Button.SPEED)}),
        Factor("turn", {_turn_name(degrees): _press(turn=degrees) for degrees in _TURNS}),
    ),
    variables={
        "health": _health,
        "ammo": lambda game: game.get_game_variable(GameVariable.AMMO2),
        "kills": lambda game: game.get_game_variable(GameVariable.USER2),
    },
    controls={
        "idle": [0, 0, 0, 0, 5],
        "keys": [
            {"keys": [key], "sets": {component: value}, "name": name}
            for name, component, value, keys in (
                ("forward", "0", 1, ("w", "up")),
                ("backward", "0", 2, ("s", "down")),
                ("strafe right", "1", 1, ("d",)),
                ("strafe left", "1", 2, ("a",)),
                ("attack", "2", 1, ("space", "mouse 1")),
                ("sprint", "3", 1, ("left shift",)),
                ("turn left", "4", 3, ("left",)),
                ("turn right", "4", 7, ("right",)),
            )
            for key in keys
        ],
        "mouse": {"x": {"component": 4, "per_pixel": 0.025}},
    },
    # In a game's first frame, moving walls are where they were at the end of the previous game.
    # After these tics the weapon is raised, too.
    idle_tics=20,
    has_senses=True,
)


def _load_take_cover(game: DoomGame) -> None:
    """As in World Models (Ha and Schmidhuber 2018): 1 point per tic alive, at most 2100 tics."""
    _load_shipped(game, "take_cover")
    game.set_episode_timeout(2100)
    game.add_game_args("+movebob 0")  # as in Battle2


_TAKE_COVER = Scenario(
    load=_load_take_cover,
    factors=(Factor("move", {"noop": (0, 0), "left": (1, 0), "right": (0, 1)}),),
    variables={"health": _health},
    controls={},
)

SCENARIOS = {
    "health_gathering_supreme": _HEALTH_GATHERING_SUPREME,
    "battle2": _BATTLE2,
    "take_cover": _TAKE_COVER,
}
