"""The part "likelihood": how well the prior predicts the codes of frames, by horizon."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from worldmodel.evaluation import plots
from worldmodel.evaluation.baselines import best_copy, unigram_chances
from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut
from worldmodel.evaluation.report import Headline, Picture, Section
from worldmodel.evaluation.tables import Blocks, Table, interval, number
from worldmodel.metrics.bootstrap import at_steps
from worldmodel.metrics.statistics import Interval

OPTIONS = (*DREAM_OPTIONS, "frames")
SEEN = {
    "prior": "prior",
    "copy": "copying the frame before, else unigram",
    "unigram": "unigram",
}
AHEAD = {
    "prior": "prior, past dreamed",
    "teacher_forced": "prior, past real",
    "copy": "copying the last given frame, else unigram",
    "unigram": "unigram",
}
Curves = dict[str, dict[int, Interval]]  # nats a token by number of frames


@dataclass(frozen=True)
class Likelihood:
    num_clips: int
    num_tokens: int
    nats_a_token: Interval
    """-log p of the next frame's codes given the real past."""
    pose_nats: float | None
    """-log density of a frame's pose, standardised, on which the codes depend."""
    bits_a_token: float
    bits_a_pixel_channel: float
    accuracy: float
    """Share of tokens that were the likeliest."""
    unigram_nats: float
    """Nats a token by how often each code occurs in the training split."""
    position_unigram_nats: float
    """The same, counted at each position."""
    copy_nats: float
    """Nats a token by copying the last frame's token with probability `copy_weight`, else by the
    unigram."""
    copy_weight: float
    copy_accuracy: float
    """Share of tokens that stay the same."""
    num_given: int
    frames_seen: Curves
    """By the number of real frames before."""
    steps_ahead: Curves
    """Of the real frame k steps ahead, when the last k - 1 frames before it were dreamed under the
    recorded actions."""


def measure(held_out: HeldOut, out: Path) -> Likelihood:
    model, given = held_out.model, held_out.num_given
    codes = held_out.real_codes.numpy()  # (clips, T, h, w, q)
    after = held_out.predicted.steps(held_out.future)
    unigram, by_position = (
        of.reshape(codes.shape)
        for of in unigram_chances(
            codes.reshape(-1, *codes.shape[2:]),
            held_out.train_codes.numpy(),
            model.config.tokenizer.num_codes,
        )
    )
    is_copy = codes[:, given:] == codes[:, given - 1 : -1]
    copy_nats, copy_weight = best_copy(is_copy, unigram[:, given:])
    mean = held_out.bootstrap.mean(after.nats.mean(1))
    bits = mean.value / math.log(2)
    values_a_token = math.prod(model.config.tokenizer.frame_shape) / math.prod(codes.shape[2:])
    known = after.pose_nats[np.isfinite(after.pose_nats)]
    frames_seen, steps_ahead = _by_horizon(held_out, codes, unigram)
    _draw(out / "likelihood.png", frames_seen, steps_ahead)
    return Likelihood(
        num_clips=len(held_out),
        num_tokens=is_copy.size,
        nats_a_token=mean,
        pose_nats=float(known.mean()) if known.size else None,
        bits_a_token=bits,
        bits_a_pixel_channel=bits / values_a_token,
        accuracy=float(after.hits.mean()),
        unigram_nats=float(-np.log(unigram[:, given:]).mean()),
        position_unigram_nats=float(-np.log(by_position[:, given:]).mean()),
        copy_nats=float(copy_nats.mean()),
        copy_weight=copy_weight,
        copy_accuracy=float(is_copy.mean()),
        num_given=given,
        frames_seen=frames_seen,
        steps_ahead=steps_ahead,
    )


