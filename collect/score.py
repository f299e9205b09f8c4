"""How well a policy plays, beside a random one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from collect.recorder import POLICY, UNIFORM, Behaviour, Job, Workers, random_seeds
from worldmodel.data import Episode

WHOLE_GAME = 10**6  # steps; every scenario has a timeout of its own
# Keeps the games scored apart from those recorded under the same seed.
_SCORE_KEY = 0x5C03E


@dataclass(frozen=True)
class Score:
    """Means over whole games, with half the width of their 95 % confidence intervals.

    Attributes:
        mean_tics: engine ticks until the end, counted in whole steps.
        mean_medikits: medikits taken.
        survived: share of games that reached the timeout.
    """

    num_episodes: int
    mean_tics: float
    mean_tics_ci95: float
    mean_medikits: float
    mean_medikits_ci95: float
    survived: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score_behaviours(
    workers: Workers,
    *,
    with_policy: bool,
    num_episodes: int,
    seed: int,
    frame_skip: int,
    pickups_at: int,
    on_episode: Callable[[], None],
) -> dict[str, Score]:
    """Scores of the policy (when there is one) and of uniformly random actions.

    Args:
        frame_skip: engine ticks a step.
        pickups_at: which variable counts medikits minus poisons.
        on_episode: called after each game.
    """
    behaviours: tuple[Behaviour, ...] = (POLICY, UNIFORM) if with_policy else (UNIFORM,)
    jobs = [
        Job(i, *random_seeds(seed, i, _SCORE_KEY), behaviour, WHOLE_GAME)
        for behaviour in behaviours
        for i in range(num_episodes)
    ]
    tics: dict[str, list[float]] = {behaviour.name: [] for behaviour in behaviours}
    medikits: dict[str, list[float]] = {behaviour.name: [] for behaviour in behaviours}
    survived = dict.fromkeys(tics, 0)
    for episode in workers.play(jobs):
        tics[episode.policy].append(episode.length * frame_skip)
        medikits[episode.policy].append(_medikits(episode, pickups_at))
        survived[episode.policy] += bool(episode.truncated[-1])
        on_episode()
    return {
        name: Score(
            num_episodes=num_episodes,
            mean_tics=float(np.mean(tics[name])),
            mean_tics_ci95=_ci95(tics[name]),
            mean_medikits=float(np.mean(medikits[name])),
            mean_medikits_ci95=_ci95(medikits[name]),
            survived=survived[name] / num_episodes,
        )
        for name in tics
    }


def print_scores(scores: dict[str, dict[str, Any]], console: Console) -> None:
    """A table of scores as `Score.to_json` gives them."""
    table = Table("policy", "games", "tics", "medikits", "reached the timeout")
    for name, score in scores.items():
        table.add_row(
            name,
            str(score["num_episodes"]),
            f"{score['mean_tics']:.0f} ± {score['mean_tics_ci95']:.0f}",
            f"{score['mean_medikits']:.1f} ± {score['mean_medikits_ci95']:.1f}",
            f"{score['survived']:.0%}",
        )
    console.print(table)
    if POLICY.name in scores:
        ratio = scores[POLICY.name]["mean_tics"] / scores[UNIFORM.name]["mean_tics"]
        console.print(f"The policy lives {ratio:.2f} times as long as random (± is 95 %).")


def _medikits(episode: Episode, pickups_at: int) -> float:
    gained = np.diff(episode.variables[:, pickups_at])
    return float(gained[gained > 0].sum())


def _ci95(values: list[float]) -> float:
    """Half the width of the mean's 95 % confidence interval, by the normal approximation."""
    if len(values) < 2:
        return 0.0
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
