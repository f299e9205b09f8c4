"""How well a policy plays, beside a random one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from collect.recorder import POLICY, RANDOM, Behaviour, Job, Workers
from worldmodel import randomness
from worldmodel.command import say
from worldmodel.data import DatasetInfo, Episode

ENOUGH_GAMES = 10  # for an interval
WHOLE_GAME = 10**6  # steps; the project's own environments have timeouts


@dataclass(frozen=True)
class Measure:
    """A number of a whole game.

    Attributes:
        of: the number, of an episode of what the description says.
        is_main: a policy's is given as so many times a random one's.
    """

    of: Callable[[Episode, DatasetInfo], float]
    is_main: bool = False


def score_behaviours(
    workers: Workers,
    measures: dict[str, Measure],
    info: DatasetInfo,
    *,
    behaviours: Sequence[Behaviour],
    num_episodes: int,
    longest_game: int = WHOLE_GAME,
    seed: int,
    on_episode: Callable[[], None],
) -> dict[str, dict[str, Any]]:
    """How well each of the behaviours plays whole games.

    Args:
        longest_game: steps after which a game is cut off.
        on_episode: called after each game.

    Returns:
        By behaviour: `num_episodes`, those with a measure that is not finite left out, and of each
        measure `mean_NAME` and `mean_NAME_ci95`, half
        the width of the 95 % confidence interval of the mean.
    """
    jobs = [
        Job(
            i,
            # Apart from the games recorded under the same seed.
            randomness.integer(seed, "scored environment", i),
            randomness.integer(seed, "scored player", i),
            behaviour,
            longest_game,
        )
        for behaviour in behaviours
        for i in range(num_episodes)
    ]
    values = {behaviour.name: {name: [] for name in measures} for behaviour in behaviours}
    num_odd = 0
    for episode in workers.play(jobs):
        numbers = {name: float(measure.of(episode, info)) for name, measure in measures.items()}
        if all(map(math.isfinite, numbers.values())):
            for name, number in numbers.items():
                values[episode.policy][name].append(number)
        else:
            num_odd += 1
        on_episode()
    if num_odd:
        say(f"note: {num_odd} of {len(jobs)} games have a measure that is not finite: left out")
    scores: dict[str, dict[str, Any]] = {}
    for behaviour, of_behaviour in values.items():
        num_games = min(map(len, of_behaviour.values()))
        scores[behaviour] = {"num_episodes": num_games}
        for name, numbers_of_games in of_behaviour.items():
            if not numbers_of_games:
                continue
            scores[behaviour][f"mean_{name}"] = float(np.mean(numbers_of_games))
            if num_games >= ENOUGH_GAMES:
                scores[behaviour][f"mean_{name}_ci95"] = _ci95(numbers_of_games)
    return scores


def print_scores(
    scores: dict[str, dict[str, Any]], measures: dict[str, Measure], console: Console
) -> None:
    """A table of what `score_behaviours` gives."""
    table = Table("who plays", "games", *measures)
    for behaviour, score in scores.items():
        is_enough = score["num_episodes"] >= ENOUGH_GAMES
        numbers = [
            "not measured"
            if f"mean_{n}" not in score
            else f"{score[f'mean_{n}']:.4g}"
            + (f" ± {score[f'mean_{n}_ci95']:.2g}" if is_enough else "")
            for n in measures
        ]
        table.add_row(behaviour, str(score["num_episodes"]), *numbers)
    console.print(table)
    if min(score["num_episodes"] for score in scores.values()) < ENOUGH_GAMES:
        console.print(f"Fewer than {ENOUGH_GAMES} games are too few for an interval.")
    for name, measure in measures.items():
        means = [scores.get(who.name, {}).get(f"mean_{name}") for who in (POLICY, RANDOM)]
        if measure.is_main and None not in means:
            policy, random = means
            ratio = policy / random if random else float("inf")
            console.print(f"The policy: {ratio:.2f} times as many {name} as random (± is 95 %).")


def _ci95(values: list[float]) -> float:
    """Half the width of the mean's 95 % confidence interval, by the normal approximation."""
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