def _by_horizon(held_out: HeldOut, codes: np.ndarray, unigram: np.ndarray) -> tuple[Curves, Curves]:
    """By frames seen and by steps ahead. Copying takes the last real frame's token, one step or k
    steps old, with the probability that is best for the clips at each horizon."""
    given = held_out.num_given
    open_loop = held_out.predict(
        "likelihood along dreams", next_codes=held_out.real_codes, dreamed=True
    ).steps(held_out.future)

    def curve(nats: np.ndarray) -> dict[int, Interval]:  # (clips, horizon)
        return at_steps(held_out.bootstrap.mean, nats, steps=range(1, nats.shape[1] + 1))

    def copying(known: np.ndarray, truth: np.ndarray, chances: np.ndarray) -> np.ndarray:
        costs = [
            best_copy(known[:, k] == truth[:, k], chances[:, k])[0] for k in range(truth.shape[1])
        ]
        return np.stack([cost.mean((1, 2, 3)) for cost in costs], 1)

    nats_of_unigram = -np.log(unigram).mean((2, 3, 4))
    future, nats = codes[:, given:], held_out.predicted.nats
    last = np.broadcast_to(codes[:, given - 1, None], future.shape)
    frames_seen = {
        "prior": curve(nats),
        "copy": curve(copying(codes[:, :-1], codes[:, 1:], unigram[:, 1:])),
        "unigram": curve(nats_of_unigram[:, 1:]),
    }
    steps_ahead = {
        "prior": curve(open_loop.nats),
        "teacher_forced": curve(nats[:, held_out.future]),
        "copy": curve(copying(last, future, unigram[:, given:])),
        "unigram": curve(nats_of_unigram[:, given:]),
    }
    return frames_seen, steps_ahead


def _draw(path: Path, frames_seen: Curves, steps_ahead: Curves) -> None:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    plots.draw_curves(left, frames_seen, SEEN)
    left.set(xlabel="real frames seen", ylabel="nats a token", title="The next frame, real past")
    plots.draw_curves(right, steps_ahead, AHEAD)
    right.set(xlabel="steps ahead", title="The real frame k steps ahead (95 % intervals)")
    for axes in (left, right):
        axes.set_ylim(0, None)
    plots.save(figure, path)


def blocks(n: Likelihood) -> Blocks:
    def bits(nats: float) -> str:
        return number(nats / math.log(2))

    rows = [
        [
            "prior",
            interval(n.nats_a_token, 3),
            bits(n.nats_a_token.value),
            number(n.accuracy, 3),
        ]
    ]
    for name, nats, accuracy in (
        ("copying, else unigram", n.copy_nats, n.copy_accuracy),
        ("unigram at each position", n.position_unigram_nats, None),
        ("unigram", n.unigram_nats, None),
    ):
        rows.append([name, number(nats, 3), bits(nats), number(accuracy, 3)])
    given_poses = ""
    if n.pose_nats is not None:
        given_poses = (
            " The prior predicts codes given the recorded pose of their frame, copying and the "
            f"unigram don't; the pose itself takes {number(n.pose_nats)} nats a frame, of the "
            "density of its standardised movement."
        )
    return [
        Table(["", "nats a token", "bits a token", "tokens guessed right"], rows),
        f"{n.num_clips} clips, {n.num_tokens} tokens; the prior takes "
        f"{number(n.bits_a_pixel_channel, 4)} bits a pixel-channel for the codes (not for the "
        "exact pixels). Copying: the last frame's token with probability "
        f"{n.copy_weight:g} (the best for these clips), else the training split's unigram."
        + given_poses,
        _points("nats a token, by real frames seen", n.frames_seen, SEEN),
        _points("nats a token of the real frame, at steps ahead", n.steps_ahead, AHEAD),
        f"{n.num_given} frames are given. A past dreamed under the recorded actions drifts from "
        "the real one: its curve shows how fast futures diverge, and how much probability the "
        "prior puts on ones that didn't happen.",
    ]


def _points(what: str, curves: Curves, names: Mapping[str, str]) -> Table:
    """Curves at powers of two and at their end."""
    points = list(next(iter(curves.values())))
    chosen = [k for k in points if k.bit_count() == 1 or k == points[-1]]
    rows = [[title, *[interval(curves[name][k]) for k in chosen]] for name, title in names.items()]
    return Table([what, *map(str, chosen)], rows)


def headlines(n: Likelihood) -> list[Headline]:
    beside = f"copying {n.copy_nats:.2f}, unigram {n.unigram_nats:.2f}"
    return [Headline("nats a token, next frame", interval(n.nats_a_token), beside)]


SECTION = Section(
    blocks,
    "How many nats the prior takes for a token of the real next frame: lower is better, and a "
    "useful prior lies far below copying and the unigram. The left curve falls as long as older "
    "frames help; the right one rises as the dreamed past drifts away.",
    (Picture("likelihood.png", "Nats a token by frames seen and by steps ahead"),),
    headlines,
    Likelihood,
)
