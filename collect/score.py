"""Score a policy on complete games, next to a random player."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from collect.recorder import POLICY, RANDOM, Behaviour, Job, Players
from worldmodel import randomness
from worldmodel.command import say
from worldmodel.data import DatasetInfo, Episode

ENOUGH_GAMES = 10  # for an interval
WHOLE_GAME = 10**6  # steps; the project's own environments have timeouts


@dataclass(frozen=True)
class Measure:
    """A number of a complete game.

    Attributes:
        of: computes it from an episode and the data set's description.
        is_main: whether the policy's mean is also printed as a multiple of the random player's.
    """

    of: Callable[[Episode, DatasetInfo], float]
    is_main: bool = False


def score_behaviours(
    workers: Players,
    measures: dict[str, Measure],
    info: DatasetInfo,
    *,
    behaviours: Sequence[Behaviour],
    num_episodes: int,
    longest_game: int = WHOLE_GAME,
    seed: int,
    on_episode: Callable[[], None],
) -> dict[str, dict[str, Any]]:
    """Play complete games with each of the behaviours and average the measures.

    Args:
        longest_game: steps after which a game is cut off.
        on_episode: called after each game.

    Returns:
        By behaviour: `num_episodes` (games with a measure that is not finite are left out), and for
        each measure `mean_NAME` and `mean_NAME_ci95`, half the width of the 95 % confidence
        interval of the mean.
    """
    jobs = [
        Job(
            i,
            # Other seeds than the games recorded under the same seed.
            randomness.integer(seed, "scored environment", i),
            randomness.integer(seed, "scored player", i),
            behaviour,
            longest_game,
        )
        for behaviour in behaviours
        for i in range(num_episodes)
    ]
    games: dict[str, list[list[float]]] = {behaviour.name: [] for behaviour in behaviours}
    for episode in workers.run(jobs):
        numbers = [float(measure.of(episode, info)) for measure in measures.values()]
        if all(map(math.isfinite, numbers)):
            games[episode.policy].append(numbers)
        on_episode()
    scores: dict[str, dict[str, Any]] = {}
    for behaviour, rows in games.items():
        scores[behaviour] = {"num_episodes": len(rows)}
        for name, values in zip(measures, zip(*rows, strict=True), strict=bool(rows)):
            scores[behaviour][f"mean_{name}"] = float(np.mean(values))
            if len(rows) >= ENOUGH_GAMES:
                # By the normal approximation.
                half_width = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
                scores[behaviour][f"mean_{name}_ci95"] = half_width
    if num_odd := len(jobs) - sum(map(len, games.values())):
        say(f"note: {num_odd} of {len(jobs)} games have a measure that is not finite: left out")
    return scores


def print_scores(
    scores: dict[str, dict[str, Any]], measures: dict[str, Measure], console: Console
) -> None:
    """Print the scores of `score_behaviours` as a table."""
    table = Table("who plays", "games", *measures)
    for behaviour, score in scores.items():
        cells = []
        for name in measures:
            mean, ci95 = score.get(f"mean_{name}"), score.get(f"mean_{name}_ci95")
            interval = "" if ci95 is None else f" ± {ci95:.2g}"
            cells.append("not measured" if mean is None else f"{mean:.4g}{interval}")
        table.add_row(behaviour, str(score["num_episodes"]), *cells)
    console.print(table)
    if min(score["num_episodes"] for score in scores.values()) < ENOUGH_GAMES:
        console.print(f"Fewer than {ENOUGH_GAMES} games are too few for an interval.")
    for name, measure in measures.items():
        means = [scores.get(who.name, {}).get(f"mean_{name}") for who in (POLICY, RANDOM)]
        if measure.is_main and None not in means:
            policy, random = means
            ratio = policy / random if random else float("inf")
            console.print(f"The policy: {ratio:.2f} times as many {name} as random (± is 95 %).")
