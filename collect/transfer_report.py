"""The report of a transfer: a table, curves over training, and the ranking of policies."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel import randomness
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.statistics import Interval, interval, rank_correlation
from worldmodel.storage.files import write_json, written_whole
from worldmodel.storage.provenance import git_commit, machine

NUM_DRAWS = 1000  # of the bootstrap
COLORS = {"random": "tab:gray", "real": "tab:blue", "dream": "tab:orange"}
NAMES = {  # in figures, by where a policy learned
    "random": "random player",
    "real": "learned in the real game",
    "dream": "learned in the dream",
}


@dataclass(frozen=True)
class Arm:
    """One training, or the random player.

    Attributes:
        where: the policy learned; "random": nowhere.
        seed: of the training.
        horizon, temperature: of the dream that it learned in; a temperature of None is the
            checkpoint's own.
        starts: "own", "resets", or a folder; `starts_name` represents it in names.
    """

    where: Literal["real", "dream", "random"]
    seed: int
    horizon: int = 0
    temperature: float | None = None
    starts: str = ""
    starts_name: str = ""

    @property
    def kind(self) -> str:
        """Common to all seeds of a setting; the beginning of the folder's name."""
        if self.where != "dream":
            return self.where
        temperature = "-own" if self.temperature is None else f"{self.temperature:g}"
        return f"dream-horizon{self.horizon}-temperature{temperature}-{self.starts_name}"

    @property
    def name(self) -> str:
        return f"{self.kind}-seed{self.seed}"


@dataclass(frozen=True)
class Scored:
    """A policy after a number of steps, and its returns.

    Attributes:
        in_real, in_dream: (games,), the environment's own return of each game.
    """

    arm: Arm
    steps: int
    in_real: np.ndarray
    in_dream: np.ndarray

    @property
    def worlds(self) -> tuple[np.ndarray, np.ndarray]:
        """The returns in the real game, and in the dream."""
        return self.in_real, self.in_dream


def write_report(out: Path, options: Any, env_id: str, scored: Sequence[Scored]) -> Path:
    """Write report.md, report.json, curves.png and ranking.png.

    Returns:
        The path of report.md.
    """
    finals = [s for s in scored if s.steps in (0, options.steps)]
    of_kind: dict[str, list[Scored]] = {}
    for s in finals:
        of_kind.setdefault(s.arm.kind, []).append(s)
    report = {
        "options": {name: str(value) for name, value in asdict(options).items()},
        "real": env_id,
        "commit": git_commit(),
        "machine": machine(),
        "summary": {kind: _summary(of_kind, kind) for kind in of_kind},
        "ranking": _ranking(scored),
        "scored": [
            {
                "policy": s.arm.name,
                "steps": s.steps,
                "in_real": s.in_real.tolist(),
                "in_dream": s.in_dream.tolist(),
            }
            for s in scored
        ],
    }
    write_json(out / "report.json", report)
    figure = Figure(figsize=(8, 5), layout="constrained")
    _draw_curves(figure.subplots(), scored, env_id)
    figure.savefig(out / "curves.png", dpi=120)
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    _draw_ranking(figure.subplots(), scored, env_id)
    figure.savefig(out / "ranking.png", dpi=120)
    path = out / "report.md"
    with written_whole(path) as unfinished:
        unfinished.write_text(_markdown(report, options))
    return path


