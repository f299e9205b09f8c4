"""What a transfer has shown: a table, curves over training, and the ranking of policies."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from worldmodel import randomness
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.statistics import (
    Interval,
    interval,
    rank_correlation,
)
from worldmodel.storage.files import written_whole
from worldmodel.storage.provenance import git_commit, machine

NUM_DRAWS = 1000  # of the bootstrap
COLORS = {"random": "tab:gray", "real": "tab:blue", "dream": "tab:orange"}
NAMES = {  # in pictures, by where a policy learned
    "random": "random player",
    "real": "learned in the real game",
    "dream": "learned in the dream",
}


@dataclass(frozen=True)
class Arm:
    """One training, or the random player.

    Attributes:
        where: it learned; "random": nowhere.
        seed: of the training.
        horizon, temperature: of the dream that it learned in; without a temperature it was the
            checkpoint's own.
        starts: "own", "resets", or a folder; `starts_name` stands for it in names.
    """

    where: Literal["real", "dream", "random"]
    seed: int
    horizon: int = 0
    temperature: float | None = None
    starts: str = ""
    starts_name: str = ""

    @property
    def kind(self) -> str:
        """What it has in common with its like of other seeds; also the beginning of a file name."""
        if self.where != "dream":
            return self.where
        temperature = "-own" if self.temperature is None else f"{self.temperature:g}"
        return f"dream-horizon{self.horizon}-temperature{temperature}-{self.starts_name}"

    @property
    def name(self) -> str:
        return f"{self.kind}-seed{self.seed}"


@dataclass(frozen=True)
class Scored:
    """A policy after so many steps, and what it reached.

    Attributes:
        in_real, in_dream: (games,), the environment's own return of each game.
    """

    arm: Arm
    steps: int
    in_real: np.ndarray
    in_dream: np.ndarray


def write_report(out: Path, options: Any, env_id: str, scored: Sequence[Scored]) -> Path:
    """report.md, report.json, curves.png and ranking.png.

    Returns:
        The path of report.md.
    """
    finals = [s for s in scored if s.steps in (0, options.steps)]
    kinds = list(dict.fromkeys(s.arm.kind for s in finals))
    of_kind = {kind: [s for s in finals if s.arm.kind == kind] for kind in kinds}
    summary = {kind: _summary(of_kind, kind) for kind in kinds}
    ranking = _ranking(scored)
    source = {
        "options": {name: str(value) for name, value in asdict(options).items()},
        "real": env_id,
        "commit": git_commit(),
        "machine": machine(),
    }
    every = [
        {
            "policy": s.arm.name,
            "steps": s.steps,
            "in_real": s.in_real.tolist(),
            "in_dream": s.in_dream.tolist(),
        }
        for s in scored
    ]
    report = {**source, "summary": summary, "ranking": ranking, "scored": every}
    with written_whole(out / "report.json") as unfinished:
        unfinished.write_text(json.dumps(report, indent=2))
    _draw_curves(out / "curves.png", scored, env_id)
    _draw_ranking(out / "ranking.png", scored, env_id)
    path = out / "report.md"
    with written_whole(path) as unfinished:
        unfinished.write_text(_markdown(report, options))
    return path


def _summary(of_kind: dict[str, list[Scored]], kind: str) -> dict[str, Any]:
    in_real, in_dream = (
        np.concatenate([getattr(s, name) for s in of_kind[kind]])
        for name in ("in_real", "in_dream")
    )
    rng = randomness.generator(0, "transfer: summary draws")
    real_draws, dream_draws = _draws(of_kind[kind], rng)
    summary: dict[str, Any] = {
        "seeds": len(of_kind[kind]),
        "games": len(in_real),
        "in_real": interval(in_real.mean(), real_draws),
        "in_dream": interval(in_dream.mean(), dream_draws),
        "dream_over_real": _ratio(in_dream.mean(), in_real.mean(), dream_draws, real_draws),
    }
    if kind not in ("random", "real"):
        random_draws, _ = _draws(of_kind["random"], rng)
        trained_draws, _ = _draws(of_kind["real"], rng)
        random = of_kind["random"][0].in_real.mean()
        trained = np.mean([s.in_real.mean() for s in of_kind["real"]])
        summary["transfer"] = _ratio(
            in_real.mean() - random,
            trained - random,
            real_draws - random_draws,
            trained_draws - random_draws,
        )
    return summary


def _ratio(
    upper: float, lower: float, upper_draws: np.ndarray, lower_draws: np.ndarray
) -> Interval | None:
    """A ratio with its interval; None where what is divided by may be 0."""
    if lower == 0 or (np.sign(lower_draws) != np.sign(lower)).any():
        return None
    return interval(upper / lower, upper_draws / lower_draws)


def _draws(scored: Sequence[Scored], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap of the mean scores in the real game and in the dream, (draws,) each.

    Trainings are drawn again, the same for both, then games of each. A single training says
    nothing of others: the interval is then over games alone.
    """
    means = np.zeros((NUM_DRAWS, 2))
    for draw in range(NUM_DRAWS):
        chosen = [scored[i] for i in rng.integers(len(scored), size=len(scored))]
        games = [[s.in_real for s in chosen], [s.in_dream for s in chosen]]
        means[draw] = [
            np.mean([rng.choice(of_one, len(of_one)).mean() for of_one in of_world])
            for of_world in games
        ]
    return means[:, 0], means[:, 1]


