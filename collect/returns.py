"""Look away and back, in a dream and in the real game: python -m collect.returns

At recorded moments the player turns away for some steps and back for as many, in the dream and in
the real game. The frames at the return are compared, and the objects in them: a detector, trained
with the engine's own labels on real frames and on the dream's reconstructions of them, finds the
objects in the dream's frames.
"""

import itertools
from collections import deque
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.markdown import Markdown
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

import envs  # noqa: F401  registers the environments
from collect.explorer import Explorer, Steering
from envs.doom.env import SCREEN_SIZE, Senses
from worldmodel import randomness
from worldmodel.command import check_numbers, parse_options, run_command, say, track
from worldmodel.errors import UserError
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.pictures import squared_errors
from worldmodel.metrics.statistics import Interval
from worldmodel.parallel import Workers, check_workers, connect
from worldmodel.storage.files import locked, write_json, written_whole
from worldmodel.storage.provenance import git_commit, machine

GRID = 8  # cells along each side; objects are located to a cell
LEAST_AREA = 48  # pixels of the engine's screen; frames hardly show smaller objects
TINY_AREA = 12  # frames show nothing of smaller objects
NEAR = 1  # cells; found objects at most this far away count as the same
TURN_RADIANS = np.radians(40)  # requested per step; the game turns as fast as it can
FRAMES_A_GAME = 40  # of the detector's training frames
STEPS_BETWEEN = 4  # these frames
BATCH = 64
CHECK_EVERY = 8  # one game in so many is held out, to choose the detector's threshold


@dataclass(frozen=True)
class Returns:
    """Look away and back, in a dream and in the real game."""

    checkpoint: str = "dream-doom"
    """A dream of a ViZDoom scenario: a shipped name, a folder, or a Hugging Face Hub id."""
    data: Path | None = None
    """Folder of episodes of its world, whose moments are starts; default: the checkpoint's own
    starts, of which there are few."""
    out: Path = Path("reports/returns")
    """Folder of the report."""
    moments: int = 32
    """Number of moments at which to look away."""
    steps: str = "2,4,8,16"
    """Steps to turn away for, comma-separated."""
    frames: int = 6000
    """Real frames that the detector is trained on."""
    detector_steps: int = 1500
    """Steps of the detector's training."""
    workers: int = 1
    """Number of processes that look away; each uses one core."""
    ray: str | None = None
    """Look away on a Ray cluster: auto, or its address, host:port; --workers is the number of its
    cores to use. Needs the extra "ray"; its machines must have the dream and the data at the same
    paths."""
    seed: int = 0
    """Seed of everything random."""


class Look(NamedTuple):
    """A look away and back that is to be done.

    Attributes:
        start: number of the dream's start.
        length: steps to turn away for.
        side: 1 or -1.
        seed: of the dream.
    """

    start: int
    length: int
    side: int
    seed: int


@dataclass(frozen=True)
class Walk:
    """One look away and back.

    Attributes:
        start, away, back: frames uint8 (H, W, 3) of the real game.
        dreamed: the dream's last frame.
        things: bool (GRID, GRID), cells of objects at the real return, including small ones.
        stayed: cells of the larger ones that were also in view at the start.
    """

    start: np.ndarray
    away: np.ndarray
    back: np.ndarray
    dreamed: np.ndarray
    things: np.ndarray
    stayed: np.ndarray


class Fraction(NamedTuple):
    """Of so many cells; None where there are none."""

    count: int
    share: Interval | None


class Compared(NamedTuple):
    """The dream and the real game after looking away for one number of steps.

    Attributes:
        psnr: in dB, against the real frame at the return: of the dream's frame, and of the real
            frames at the start and away.
        recall, precision: of objects in the dream's frames.
        recall_in_the_game, precision_in_the_game: the same in real frames: the detector's limit.
    """

    num_walks: int
    psnr: dict[str, Interval]
    recall: Fraction
    precision: Fraction
    recall_in_the_game: Fraction
    precision_in_the_game: Fraction


def main() -> None:
    options = parse_options(Returns, "collect.returns", __doc__)
    run_command(lambda: returns(options))


