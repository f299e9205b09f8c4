"""The part "horizon": dreams against the real future under the same actions, frame by frame."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from worldmodel.command import track
from worldmodel.evaluation import plots
from worldmodel.evaluation.held_out import DREAM_OPTIONS, HeldOut
from worldmodel.evaluation.report import Headline, Picture, Section
from worldmodel.evaluation.tables import Blocks, interval, row, steps_table
from worldmodel.media.film import framed, grid, save_gif, save_png, sheet, side_by_side
from worldmodel.metrics.bootstrap import at_steps
from worldmodel.metrics.pictures import SSIM_WINDOW, squared_errors, ssim
from worldmodel.metrics.statistics import Interval

OPTIONS = (*DREAM_OPTIONS, "samples")
STEPS_AHEAD = (1, 2, 4, 8, 16, 32)
FILMED_CLIPS = 6
STRIP_CLIPS = 8
NAMES = {
    "ceiling": "the tokenizer's reconstruction of the real frame",
    "best": "dream, best sample",
    "mean": "dream, mean over samples",
    "one": "dream, one sample",
    "sharp": "dream, one sample, as shown",
    "copy": "copying the last given frame",
}
BySteps = dict[int, Interval]


@dataclass(frozen=True)
class AgainstCopying:
    db: Interval
    """PSNR of one dream less that of copying."""
    share_of_clips_closer: Interval


@dataclass(frozen=True)
class Horizon:
    num_clips: int
    num_episodes: int
    num_samples: int
    num_given: int
    psnr: dict[str, BySteps]
    """Of NAMES. "one" is a single dream by the tokenizer's decoder, which was trained on the
    squared error, "sharp" the same as it is shown; "mean" is of the error averaged over samples;
    "best" takes, for each clip and number of steps, the sample with the smallest error."""
    ssim: dict[str, BySteps]
    """Of single dreams, of copying and of reconstructions."""
    one_over_copy: dict[int, AgainstCopying]


def steps_ahead(horizon: int) -> tuple[int, ...]:
    """Those of STEPS_AHEAD that a horizon reaches."""
    return tuple(steps for steps in STEPS_AHEAD if steps <= horizon)


def measure(held_out: HeldOut, out: Path) -> Horizon:
    settings, real, boot = held_out.settings, held_out.real, held_out.bootstrap
    shown = {
        "one": held_out.plain(held_out.dreams),
        "sharp": held_out.dreams.frames,
        "copy": held_out.last_given,
        "ceiling": held_out.plain_reconstructions[:, held_out.num_given :],
    }
    errors = {name: squared_errors(frames, real) for name, frames in shown.items()}
    samples = [errors["one"]]
    for sample in range(1, settings.num_samples):
        what = f"horizon: sample {sample + 1} of {settings.num_samples}"
        dreamed = held_out.dream(held_out.actions, what=what, sample=sample)
        samples.append(squared_errors(held_out.plain(dreamed), real))
    every = np.stack(samples)  # (samples, clips, horizon)
    errors |= {"mean": every.mean(0), "best": every.min(0)}
    similar = {name: _similarity(frames, real, f"SSIM: {name}") for name, frames in shown.items()}

    def curves(steps: tuple[int, ...]) -> tuple[dict[str, BySteps], dict[str, BySteps]]:
        return (
            {name: at_steps(boot.psnr, of, steps=steps) for name, of in errors.items()},
            {name: at_steps(boot.mean, of, steps=steps) for name, of in similar.items()},
        )

    psnr, likeness = curves(tuple(range(1, settings.horizon + 1)))
    _draw(out / "horizon.png", psnr, "PSNR of the mean squared error, dB")
    _draw(out / "ssim.png", likeness, "SSIM")
    _film(held_out, out)
    chosen = steps_ahead(settings.horizon)
    psnr, likeness = curves(chosen)
    one, copy = errors["one"], errors["copy"]
    closer = at_steps(boot.mean, (one < copy) + 0.5 * (one == copy), steps=chosen)
    over = at_steps(boot.psnr_gain, one, copy, steps=chosen)
    return Horizon(
        num_clips=len(held_out),
        num_episodes=len(np.unique(held_out.episodes)),
        num_samples=settings.num_samples,
        num_given=held_out.num_given,
        psnr=psnr,
        ssim=likeness,
        one_over_copy={k: AgainstCopying(over[k], closer[k]) for k in chosen},
    )


def _similarity(frames: np.ndarray, real: np.ndarray, what: str) -> np.ndarray:
    """SSIM of each frame (clips, horizon); NaN for pictures smaller than its window."""
    if min(real.shape[2:4]) < SSIM_WINDOW:
        return np.full(real.shape[:2], np.nan)
    return np.stack([ssim(frames[i], real[i]) for i in track(range(len(real)), what)])


def _draw(path: Path, curves: dict[str, BySteps], what: str) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    plots.draw_curves(axes, curves, NAMES)
    title = "Dreams against the real future, same actions (95 % intervals)"
    axes.set(xlabel="steps ahead", ylabel=what, title=title)
    plots.save(figure, path)


def _film(held_out: HeldOut, out: Path) -> None:
    """Real beside dream as a film, and as rows of frames."""
    given = framed(held_out.clips.frames[:, : held_out.num_given])
    futures = {"real": held_out.real, "dream": held_out.dreams.frames}
    films = []
    for i in range(min(FILMED_CLIPS, len(held_out))):
        clips = {name: np.concatenate([given[i], of[i]]) for name, of in futures.items()}
        films.append(side_by_side(clips, scale=2))
    save_gif(out / "real-and-dream.gif", grid(films, columns=2), fps=held_out.reader.info.fps)
    at = np.asarray(steps_ahead(held_out.settings.horizon)) - 1
    rows = [
        np.concatenate([given[i, -1:], of[i, at]])
        for i in range(min(STRIP_CLIPS, len(held_out)))
        for of in futures.values()
    ]
    save_png(out / "real-and-dream.png", sheet(rows, scale=2))


def blocks(n: Horizon) -> Blocks:
    names = {name: NAMES[name] for name in reversed(NAMES)}
    psnr = steps_table(
        "PSNR, dB, at steps ahead", {title: n.psnr[name] for name, title in names.items()}, 1
    )
    over = n.one_over_copy
    psnr.rows.append(row("one sample over copying, dB", {k: of.db for k, of in over.items()}, 1))
    closer = {k: of.share_of_clips_closer for k, of in over.items()}
    psnr.rows.append(row("clips closer than copying", closer))
    return [
        psnr,
        f"{n.num_clips} clips of {n.num_episodes} test episodes, {n.num_given} frames given; PSNR "
        "of the mean squared error over clips; 95 % intervals by resampling episodes, paired for "
        f"differences; best of {n.num_samples} for each clip and number of steps.",
        steps_table(
            "SSIM, at steps ahead",
            {title: n.ssim[name] for name, title in names.items() if name in n.ssim},
            3,
        ),
        "SSIM of Wang et al. 2004, mean over colours: 1 for equal pictures; it is more sensitive "
        "to structure than to brightness.",
    ]


def headlines(n: Horizon) -> list[Headline]:
    over = n.one_over_copy
    return [
        Headline(
            f"dream over copying, {k} step{'s' * (k > 1)} ahead",
            f"{interval(over[k].db, 1)} dB",
            f"PSNR {interval(n.psnr['one'][k], 1)}, SSIM {interval(n.ssim['one'][k])}",
        )
        for k in dict.fromkeys([min(over), max(over)])
    ]


SECTION = Section(
    blocks,
    "How long a dream stays with the real future under the same actions. It lies between two "
    "lines: copying the last given frame, to which a useless dream falls, and the tokenizer's "
    "reconstruction of the real frame, its upper bound.",
    (
        Picture("horizon.png", "PSNR over steps ahead"),
        Picture("ssim.png", "SSIM over steps ahead"),
        Picture("real-and-dream.gif", "Real beside dream, same actions; red: given frames"),
        Picture(
            "real-and-dream.png",
            "Real above dream, from the last given frame (red) to the farthest step",
        ),
    ),
    headlines,
    Horizon,
)
