"""The part "outcomes": rewards, ends and game variables, at the next step and along dreams.

An event is a step with another reward than the commonest one; there are none where no reward is
common.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import ClipSampler
from worldmodel.evaluation import plots
from worldmodel.evaluation.dreaming import dream_on
from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut
from worldmodel.evaluation.horizon import steps_ahead
from worldmodel.evaluation.predicting import predict_outcomes, shown
from worldmodel.evaluation.report import Headline, Picture, Section
from worldmodel.evaluation.tables import Blocks, Table, interval, number, row, steps_table
from worldmodel.metrics.bootstrap import Bootstrap, at_steps
from worldmodel.metrics.statistics import (
    Calibration,
    Interval,
    Number,
    brier,
    calibration,
    calibration_error,
)

OPTIONS = DREAM_OPTIONS
MAX_EPISODES = 256
MAX_STEPS = 256  # the last of an episode: attention over a longer one takes memory
MAX_ENDING_CLIPS = 128
RARE_BINS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # ends and events are rare
SIGNS = {"rises": 1, "falls": -1}
BySteps = dict[int, Interval]


@dataclass(frozen=True)
class Chances:
    """How well predicted chances agree with what happened."""

    count: int
    """How often it happened."""
    auroc: Interval
    brier: float
    brier_of_the_rate: float
    """Of always predicting the mean rate."""
    calibration_error: Number
    calibration: list[Calibration]
    """Bins of predictions."""


@dataclass(frozen=True)
class Change:
    """Rises or falls of a variable at the next step; rates a step."""

    count: int
    recorded: Interval
    predicted: Interval
    auroc: Interval


@dataclass(frozen=True)
class NextStep:
    """Test episodes (the last MAX_STEPS steps of longer ones), each step given the real past."""

    num_steps: int
    reward_mae: float
    reward_mae_of_the_mean: float
    """Of always predicting the mean reward."""
    reward_mae_unless_ended: Number
    ends: Chances
    events: Chances | None
    changes: dict[str, dict[str, Change]]
    """By variable, then "rises" or "falls"."""


@dataclass(frozen=True)
class VariableError:
    """Mean absolute, by steps ahead."""

    dreamed: BySteps
    kept: BySteps
    """Of keeping the last given value."""


@dataclass(frozen=True)
class DreamedChange:
    """Rates a step, in the clips and in dreams of them."""

    recorded: Interval
    dreamed: Interval


@dataclass(frozen=True)
class Order:
    """Whether dreams hold a thing likelier at the steps where real episodes brought it."""

    num_steps: int
    count: int
    auroc: Interval


@dataclass(frozen=True)
class Along:
    """Dreams under the recorded actions."""

    reward_mae: BySteps
    variable_mae: dict[str, VariableError]
    changes: dict[str, dict[str, DreamedChange]]
    ends: Order
    events: Order | None


@dataclass(frozen=True)
class Outcomes:
    common_reward: float | None
    next_step: NextStep
    dreamed: Along


def measure(held_out: HeldOut, out: Path) -> Outcomes:
    next_step, dreamed = _next_step(held_out), _along(held_out)
    drawn = {"ends": next_step.ends, "events": next_step.events}
    _draw(out / "calibration.png", {k: of.calibration for k, of in drawn.items() if of})
    return Outcomes(held_out.common_reward, next_step, dreamed)


def _next_step(held_out: HeldOut) -> NextStep:
    model, reader, common = held_out.model, held_out.reader, held_out.common_reward
    seed = held_out.settings.seed
    rng = randomness.generator(seed, "outcome episodes")
    found: dict[str, list[np.ndarray]] = {}  # by name, arrays (steps, ...) of each episode
    for i in track(rng.permutation(reader.split("test"))[:MAX_EPISODES].tolist(), "outcomes"):
        first = max(0, int(reader.index["episode_length"][i]) - MAX_STEPS)
        steps = {name: array[first:] for name, array in reader.steps(i).items()}
        codes = model.encode(torch.from_numpy(reader.frames(i, first)).to(held_out.device))
        told = (steps[name][None] for name in ("action", "variables", "pose"))
        predicted = predict_outcomes(model, shown(model, codes[None], *told), common_reward=common)
        for name, array in {
            "episode": np.full(len(steps["reward"]), i),
            "happened_reward": steps["reward"],
            "ended": steps["terminated"],
            "change": np.diff(steps["variables"], axis=0),
            **{name: array[0] for name, array in vars(predicted).items()},
        }.items():
            found.setdefault(name, []).append(array)
    of = {name: np.concatenate(arrays) for name, arrays in found.items()}
    boot, reward, ended = Bootstrap(of["episode"], seed), of["happened_reward"], of["ended"]
    missed = np.abs(of["reward"] - reward)

    def change(happened: np.ndarray, chances: np.ndarray) -> Change:
        return Change(
            count=int(happened.sum()),
            recorded=boot.mean(happened.astype(np.float64)),
            predicted=boot.mean(chances),
            auroc=boot.auroc(chances, happened),
        )

    return NextStep(
        num_steps=len(reward),
        reward_mae=float(missed.mean()),
        reward_mae_of_the_mean=float(np.abs(reward.mean() - reward).mean()),
        reward_mae_unless_ended=float(missed[~ended].mean()),
        ends=_chances(of["end_chance"], ended, boot),
        events=None if common is None else _chances(of["event_chance"], reward != common, boot),
        changes={
            name: {
                "rises": change(of["change"][:, v] > 0, of["rise_chance"][:, v]),
                "falls": change(of["change"][:, v] < 0, of["fall_chance"][:, v]),
            }
            for v, name in enumerate(model.config.variable_names)
        },
    )


def _chances(chances: np.ndarray, happened: np.ndarray, boot: Bootstrap) -> Chances:
    """Of chances (n,) and what happened, bool (n,)."""
    bins = calibration(chances, happened, RARE_BINS)
    return Chances(
        count=int(happened.sum()),
        auroc=boot.auroc(chances, happened),
        brier=brier(chances, happened),
        brier_of_the_rate=brier(np.full(len(happened), happened.mean()), happened),
        calibration_error=calibration_error(bins),
        calibration=bins,
    )


def _along(held_out: HeldOut) -> Along:
    given, dreams, boot = held_out.num_given, held_out.dreams, held_out.bootstrap
    variables = held_out.clips.variables[:, given - 1 :]
    reward, common = held_out.clips.reward[:, held_out.future], held_out.common_reward
    chosen = steps_ahead(held_out.settings.horizon)
    missed = np.abs(dreams.variables - variables[:, 1:])
    kept = np.abs(variables[:, :1] - variables[:, 1:])
    recorded = np.diff(variables, axis=1)
    dreamed = np.diff(np.concatenate([variables[:, :1], dreams.variables], 1), axis=1)
    errors, changes, events = {}, {}, None
    for v, name in enumerate(held_out.model.config.variable_names):
        errors[name] = VariableError(
            *(at_steps(boot.mean, of[..., v], steps=chosen) for of in (missed, kept))
        )
        changes[name] = {
            kind: DreamedChange(
                *(boot.mean((sign * of[..., v] > 0).mean(1)) for of in (recorded, dreamed))
            )
            for kind, sign in SIGNS.items()
        }
    if common is not None:
        predicted = held_out.predict_outcomes("events along dreams", dreamed=True)
        events = _order(predicted.event_chance[:, held_out.future], reward != common, boot)
    return Along(
        reward_mae=at_steps(boot.mean, np.abs(dreams.reward - reward), steps=chosen),
        variable_mae=errors,
        changes=changes,
        ends=_dreamed_ends(held_out),
        events=events,
    )


def _dreamed_ends(held_out: HeldOut) -> Order:
    """Of the clips, and of windows whose last step ends a real episode. These hold more ends than
    the data do, so only their order counts."""
    settings, given, reader = held_out.settings, held_out.num_given, held_out.reader
    sampler = ClipSampler(reader, "test", given + settings.horizon, memory_limit_bytes=0)
    ending = [
        (int(i), int(reader.index["episode_length"][i]) + 1 - sampler.num_frames)
        for i in sampler.episodes
        if reader.steps(int(i))["terminated"][-1]
    ][:MAX_ENDING_CLIPS]
    chances = [held_out.dreams.end_probability]
    happened = [held_out.clips.terminated[:, held_out.future]]
    episodes = [held_out.episodes]
    begins = range(0, len(ending), settings.batch_size)
    for b, begin in enumerate(track(begins, "dreaming up to ends")):
        rows = np.asarray(ending[begin : begin + settings.batch_size])
        clips = sampler.read(rows)
        dreamed = dream_on(
            held_out.model,
            clips,
            given,
            clips.action[:, held_out.future],
            rng=randomness.generator(settings.seed, "dreams up to ends", b),
            sampling=settings.sampling,
        )
        chances.append(dreamed.end_probability)
        happened.append(clips.terminated[:, held_out.future])
        episodes.append(rows[:, 0])
    boot = Bootstrap(np.concatenate(episodes), settings.seed)
    return _order(np.concatenate(chances), np.concatenate(happened), boot)


def _order(chances: np.ndarray, happened: np.ndarray, boot: Bootstrap) -> Order:
    """Of chances (clips, steps), steps pooled."""
    return Order(happened.size, int(happened.sum()), boot.auroc(chances, happened))


def _draw(path: Path, bins_of: dict[str, list[Calibration]]) -> None:
    figure = Figure(figsize=(4.5 * len(bins_of), 4.5), layout="constrained")
    panels = figure.subplots(1, len(bins_of), squeeze=False)[0]
    for axes, (what, bins) in zip(panels, bins_of.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.plot([b.mean_probability for b in bins], [b.share_happened for b in bins], "o-")
        for b in bins:
            axes.annotate(f"{b.count}", (b.mean_probability, b.share_happened), fontsize="x-small")
        axes.set(
            xlabel="predicted probability",
            ylabel="share of steps where it happened",
            title=f"{what} (numbers: steps in a bin)",
        )
    plots.save(figure, path)


def blocks(n: Outcomes) -> Blocks:
    step, dreamed = n.next_step, n.dreamed
    errors = steps_table("mean absolute error after dreamed steps", {"reward": dreamed.reward_mae})
    for name, of in dreamed.variable_mae.items():
        errors.rows.append(row(name, of.dreamed))
        errors.rows.append(row(f"{name}, kept as given", of.kept))
    header = ["given the real past", "how many", "AUROC", "calibration error", "Brier score"]
    event = "No reward is common enough here to call others events."
    if n.common_reward is not None:
        event = f"Event: a step with another reward than the commonest one, {n.common_reward:g}."
    return [
        errors,
        f"Given the real past ({step.num_steps} steps) the reward's error is "
        f"{number(step.reward_mae, 3)} (always the mean: {number(step.reward_mae_of_the_mean, 3)}"
        ").",
        Table(
            [*header, "always the rate", "AUROC along dreams", "how many there"],
            [
                _cells("ends", step.ends, dreamed.ends),
                _cells("events", step.events, dreamed.events),
            ],
        ),
        f"{event} Along dreams: the predicted chance at the step where the real episode brought "
        f"one, dreamed under the recorded actions ({dreamed.ends.num_steps} steps; for ends, with "
        "windows that end real episodes, so only the order counts).",
        *_changes(step, dreamed),
    ]


def _cells(kind: str, of: Chances | None, dreamed: Order | None) -> list[str]:
    if of is None or dreamed is None:
        return [kind, *["-"] * 7]
    return [
        kind,
        str(of.count),
        interval(of.auroc, 3),
        number(of.calibration_error, 4),
        number(of.brier, 5),
        number(of.brier_of_the_rate, 5),
        interval(dreamed.auroc, 3),
        str(dreamed.count),
    ]


def _changes(step: NextStep, dreamed: Along) -> Blocks:
    if not step.changes:
        return []

    def times(rate: Interval) -> str:
        ends = 100 * rate.value, 100 * rate.low, 100 * rate.high
        return interval(Interval(*ends, rate.num_groups))

    rows = []
    for name, kinds in step.changes.items():
        for kind, of in kinds.items():
            along = dreamed.changes[name][kind]
            predicted = [times(of.recorded), times(of.predicted), interval(of.auroc, 3)]
            rows.append([f"{name} {kind}", *predicted, times(along.recorded), times(along.dreamed)])
    header = ["in 100 steps", "recorded", "predicted from the real past", "AUROC"]
    return [
        Table([*header, "in the clips", "in dreams of them"], rows),
        "Dreams use the recorded actions: what a player seeks or avoids happens less reliably "
        "there than in the clips.",
    ]


def headlines(n: Outcomes) -> list[Headline]:
    step = n.next_step
    return [
        Headline(
            f"AUROC of {kind}, next step",
            interval(of.auroc, 3),
            f"{of.count} in {step.num_steps} steps",
        )
        for kind, of in (("ends", step.ends), ("events", step.events))
        if of is not None and of.count
    ]


SECTION = Section(
    blocks,
    "Rewards, ends and game variables. AUROC is the chance that a step that brings one was "
    "predicted to be likelier than one that doesn't: 0.5 is a coin. In the plot, points on the "
    "grey line are well calibrated.",
    (Picture("calibration.png", "What was predicted, and what happened"),),
    headlines,
    Outcomes,
)
