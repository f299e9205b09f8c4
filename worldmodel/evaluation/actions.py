"""The part "actions": whether dreams follow their actions, and what actions are worth to the model.

An inverse-dynamics network, trained on recorded frames, reads actions off real frames and off
dreams. It is kept beside the report; so is a second one trained on random play alone, where actions
don't depend on what is seen, if the data have enough of it beside other play.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import ClipSampler
from worldmodel.evaluation.held_out import DREAM_OPTIONS, RANDOM_PLAYERS, HeldOut
from worldmodel.evaluation.horizon import steps_ahead
from worldmodel.evaluation.inverse_dynamics import (
    CLIP_FRAMES,
    InverseDynamics,
    inverse_dynamics_of,
)
from worldmodel.evaluation.report import Headline, Section
from worldmodel.evaluation.tables import Blocks, Table, interval, number
from worldmodel.interface.actions import ActionSpec
from worldmodel.metrics.bootstrap import Bootstrap, at_steps
from worldmodel.metrics.pictures import squared_errors
from worldmodel.metrics.statistics import Interval, Number

OPTIONS = (*DREAM_OPTIONS, "inverse_dynamics_steps")
EDGE_FRAMES = 10  # at the beginning and at the end of a dream
POLICY_CLIPS = 128  # of the test split, for accuracy by player
POLICY_FRAMES = 9  # in each
MIN_RANDOM_STEPS = 2000  # in the train split: an eighth of the pairs that a network learns from
KINDS = ("still", "real", "reconstructed", "dreamed")


@dataclass(frozen=True)
class Accuracies:
    """Of the network on each of KINDS; for a box the share of the actions' variance explained.

    `still` is the first frame of each real pair shown twice: what habits tell without motion.
    """

    still: Number
    real: Number
    reconstructed: Number
    dreamed: Number


@dataclass(frozen=True)
class OfOne(Accuracies):
    """Of one choice of a discrete action, or of one factor of others."""

    ratio: Interval
    """Dreamed over real."""
    count: int | None = None
    """How often it was chosen."""
    commonest: float | None = None
    """Accuracy of always guessing the factor's commonest choice."""


@dataclass(frozen=True)
class Judged:
    """What one network says of the clips."""

    still: Interval
    real: Interval
    reconstructed: Interval
    dreamed: Interval
    ratio: Interval
    """Dreamed over real; NaN where real frames tell the network no more than still ones, because
    then it has not learned to see what actions do."""
    each: dict[str, OfOne]


@dataclass(frozen=True)
class JudgedByRandomPlay(Judged):
    num_steps: int
    """Steps of random play in the training split."""


@dataclass(frozen=True)
class RatioOfPlayer:
    num_clips: int
    all: Interval
    each: dict[str, Interval]
    """Of each factor, where there are several."""


@dataclass(frozen=True)
class OfRandomActions:
    """Accuracy on dreams under actions that nobody chose."""

    dreamed: float
    dreamed_first: float
    dreamed_last: float


@dataclass(frozen=True)
class Shuffled:
    """What is lost with the actions of another clip."""

    nats_lost: Interval
    """A token."""
    pose_nats_lost: float | None
    """A frame, of the pose that the codes depend on."""
    db_lost: dict[int, Interval]
    """By steps ahead."""


@dataclass(frozen=True)
class Actions(Judged):
    num_clips: int
    num_pairs: int
    measure: str
    """accuracy, or R^2 for a box."""
    edge_frames: int
    first: Accuracies
    """Of the first `edge_frames` steps."""
    last: Accuracies
    real_by_policy: dict[str, float]
    """Accuracy on real frames by player: habits make actions easier to guess."""
    ratio_by_policy: dict[str, RatioOfPlayer]
    trained_on_random_play: JudgedByRandomPlay | None
    random_actions: OfRandomActions
    shuffled: Shuffled


