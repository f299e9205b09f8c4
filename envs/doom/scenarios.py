"""What can be played in ViZDoom: the levels, what a player can do there, and what is logged."""

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
    """One thing that a player decides at every step.

    Attributes:
        name: of what is decided.
        choices: name, which says it alone -> value of each button, in the order of the scenario's
            buttons.
    """

    name: str
    choices: dict[str, Buttons]


@dataclass(frozen=True)
class Scenario:
    """A level, what a player can do in it, and what is logged.

    Attributes:
        load: gives a game that has not begun its level, its buttons and its rules.
        factors: what a player decides; the buttons of all choices are added up.
        variables: name -> how to read it from a running game, as a float.
        controls: keys and mouse for a person, as `play` takes them; empty: by the choices' names.
        idle_tics: let pass before the first frame.
        has_senses: whether what is on the screen can be asked for by name (`DoomEnv.senses`).
    """

    load: Callable[[DoomGame], None]
    factors: tuple[Factor, ...]
    variables: dict[str, Callable[[DoomGame], float]]
    controls: dict[str, Any]
    idle_tics: int = 0
    has_senses: bool = False


def _health(game: DoomGame) -> float:
    """Health in [0, 100]; the engine may report less than zero at death."""
    return max(0.0, game.get_game_variable(GameVariable.HEALTH))


def _pickups(game: DoomGame) -> float:
    """Medikits taken minus poisons taken so far.

    The scenario's script keeps the score as a 16.16 fixed-point number, 100 an item. Unlike
    the change of health it counts medikits taken at full health.
    """
    return game.get_game_variable(GameVariable.USER1) / 65536 / 100


def _load_health_gathering_supreme(game: DoomGame) -> None:
    game.load_config(str(Path(vizdoom.scenarios_path) / "health_gathering_supreme.cfg"))


_HEALTH_GATHERING_SUPREME = Scenario(
    load=_load_health_gathering_supreme,
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
_TURNS = range(
    -10, 11, 2
)  # degrees a tic, to the right: 11, as in VideoGPT Table 9's 315 = 15 x 21


def _press(*buttons: Button, turn: float = 0) -> Buttons:
    pressed = [float(button in buttons) for button in _BATTLE2_BUTTONS]
    pressed[-1] = turn
    return tuple(pressed)


def _turn_name(degrees: int) -> str:
    side = "right" if degrees > 0 else "left"
    return f"turn {side} {abs(degrees)}" if degrees else "look ahead"


def _load_battle2(game: DoomGame) -> None:
    """As Dosovitskiy and Koltun (2017) play it, "D4": a kill is a point, 2100 tics at most."""
    game.set_doom_scenario_path(str(battle2_wad()))
    game.set_doom_map("map01")
    game.set_doom_skill(2)
    game.set_episode_timeout(2100)
    game.set_available_buttons(list(_BATTLE2_BUTTONS))
    # The engine goes on with the weapon's swing from one game to the next.
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
    # In a game's first picture moving walls stand as they did at the end of the game before. After
    # these tics the weapon is up, too.
    idle_tics=20,
    has_senses=True,
)


def _load_take_cover(game: DoomGame) -> None:
    """As in World Models (Ha and Schmidhuber 2018): a tic alive is a point, 2100 tics at most."""
    game.load_config(str(Path(vizdoom.scenarios_path) / "take_cover.cfg"))
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