def _summary(of_kind: dict[str, list[Scored]], kind: str) -> dict[str, Any]:
    scored = of_kind[kind]
    in_real, in_dream = map(np.concatenate, zip(*(s.worlds for s in scored), strict=True))
    rng = randomness.generator(0, "transfer: summary draws")
    real_draws, dream_draws = _draws(scored, rng)
    summary: dict[str, Any] = {
        "seeds": len(scored),
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
    """A ratio with its interval; None where the denominator may be 0."""
    if lower == 0 or (np.sign(lower_draws) != np.sign(lower)).any():
        return None
    return interval(upper / lower, upper_draws / lower_draws)


def _draws(scored: Sequence[Scored], rng: np.random.Generator) -> np.ndarray:
    """Bootstrap of the mean scores in the real game and in the dream, (2, NUM_DRAWS).

    Resamples trainings, the same for both worlds, and then games of each. With a single training,
    the interval covers games alone.
    """
    means = np.zeros((2, NUM_DRAWS))
    for draw in range(NUM_DRAWS):
        chosen = [scored[i] for i in rng.integers(len(scored), size=len(scored))]
        for world in range(2):
            games = [s.worlds[world] for s in chosen]
            means[world, draw] = np.mean([rng.choice(of, len(of)).mean() for of in games])
    return means


def _ranking(scored: Sequence[Scored]) -> dict[str, Any]:
    """Spearman's correlation of the policies' scores in the dream and in the real game.

    Its interval resamples complete trainings, because a policy's snapshots resemble it, and the
    games of each policy.
    """
    in_real, in_dream = zip(*((s.in_real.mean(), s.in_dream.mean()) for s in scored), strict=True)
    trainings = [list(of_one) for _, of_one in groupby(scored, key=lambda s: s.arm)]
    rng = randomness.generator(0, "transfer: ranking draws")
    draws = []
    for _ in range(NUM_DRAWS):
        drawn = rng.integers(len(trainings), size=len(trainings))
        chosen = [policy for i in drawn for policy in trainings[i]]
        again = (
            [rng.choice(s.worlds[world], len(s.in_real)).mean() for s in chosen]
            for world in range(2)
        )
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
        "bootstrap intervals over seeds, where there are several, and games. Scores in the dream "
        "are at the checkpoint's own temperature and guidance, from first frames of real games.",
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
        "(the random player counts as one), including snapshots during training: rank correlation "
        f"of dream and real scores {_cell(ranking['rank_correlation'])}.",
        "",
        "![Scores over training](curves.png)",
        "",
        "![Scores in the dream and in the real game](ranking.png)",
        "",
        f"Commit {(report['commit'] or 'unknown')[:12]}, {report['machine']['cpu']}.",
        "",
    ]
    return "\n".join(lines)


def _cell(value: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]"


def _draw_curves(axes: Axes, scored: Sequence[Scored], env_id: str) -> None:
    """Scores over training, one line per seed, solid in the real game, dashed in the dream."""
    kinds = {s.arm.kind: s.arm.where for s in scored}
    is_swept = list(kinds.values()).count("dream") > 1  # then kinds distinguish the dreams
    for k, (kind, where) in enumerate(kinds.items()):
        of_kind = [s for s in scored if s.arm.kind == kind]
        name, color = NAMES[where], COLORS[where]
        if where == "dream" and is_swept:
            name, color = kind, f"C{1 + k}"
        for world, (place, line_style, fill) in enumerate(
            (("real game", "-", color), ("dream", "--", "white"))
        ):
            style: dict[str, Any] = {"color": color, "linestyle": line_style}
            label: str | None = f"{name}, in the {place}"
            if where == "random":
                axes.axhline(of_kind[0].worlds[world].mean(), label=label, **style)
                continue
            for seed in dict.fromkeys(s.arm.seed for s in of_kind):
                line = sorted((s for s in of_kind if s.arm.seed == seed), key=lambda s: s.steps)
                steps, means = [s.steps for s in line], [s.worlds[world].mean() for s in line]
                style |= {"marker": "o", "markerfacecolor": fill, "alpha": 0.8}
                axes.plot(steps, means, label=label, **style)
                label = None
    axes.set(xlabel="steps of PPO", ylabel="return", title=f"{env_id}: one line per seed")
    axes.legend(fontsize="x-small")


def _draw_ranking(axes: Axes, scored: Sequence[Scored], env_id: str) -> None:
    last = {s.arm.name: max(o.steps for o in scored if o.arm == s.arm) for s in scored}
    for where, color in COLORS.items():
        chosen = sorted((s for s in scored if s.arm.where == where), key=lambda s: -s.steps)
        for s in chosen:
            real, dream = (
                Bootstrap(np.arange(len(games)), seed=0).mean(games) for games in s.worlds
            )
            axes.errorbar(
                real.value,
                dream.value,
                xerr=_error_bar(real),
                yerr=_error_bar(dream),
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
        title=f"{env_id}; hollow: during training",
    )
    axes.legend(fontsize="small")


def _error_bar(of: Interval) -> list[list[float]]:
    """Lengths below and above; rounding may put the value just outside its interval."""
    return [[max(0.0, of.value - of.low)], [max(0.0, of.high - of.value)]]