def _ranking(scored: Sequence[Scored]) -> dict[str, Any]:
    """Whether policies that are better in the dream are better outside: Spearman's correlation.

    Its interval draws whole trainings again, for what a policy was on the way resembles it, and
    the games of each policy.
    """
    in_real, in_dream = ([getattr(s, n).mean() for s in scored] for n in ("in_real", "in_dream"))
    trainings = [
        [s for s in scored if s.arm == arm] for arm in dict.fromkeys(s.arm for s in scored)
    ]
    rng = randomness.generator(0, "transfer: ranking draws")
    draws = []
    for _ in range(NUM_DRAWS):
        drawn = rng.integers(len(trainings), size=len(trainings))
        chosen = [policy for i in drawn for policy in trainings[i]]
        again = [
            [rng.choice(getattr(s, name), len(s.in_real)).mean() for s in chosen]
            for name in ("in_real", "in_dream")
        ]
        draws.append(rank_correlation(*again))
    value, finite = rank_correlation(in_real, in_dream), np.asarray(draws)[np.isfinite(draws)]
    return {
        "num_policies": len(scored),
        "num_trainings": len(trainings),
        "rank_correlation": interval(value, finite) if np.isfinite(value) else None,
    }


def _markdown(report: dict[str, Any], options: Any) -> str:
    lines = [
        f"# {options.dream} and {report['real']}",
        "",
        f"PPO for {options.steps:,} steps; returns by the environment's own rewards; 95 % "
        "intervals by drawing seeds, where there are several, and games again. Score in the dream: "
        "at the checkpoint's own temperature and guidance, from first frames of real games.",
        "",
        "| who | seeds | games | score in the real game | score in the dream | dream over real | "
        "(score - random) / (real-trained - random) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, row in report["summary"].items():
        cells = [_cell(row[name]) for name in ("in_real", "in_dream", "dream_over_real")]
        transfer = _cell(row["transfer"]) if "transfer" in row else "-"
        lines.append(
            f"| {kind} | {row['seeds']} | {row['games']} | {' | '.join(cells)} | {transfer} |"
        )
    ranking = report["ranking"]
    lines += [
        "",
        f"Ranking of {ranking['num_policies']} policies of {ranking['num_trainings']} trainings "
        "(the random player is one), those on the way among them: rank correlation "
        f"of dream and real scores {_cell(ranking['rank_correlation'])}.",
        "",
        "![Scores over training](curves.png)",
        "",
        "![Scores in the dream and outside](ranking.png)",
        "",
        f"Commit {(report['commit'] or 'unknown')[:12]}, {report['machine']['cpu']}.",
        "",
    ]
    return "\n".join(lines)


def _cell(value: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]"


def _draw_curves(path: Path, scored: Sequence[Scored], env_id: str) -> None:
    """Scores over training, a line for each seed, solid in the real game, dashed in the dream."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    kinds = {s.arm.kind: s.arm.where for s in scored}
    is_swept = list(kinds.values()).count("dream") > 1  # then settings tell dreams apart
    for k, (kind, where) in enumerate(kinds.items()):
        of_kind = [s for s in scored if s.arm.kind == kind]
        name, color = NAMES[where], COLORS[where]
        if where == "dream" and is_swept:
            name, color = kind, f"C{1 + k}"
        for world, style in (("in_real", "-"), ("in_dream", "--")):
            label: str | None = f"{name}, in the {'real game' if world == 'in_real' else 'dream'}"
            if where == "random":
                mean = getattr(of_kind[0], world).mean()
                axes.axhline(mean, color=color, linestyle=style, label=label)
                continue
            for seed in dict.fromkeys(s.arm.seed for s in of_kind):
                line = sorted((s for s in of_kind if s.arm.seed == seed), key=lambda s: s.steps)
                means = [getattr(s, world).mean() for s in line]
                filled = color if world == "in_real" else "white"
                axes.plot(
                    [s.steps for s in line],
                    means,
                    style,
                    marker="o",
                    markerfacecolor=filled,
                    color=color,
                    alpha=0.8,
                    label=label,
                )
                label = None
    axes.set(xlabel="steps of PPO", ylabel="return", title=f"{env_id}: a line for each seed")
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


def _lengths(of: Interval) -> list[list[float]]:
    """Of error bars; none is negative where all games gave the same, up to its last bit."""
    return [[max(0.0, of.value - of.low)], [max(0.0, of.high - of.value)]]


def _draw_ranking(path: Path, scored: Sequence[Scored], env_id: str) -> None:
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    last = {s.arm.name: max(o.steps for o in scored if o.arm == s.arm) for s in scored}
    for where, color in COLORS.items():
        chosen = sorted((s for s in scored if s.arm.where == where), key=lambda s: -s.steps)
        for s in chosen:
            real, dream = (
                Bootstrap(np.arange(len(games)), seed=0).mean(games)
                for games in (s.in_real, s.in_dream)
            )
            axes.errorbar(
                real.value,
                dream.value,
                xerr=_lengths(real),
                yerr=_lengths(dream),
                fmt="o",
                color=color,
                markerfacecolor=color if s.steps == last[s.arm.name] else "white",
                alpha=0.7,
                label=NAMES[where] if s is chosen[0] else None,
            )
    ends = (*axes.get_xlim(), *axes.get_ylim())
    low, high = min(ends), max(ends)
    axes.plot([low, high], [low, high], color="black", linewidth=0.5)
    axes.set(
        xlabel="return in the real game",
        ylabel="return in the dream",
        title=f"{env_id}; hollow: on the way",
    )
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