def measure(held_out: HeldOut, out: Path) -> Actions:
    cache, steps = out / "inverse-dynamics.safetensors", held_out.settings.inverse_dynamics_steps
    network = inverse_dynamics_of(held_out.model, held_out.reader, cache, steps=steps)
    actions, seen = held_out.actions, _seen(network, held_out)
    edge = min(EDGE_FRAMES, actions.shape[1])

    def over(steps: slice) -> Accuracies:
        return Accuracies(**{name: float(of[:, steps].mean()) for name, of in seen.items()})

    return Actions(
        **vars(_judged(network.spec, held_out, seen)),
        num_clips=len(held_out),
        num_pairs=int(np.prod(actions.shape[:2])),
        measure="R^2" if network.spec.kind == "box" else "accuracy",
        edge_frames=edge,
        first=over(slice(None, edge)),
        last=over(slice(-edge, None)),
        real_by_policy=_real_by_policy(network, held_out),
        ratio_by_policy=_ratio_by_policy(network.spec, held_out, seen),
        trained_on_random_play=_judged_by_random_play(held_out, out),
        random_actions=_under_random_actions(network, held_out, edge),
        shuffled=_shuffled(held_out),
    )


def _seen(network: InverseDynamics, held_out: HeldOut) -> dict[str, np.ndarray]:
    """The network's agreement with the recorded actions, (clips, steps, factors), by KINDS."""
    actions = held_out.actions
    real = held_out.clips.frames[:, held_out.future]
    twice = np.stack([real[:, :-1]] * 2, 2)  # (clips, steps, 2, H, W, C)
    still = network.agreement(
        twice.reshape(-1, *twice.shape[2:]), actions.reshape(-1, 1, *actions.shape[2:])
    )
    return {
        "still": still.reshape(*actions.shape[:2], -1),
        "real": network.agreement(real, actions),
        "reconstructed": network.agreement(held_out.reconstructions[:, held_out.future], actions),
        "dreamed": _agreement(network, held_out, held_out.dreams.frames, actions),
    }


def _agreement(
    network: InverseDynamics, held_out: HeldOut, dreamed: np.ndarray, actions: np.ndarray
) -> np.ndarray:
    """Of dreams with their actions. The first pair begins with the reconstruction of the last given
    frame, so that both of its frames are the decoder's."""
    before = held_out.reconstructions[:, held_out.num_given - 1, None]
    return network.agreement(np.concatenate([before, dreamed], 1), actions)


def _judged(spec: ActionSpec, held_out: HeldOut, seen: dict[str, np.ndarray]) -> Judged:
    clip_means = {name: agreement.mean((1, 2)) for name, agreement in seen.items()}
    boot = held_out.bootstrap
    return Judged(
        **{name: boot.mean(values) for name, values in clip_means.items()},
        ratio=dreamed_over_real(clip_means, boot),
        each=accuracy_of_each(spec, seen, held_out.actions, boot),
    )


def dreamed_over_real(seen: dict[str, np.ndarray], boot: Bootstrap) -> Interval:
    """Of agreements (clips,) by KINDS; NaN as in `Judged`."""
    gain = boot.mean(seen["real"] - seen["still"])
    if gain.value <= 0 or gain.low <= 0:
        return Interval(math.nan, math.nan, math.nan, gain.num_groups)
    return boot.ratio(seen["dreamed"], seen["real"])


def _judged_by_random_play(held_out: HeldOut, out: Path) -> JudgedByRandomPlay | None:
    """None where there is too little random play, or no other."""
    reader = held_out.reader
    members = reader.split("train")
    lengths = reader.index["episode_length"][members]
    is_random = reader.index["policy"][members] == RANDOM_PLAYERS
    num_steps = int(lengths[is_random & (lengths >= CLIP_FRAMES - 1)].sum())
    if num_steps < MIN_RANDOM_STEPS or is_random.all():
        return None
    network = inverse_dynamics_of(
        held_out.model,
        reader,
        out / "inverse-dynamics-random.safetensors",
        steps=held_out.settings.inverse_dynamics_steps,
        player=RANDOM_PLAYERS,
    )
    judged = _judged(network.spec, held_out, _seen(network, held_out))
    return JudgedByRandomPlay(**vars(judged), num_steps=num_steps)