def returns(options: Returns) -> dict[int, Compared]:
    """Run the command; returns the result for each number of steps away. Raises UserError."""
    check_numbers(
        options, moments=2, frames=CHECK_EVERY * BATCH, detector_steps=1, workers=1, seed=0
    )
    check_workers(options.workers)
    try:
        lengths = list(dict.fromkeys(int(text) for text in options.steps.split(",")))
    except ValueError:
        raise UserError(f"--steps must be whole numbers as in 2,4,8, not {options.steps}") from None
    if min(lengths) < 1:
        raise UserError(f"--steps must be at least 1, not {options.steps}")
    # Absolute paths: processes of a cluster have other working directories.
    starts = None if options.data is None else str(options.data.resolve())
    folder = Path(options.checkpoint)
    checkpoint = str(folder.resolve()) if folder.exists() else options.checkpoint
    with locked(options.out), closing(Looker(checkpoint, starts)) as looker:
        return _measured(options, looker, lengths)


def _measured(options: Returns, looker: "Looker", lengths: list[int]) -> dict[int, Compared]:
    minutes = 2 + options.moments * sum(lengths) // (400 * options.workers)
    say(
        f"training a detector on {options.frames} frames, then looking away at {options.moments} "
        f"moments; about {minutes} minutes, into {options.out}"
    )
    connect(options.ray)  # before minutes of training
    seed = options.seed
    model = looker.dream.model
    num_frames = model.config.sharp_frames or 1  # that a picture is decoded from
    frames, grids = labelled_frames(looker.real, options.frames, num_frames, seed=seed)
    shown = reconstructed(model, frames)
    newest, num_steps = frames[:, -1], options.detector_steps
    detector = Detector.trained(newest, grids, shown, num_steps=num_steps, seed=seed)
    order = randomness.generator(seed, "returns: moments").permutation(looker.dream.num_starts)
    looks = [
        Look(start, length, side=1 if i % 2 else -1, seed=seed + i)
        for length in lengths
        for i, start in enumerate(order[: options.moments].tolist())
    ]
    with Workers(looker.another, options.workers, ray=options.ray) as workers:
        walks = dict(track(workers.run(looks), "looking away", total=len(looks)))
    found = {}
    for length in lengths:
        these = [walks[look] for look in looks if look.length == length]
        finished = [walk for walk in these if walk is not None]
        if len(finished) < 2:
            raise UserError("too few moments are left: the real games ended before the return")
        found[length] = _compared(finished, detector, seed=seed)
    source = {"checkpoint": options.checkpoint, "commit": git_commit(), "machine": machine()}
    used = {"options": {name: str(value) for name, value in asdict(options).items()}}
    numbers = source | used | {"detector": detector.scores, "steps": found}
    write_json(options.out / "returns.json", _plain(numbers))
    text = _markdown(options.checkpoint, found, detector.scores)
    with written_whole(options.out / "returns.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    Console().print(Markdown(text))
    say(f"report: {options.out}: returns.md, returns.json")
    return found


class Looker:
    """A dream of a ViZDoom scenario and the game itself, to look away and back in both.

    Args:
        checkpoint, starts: of the dream.

    Raises:
        UserError: it is no dream of a ViZDoom scenario.
    """

    def __init__(self, checkpoint: str, starts: str | None) -> None:
        self.another = partial(Looker, checkpoint, starts)
        self.dream: Any = gymnasium.make(
            "VideoGPTDream-v0", checkpoint=checkpoint, starts=starts, disable_env_checker=True
        ).unwrapped
        env_id, env_kwargs = self.dream.recorded_env()
        if not env_id.startswith("Doom"):
            raise UserError(f"{checkpoint} is a dream of {env_id}: only ViZDoom labels things")
        self.real: Any = gymnasium.make(
            env_id, **env_kwargs, labels=True, disable_env_checker=True
        ).unwrapped

    def __call__(self, look: Look) -> tuple[Look, Walk | None]:
        return look, _look_away(self.dream, self.real, look)

    def close(self) -> None:
        self.dream.close()
        self.real.close()


def _look_away(dream: Any, real: Any, look: Look) -> Walk | None:
    """Turn away and back from a start; None if the real game ends first."""
    moment = dream.real_moment(look.start)
    frame, _ = real.reset(seed=moment.seed)
    for action in moment.actions:
        frame, _, terminated, truncated, _ = real.step(action)
        if terminated or truncated:
            return None
    before = things_in(real.senses())
    steering = Steering(real.action_space, real.action_meanings)
    away, back = (steering.turn(way * look.side * TURN_RADIANS) for way in (1, -1))
    turns = [away] * look.length, [back] * look.length
    actions = [*turns[0], steering.stand(), *turns[1], steering.stand()]
    seen = [frame]
    dreamed, _ = dream.reset(seed=look.seed, options={"start": look.start})
    dream_over = False
    for action in actions:
        frame, _, terminated, truncated, _ = real.step(action)
        if terminated or truncated:
            return None
        seen.append(frame)
        if not dream_over:  # after a wrongly predicted end, the last frame counts
            dreamed, _, dream_over, _, _ = dream.step(action)
    senses = real.senses()
    stayed = things_in(senses) & _near(before)
    things = things_in(senses, least_area=TINY_AREA)
    return Walk(seen[0], seen[look.length], seen[-1], dreamed, things, stayed)


def things_in(senses: Senses | None, *, least_area: int = LEAST_AREA) -> np.ndarray:
    """Cells, bool (GRID, GRID), that contain the centre of an object of at least this area."""
    grid = np.zeros((GRID, GRID), bool)
    for thing in senses.things if senses is not None else ():
        if thing.width * thing.height >= least_area:
            row = (thing.top + thing.height / 2) * GRID / SCREEN_SIZE[0]
            column = (thing.left + thing.width / 2) * GRID / SCREEN_SIZE[1]
            grid[min(int(row), GRID - 1), min(int(column), GRID - 1)] = True
    return grid


def labelled_frames(
    real: Any, count: int, num_frames: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Moments of exploring players.

    Args:
        num_frames: R, of each moment; before a game's first frame it is repeated.

    Returns:
        The last frames of each moment, uint8 (N, R, H, W, 3), and the cells of objects in the
        newest, bool (N, 8, 8).
    """
    player = Explorer(real, seed=seed)
    frames, grids, game = [], [], 0
    seen: deque[np.ndarray] = deque(maxlen=num_frames)

    def begin(game_seed: int) -> np.ndarray:
        frame, _ = real.reset(seed=game_seed)
        player.reset()
        seen.extend([frame] * num_frames)
        return frame

    for i in track(range(count), "labelled frames"):
        if i % FRAMES_A_GAME == 0:
            frame = begin(10_000_000 + seed + game)
            game += 1
        frames.append(np.stack(seen))
        grids.append(things_in(real.senses()))
        for _ in range(STEPS_BETWEEN):
            frame, _, terminated, truncated, _ = real.step(player.act(frame))
            seen.append(frame)
            if terminated or truncated:
                frame = begin(20_000_000 + seed + i)
    return np.stack(frames), np.stack(grids)


@torch.no_grad()
def reconstructed(model: Any, frames: np.ndarray) -> np.ndarray:
    """The newest frame of each moment, uint8 (N, H, W, 3), as a dream shows it.

    Args:
        frames: uint8 (N, R, H, W, 3), R consecutive frames.
    """
    parts = track(torch.from_numpy(frames).split(BATCH), "reconstructions")
    return np.concatenate([model.draw_newest(model.encode(part)).numpy() for part in parts])


class Detector(nn.Module):
    """Finds the cells of objects in a frame of any size that is a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 1, 1)]
        self.layers = nn.Sequential(*layers)
        self.threshold = 0.5
        self.scores: dict[str, float] = {}

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, h, w) of uint8 frames (B, H, W, 3)."""
        x = frames.movedim(-1, 1).float() / 128 - 1
        return F.adaptive_avg_pool2d(self.layers(x), GRID)[:, 0]

    @torch.no_grad()
    def cells(self, frames: np.ndarray) -> np.ndarray:
        """Cells, bool (N, 8, 8), that reach the threshold and are local maxima."""
        probabilities = torch.cat(
            [self(part).sigmoid() for part in torch.from_numpy(frames).split(256)]
        )
        highest = F.max_pool2d(probabilities[:, None], 3, stride=1, padding=1)[:, 0]
        return ((probabilities >= self.threshold) & (probabilities == highest)).numpy()

    @classmethod
    def trained(
        cls,
        frames: np.ndarray,
        grids: np.ndarray,
        shown: np.ndarray,
        *,
        num_steps: int,
        seed: int,
    ) -> "Detector":
        """Train on frames and on the dream's reconstructions of them, `shown`."""
        randomness.seed_torch(seed, "detector")
        rng = randomness.generator(seed, "detector batches")
        games = np.arange(len(frames)) // FRAMES_A_GAME
        checked = games % CHECK_EVERY == 0  # complete games
        detector = cls()
        optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
        learned = np.flatnonzero(~checked)
        for _ in track(range(num_steps), "training the detector"):
            rows = rng.choice(learned, BATCH)
            source = shown if rng.random() < 0.5 else frames
            target = torch.from_numpy(grids[rows]).float()
            loss = F.binary_cross_entropy_with_logits(
                detector(torch.from_numpy(source[rows])), target, pos_weight=torch.tensor(4.0)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        detector.eval()
        best = -1.0
        for threshold in np.linspace(0.2, 0.95, 16):
            detector.threshold = float(threshold)
            found = detector.cells(shown[checked])
            recall, precision = _recall(grids[checked], found), _recall(found, grids[checked])
            if (score := 2 * recall * precision / max(recall + precision, 1e-9)) > best:
                best, chosen = score, float(threshold)
                detector.scores = {"recall": recall, "precision": precision}
        detector.threshold = chosen
        return detector


def _near(grids: np.ndarray) -> np.ndarray:
    """Cells (..., 8, 8) at most NEAR away from one that is set."""
    side = 2 * NEAR + 1
    return ndimage.binary_dilation(grids, np.ones((*[1] * (grids.ndim - 2), side, side), bool))


def _recall(wanted: np.ndarray, found: np.ndarray) -> float:
    """Fraction of the wanted cells that have a found one near."""
    return float((wanted & _near(found)).sum() / max(wanted.sum(), 1))


def _compared(walks: list[Walk], detector: Detector, *, seed: int) -> Compared:
    start, away, back, dreamed, things, stayed = (
        np.stack([getattr(walk, name) for walk in walks])
        for name in ("start", "away", "back", "dreamed", "things", "stayed")
    )
    over_walks = Bootstrap(np.arange(len(walks)), seed)

    def psnr(frames: np.ndarray) -> Interval:
        return over_walks.psnr(squared_errors(frames, back))

    def fraction(wanted: np.ndarray, found: np.ndarray) -> Fraction:
        """Of the wanted cells of all walks, those near a found one."""
        totals = wanted.sum((1, 2)).astype(np.float64)
        hits = (wanted & _near(found)).sum((1, 2)).astype(np.float64)
        return Fraction(int(totals.sum()), over_walks.ratio(hits, totals) if totals.any() else None)

    in_dream, in_game = detector.cells(dreamed), detector.cells(back)
    return Compared(
        num_walks=len(walks),
        psnr={"dream": psnr(dreamed), "start": psnr(start), "away": psnr(away)},
        recall=fraction(stayed, in_dream),
        precision=fraction(in_dream, things),
        recall_in_the_game=fraction(stayed, in_game),
        precision_in_the_game=fraction(in_game, things),
    )


def _plain(value: Any) -> Any:
    """Named tuples as dicts, for JSON."""
    value = value._asdict() if hasattr(value, "_asdict") else value
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _cell(value: Interval | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _markdown(checkpoint: str, found: dict[int, Compared], detector: dict[str, float]) -> str:
    every = found.values()
    rows = {
        "steps away": map(str, found),
        "---": ["---"] * len(found),
        "moments": (str(of.num_walks) for of in every),
        "dream at the return, PSNR in dB": (_cell(of.psnr["dream"], 1) for of in every),
        "real frame at the start, PSNR": (_cell(of.psnr["start"], 1) for of in every),
        "real frame looking away, PSNR": (_cell(of.psnr["away"], 1) for of in every),
        "recall of objects in the dream": (_cell(of.recall.share, 2) for of in every),
        "precision of objects in the dream": (_cell(of.precision.share, 2) for of in every),
        "recall in real frames": (_cell(of.recall_in_the_game.share, 2) for of in every),
        "precision in real frames": (_cell(of.precision_in_the_game.share, 2) for of in every),
    }
    lines = [
        f"# {checkpoint}: look away and back",
        "",
        *(f"| {' | '.join([title, *cells])} |" for title, cells in rows.items()),
        "",
        "The player turns away for so many steps, stands for one, turns back, and stands for one; "
        "then frames are compared with the real one. Recall: the fraction of objects in view at "
        "the start and at the return that the detector finds; precision: the fraction of objects "
        "it finds that are really there. On held-out games, the detector's recall is "
        f"{detector['recall']:.2f} and its precision {detector['precision']:.2f}. Intervals: 95 %, "
        f"bootstrap over moments. Commit {git_commit() or 'unknown'}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