def accuracy_of_each(
    spec: ActionSpec, seen: dict[str, np.ndarray], actions: np.ndarray, boot: Bootstrap
) -> dict[str, OfOne]:
    """By name of each choice of a discrete action, else of each factor.

    Args:
        seen: agreement (clips, steps, factors) by KINDS.
        actions: (clips, steps, *shape).
    """

    def of(picked: np.ndarray, factor: int, **more: Any) -> OfOne:
        """Over the pairs of frames that are picked, (clips, steps) of 0 and 1."""
        sums = {name: (values[..., factor] * picked).sum(1) for name, values in seen.items()}
        return OfOne(
            **{name: float(values.sum() / picked.sum()) for name, values in sums.items()},
            ratio=boot.ratio(sums["dreamed"], sums["real"]),
            **more,
        )

    if spec.kind == "discrete":
        chosen = {choice: actions == choice for choice in np.unique(actions).tolist()}
        return {
            _name(spec, choice): of(picked.astype(float), 0, count=int(picked.sum()))
            for choice, picked in chosen.items()
        }
    each = {}
    for d in range(actions.shape[-1]):
        more = {}
        if spec.kind == "multi_discrete":
            counts = np.bincount(actions[..., d].ravel())
            more["commonest"] = float(counts.max() / counts.sum())
        each[_name(spec, d)] = of(np.ones(actions.shape[:2]), d, **more)
    return each


def _name(spec: ActionSpec, i: int) -> str:
    return spec.meanings[i] if i < len(spec.meanings) else str(i)


def _real_by_policy(network: InverseDynamics, held_out: HeldOut) -> dict[str, float]:
    names = held_out.reader.index["policy"]
    num_frames = min(POLICY_FRAMES, held_out.clips.frames.shape[1])
    sampler = ClipSampler(held_out.reader, "test", num_frames, memory_limit_bytes=0)
    rng = randomness.generator(held_out.settings.seed, "following: real clips")
    rows = sampler.draw(rng, 16 * POLICY_CLIPS)
    found = {}
    for policy in track(np.unique(names[rows[:, 0]]).tolist(), "actions by player"):
        clips = sampler.read(rows[names[rows[:, 0]] == policy][:POLICY_CLIPS])
        accuracy = network.agreement(clips.frames, clips.action).mean()
        found[policy.decode(errors="replace")] = float(accuracy)
    return found


def _ratio_by_policy(
    spec: ActionSpec, held_out: HeldOut, seen: dict[str, np.ndarray]
) -> dict[str, RatioOfPlayer]:
    found = {}
    for policy, rows in held_out.policies.items():
        boot = held_out.bootstrap.of(rows)
        means = {name: agreement[rows].mean(1) for name, agreement in seen.items()}  # (n, factors)
        dreamed, real = means["dreamed"], means["real"]
        factors = range(dreamed.shape[1]) if dreamed.shape[1] > 1 else []
        found[policy] = RatioOfPlayer(
            num_clips=len(rows),
            all=dreamed_over_real({name: mean.mean(1) for name, mean in means.items()}, boot),
            each={_name(spec, d): boot.ratio(dreamed[:, d], real[:, d]) for d in factors},
        )
    return found


def _under_random_actions(
    network: InverseDynamics, held_out: HeldOut, edge: int
) -> OfRandomActions:
    rng = randomness.generator(held_out.settings.seed, "following: random actions")
    actions = network.spec.sample(rng, held_out.actions.shape[:2])
    dreamed = held_out.dream(actions, what="dreaming under random actions")
    agreement = _agreement(network, held_out, dreamed.frames, actions)
    parts = (slice(None), slice(None, edge), slice(-edge, None))
    return OfRandomActions(*(float(agreement[:, steps].mean()) for steps in parts))


def _shuffled(held_out: HeldOut) -> Shuffled:
    other, own = (
        of.steps(held_out.future)
        for of in (held_out.predicted_with_other_actions, held_out.predicted)
    )
    poses = (other.pose_nats - own.pose_nats)[np.isfinite(other.pose_nats)]
    dreamed = held_out.dream(held_out.other_actions, what="dreaming under shuffled actions")
    errors, shuffled = (
        squared_errors(held_out.plain(of), held_out.real) for of in (held_out.dreams, dreamed)
    )
    steps = steps_ahead(held_out.settings.horizon)
    return Shuffled(
        nats_lost=held_out.bootstrap.mean((other.nats - own.nats).mean(1)),
        pose_nats_lost=float(poses.mean()) if poses.size else None,
        db_lost=at_steps(held_out.bootstrap.psnr_gain, errors, shuffled, steps=steps),
    )


def blocks(n: Actions) -> Blocks:
    def edge(which: str, of: Accuracies) -> list[str]:
        return [f"{which} {n.edge_frames} frames", *_cells(of), ""]

    rows = _rows(n)
    rows[1:1] = [edge("first", n.first), edge("last", n.last)]
    of_random = number(n.random_actions.dreamed, 3)
    rows.append(["uniformly random actions", "", "", "", of_random, ""])
    by_policy = ", ".join(f"{k} {number(v, 3)}" for k, v in n.real_by_policy.items())
    lost = ", ".join(f"{k}: {interval(v, 1)}" for k, v in n.shuffled.db_lost.items())
    poses = n.shuffled.pose_nats_lost
    given = "" if poses is None else f" (given the poses; these lose {number(poses)} nats a frame)"
    shown = [
        Table([f"inverse dynamics, {n.measure}", *KINDS, "dreamed over real"], rows),
        f"{n.num_clips} clips, {n.num_pairs} pairs of frames. Real frames by player: {by_policy}. "
        "With the actions of another clip, the prior loses "
        f"{interval(n.shuffled.nats_lost, 3)} nats a token{given}, and dreams lose, in dB at steps "
        f"ahead, {lost}. Still: the first frame of a real pair twice, which shows habits but no "
        "motion. Where the network reads real frames no better than still ones, there is no ratio: "
        "train it for longer (--inverse-dynamics-steps).",
        _players(n.ratio_by_policy),
        "Players act on what they see; a dream that has diverged lost their reasons, and so shows "
        "fewer habits. Random players have no habit but to hold an action for some steps.",
    ]
    if (of := n.trained_on_random_play) is not None:
        header = [f"trained on random play, {n.measure}", *KINDS, "dreamed over real"]
        shown += [
            Table(header, _rows(of)),
            "The same clips, read by a network trained on random play alone, of which the train "
            f"split has {of.num_steps} steps. It knows no habit but to hold an action: what it "
            "reads beyond Still is the effect of the action.",
        ]
    return shown


def _cells(of: Accuracies) -> list[str]:
    return [number(getattr(of, kind), 3) for kind in KINDS]


def _rows(of: Judged) -> list[list[str]]:
    rows = [["all", *[interval(getattr(of, k), 3) for k in (*KINDS, "ratio")]]]
    for name, one in of.each.items():
        common = f" ({one.count})" if one.count is not None else ""
        if one.commonest is not None:
            common = f" (commonest {number(one.commonest, 3)})"
        rows.append([name + common, *_cells(one), interval(one.ratio, 3)])
    return rows


def _players(ratios: dict[str, RatioOfPlayer]) -> Table:
    factors = list(next(iter(ratios.values())).each)
    rows = [
        [policy, str(of.num_clips), interval(of.all), *[interval(of.each[f]) for f in factors]]
        for policy, of in ratios.items()
    ]
    return Table(["dreamed over real, by player", "clips", "all", *factors], rows)


def headlines(n: Actions) -> list[Headline]:
    beside = f"{n.measure} {interval(n.dreamed)} against {interval(n.real)}"
    return [Headline("actions read off dreams over real", interval(n.ratio), beside)]


SECTION = Section(
    blocks,
    "Whether the dream follows its actions: a network that reads actions off real frames is "
    "shown dreams. Dreamed over real near 1: actions can be read off dreams as well as off real "
    "frames.",
    headlines=headlines,
    numbers=Actions,
)
