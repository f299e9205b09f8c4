"""Look away and come back, in the dream and in the real game: python -m collect.returns

At recorded moments the player turns away for some steps, and back for as many. The dream and the
real game take the same actions from the same moment. Then their pictures are compared, and the
things in them: a detector that has learned from the engine's own labels where things stand in real
pictures, and in the dream's pictures of real codes, says whether they stand there in the dream.
"""

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.markdown import Markdown
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from collect.explorer import Explorer, Steering
from envs.doom.env import SCREEN_SIZE, Senses
from worldmodel import randomness
from worldmodel.command import check_numbers, run_command, say, track
from worldmodel.errors import UserError
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.metrics.pictures import squared_errors
from worldmodel.metrics.statistics import Interval
from worldmodel.storage.files import locked, write_json, written_whole
from worldmodel.storage.provenance import git_commit, machine

GRID = 8  # cells along each side in which things are looked for
LEAST_AREA = 48  # pixels of the engine's screen: of a smaller thing a frame shows too little
TINY_AREA = 12  # of what is smaller a frame shows nothing
NEAR = 1  # cells: so far apart, a thing is the same
TURN_RADIANS = np.radians(40)  # asked for in a step; the game turns as fast as it does
FRAMES_A_GAME = 40  # that the detector learns from
SPREAD = 4  # steps between these
BATCH = 64
CHECKED_SHARE = 8  # one game in so many is not learned from: it chooses the threshold


@dataclass(frozen=True)
class Returns:
    """Look away and come back, in a dream and in the real game."""

    checkpoint: str = "dream-doom"
    """A dream of a ViZDoom scenario: a shipped name, a folder, or a Hugging Face Hub id."""
    data: Path | None = None
    """Folder of episodes of its world, to begin at moments of; by default at the checkpoint's own,
    which are few."""
    out: Path = Path("reports/returns")
    """Folder of the numbers."""
    moments: int = 32
    """Moments to look away from."""
    steps: str = "2,4,8,16"
    """Steps away, comma-separated."""
    frames: int = 6000
    """Real frames that the detector learns from."""
    detector_steps: int = 1500
    """Steps of its training."""
    seed: int = 0
    """Of everything random."""


def main() -> None:
    options = tyro.cli(Returns, prog="python -m collect.returns", description=__doc__)
    run_command(lambda: returns(options))


def returns(options: Returns) -> dict[str, Any]:
    """Do what `Returns` says.

    Raises:
        UserError: an option is not usable, or the dream is of a world without labels.
    """
    check_numbers(options, moments=2, frames=CHECKED_SHARE * BATCH, detector_steps=1, seed=0)
    try:
        lengths = [int(text) for text in options.steps.split(",")]
    except ValueError:
        raise UserError(f"--steps must be whole numbers as in 2,4,8, not {options.steps}") from None
    if min(lengths) < 1:
        raise UserError(f"--steps must be at least 1, not {options.steps}")
    dream = gymnasium.make(
        "envs:VideoGPTDream-v0",
        checkpoint=options.checkpoint,
        starts=None if options.data is None else str(options.data),
        disable_env_checker=True,
    ).unwrapped
    env_id, env_kwargs = dream.recorded_env()  # type: ignore[attr-defined]
    if not env_id.startswith("Doom"):
        raise UserError(f"{options.checkpoint} is a dream of {env_id}: only ViZDoom labels things")
    real = gymnasium.make(env_id, **env_kwargs, labels=True, disable_env_checker=True).unwrapped
    with locked(options.out):
        try:
            return _measured(options, dream, real, lengths)
        finally:
            dream.close()
            real.close()


def _measured(options: Returns, dream: Any, real: Any, lengths: list[int]) -> dict[str, Any]:
    say(
        f"learning to find things in {options.frames} frames, then looking away from "
        f"{options.moments} moments; some {2 + options.moments * sum(lengths) // 400} minutes of a "
        f"core, into {options.out}"
    )
    frames, grids = labelled_frames(real, options.frames, seed=options.seed)
    shown = shown_by(dream.model, frames)
    detector = Detector.taught(
        frames, grids, shown, num_steps=options.detector_steps, seed=options.seed
    )
    rng = randomness.generator(options.seed, "returns: moments")
    starts = rng.permutation(dream.num_starts)[: options.moments]
    found = {}
    for length in lengths:
        walks = [
            _look_away(dream, real, start, length, side=1 if i % 2 else -1, seed=options.seed + i)
            for i, start in enumerate(track(starts.tolist(), f"{length} steps away"))
        ]
        walks = [walk for walk in walks if walk is not None]
        if len(walks) < 2:
            raise UserError("too few moments are left: the real games ended before the return")
        found[length] = _compared(walks, detector, seed=options.seed)
    numbers = {
        "checkpoint": options.checkpoint,
        "options": {name: str(value) for name, value in asdict(options).items()},
        "commit": git_commit(),
        "machine": machine(),
        "detector": detector.scores,
        "steps": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "returns.json", numbers)
    text = to_markdown(numbers)
    with written_whole(options.out / "returns.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    Console().print(Markdown(text))
    say(f"the numbers are in {options.out}: returns.md, returns.json")
    return numbers


@dataclass(frozen=True)
class Walk:
    """One look away and back.

    Attributes:
        start, away, back: frames uint8 (H, W, 3) of the real game.
        dreamed: the dream's last frame.
        things: bool (GRID, GRID), where the engine says that things stand, at the real return;
            also small ones.
        stayed: the larger ones of them that stood in view at the start.
    """

    start: np.ndarray
    away: np.ndarray
    back: np.ndarray
    dreamed: np.ndarray
    things: np.ndarray
    stayed: np.ndarray


def _look_away(
    dream: Any, real: Any, start: int, length: int, *, side: int, seed: int
) -> Walk | None:
    """None where the real game ends on the way."""
    moment = dream.real_moment(start)
    frame, _ = real.reset(seed=moment.seed)
    for action in moment.actions:
        frame, _, terminated, truncated, _ = real.step(action)
        if terminated or truncated:
            return None
    before = things_in(real.senses())
    steering = Steering(real.action_space, real.action_meanings)
    away, back = (steering.turn(way * side * TURN_RADIANS) for way in (1, -1))
    actions = [away] * length + [steering.stand()] + [back] * length + [steering.stand()]
    seen = [frame]
    dreamed, _ = dream.reset(seed=seed, options={"start": start})
    dream_over = False
    for action in actions:
        frame, _, terminated, truncated, _ = real.step(action)
        if terminated or truncated:
            return None
        seen.append(frame)
        if not dream_over:  # an end that only the dream draws leaves its last frame
            dreamed, _, dream_over, _, _ = dream.step(action)
    senses = real.senses()
    stayed = things_in(senses) & _near(before)
    things = things_in(senses, least_area=TINY_AREA)
    return Walk(seen[0], seen[length], seen[-1], dreamed, things, stayed)


def things_in(senses: Senses | None, *, least_area: int = LEAST_AREA) -> np.ndarray:
    """Cells, bool (GRID, GRID), in which the middles of things are that are large enough to see."""
    grid = np.zeros((GRID, GRID), bool)
    for thing in senses.things if senses is not None else ():
        if thing.width * thing.height >= least_area:
            row = (thing.top + thing.height / 2) * GRID / SCREEN_SIZE[0]
            column = (thing.left + thing.width / 2) * GRID / SCREEN_SIZE[1]
            grid[min(int(row), GRID - 1), min(int(column), GRID - 1)] = True
    return grid


def labelled_frames(real: Any, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of exploring players, uint8 (N, H, W, 3), and where things are, bool (N, 8, 8)."""
    player = Explorer(real, seed=seed)
    frames, grids, game = [], [], 0
    for i in track(range(count), "labelled frames"):
        if i % FRAMES_A_GAME == 0:
            frame, _ = real.reset(seed=10_000_000 + seed + game)
            player.reset()
            game += 1
        frames.append(frame)
        grids.append(things_in(real.senses()))
        for _ in range(SPREAD):
            frame, _, terminated, truncated, _ = real.step(player.act(frame))
            if terminated or truncated:
                frame, _ = real.reset(seed=20_000_000 + seed + i)
                player.reset()
    return np.stack(frames), np.stack(grids)


@torch.no_grad()
def shown_by(model: Any, frames: np.ndarray) -> np.ndarray:
    """What a dream shows where real frames are encoded, like `frames`."""
    parts = []
    for part in track(torch.from_numpy(frames).split(BATCH), "as the dream shows them"):
        codes = model.encode(part)[:, None]
        parts.append(model.draw(codes)[:, 0].numpy())
    return np.concatenate(parts)


class Detector(nn.Module):
    """Where things are, in a frame of any size that is a multiple of 8."""

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
        """Bool (N, 8, 8), the highest of neighbouring cells that are sure enough."""
        chances = torch.cat([self(part).sigmoid() for part in torch.from_numpy(frames).split(256)])
        highest = F.max_pool2d(chances[:, None], 3, stride=1, padding=1)[:, 0]
        return ((chances >= self.threshold) & (chances == highest)).numpy()

    @classmethod
    def taught(
        cls,
        frames: np.ndarray,
        grids: np.ndarray,
        shown: np.ndarray,
        *,
        num_steps: int,
        seed: int,
    ) -> "Detector":
        """Learned from frames and from the dream's pictures of them."""
        randomness.seed_torch(seed, "detector")
        rng = randomness.generator(seed, "detector batches")
        games = np.arange(len(frames)) // FRAMES_A_GAME
        checked = games % CHECKED_SHARE == 0  # whole games
        detector = cls()
        optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
        learned = np.flatnonzero(~checked)
        for _ in track(range(num_steps), "learning to find things"):
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
    """Cells (..., 8, 8) that are no farther than NEAR from one that is set."""
    side = 2 * NEAR + 1
    return ndimage.binary_dilation(grids, np.ones((*[1] * (grids.ndim - 2), side, side), bool))


def _recall(wanted: np.ndarray, found: np.ndarray) -> float:
    """Share of the wanted cells that have a found one near."""
    return float((wanted & _near(found)).sum() / max(wanted.sum(), 1))


def _compared(walks: list[Walk], detector: Detector, *, seed: int) -> dict[str, Any]:
    start, away, back, dreamed, things, stayed = (
        np.stack([getattr(walk, name) for walk in walks])
        for name in ("start", "away", "back", "dreamed", "things", "stayed")
    )
    over_walks = Bootstrap(np.arange(len(walks)), seed)

    def pictures(frames: np.ndarray) -> Interval:
        return over_walks.psnr(squared_errors(frames, back))

    in_dream, in_game = detector.cells(dreamed), detector.cells(back)

    def share(wanted: np.ndarray, found: np.ndarray) -> dict[str, Any]:
        """Of the wanted cells of all walks those near a found one."""
        counts = wanted.sum((1, 2)).astype(np.float64)
        hits = (wanted & _near(found)).sum((1, 2)).astype(np.float64)
        if not counts.any():
            return {"count": 0, "share": None}
        return {"count": int(counts.sum()), "share": over_walks.ratio(hits, counts)._asdict()}

    return {
        "num_walks": len(walks),
        "psnr": {
            "dream": pictures(dreamed)._asdict(),
            "start": pictures(start)._asdict(),
            "away": pictures(away)._asdict(),
        },
        "recall": share(stayed, in_dream),
        "precision": share(in_dream, things),
        "recall_in_the_game": share(stayed, in_game),
        "precision_in_the_game": share(in_game, things),
    }


def to_markdown(n: dict[str, Any]) -> str:
    """The numbers as a table."""
    steps = n["steps"]

    def cell(value: dict[str, Any] | None, digits: int) -> str:
        if value is None:
            return "-"
        shown = [f"{value[name]:.{digits}f}" for name in ("value", "low", "high")]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"

    rows = {
        "moments": [str(of["num_walks"]) for of in steps.values()],
        "the dream's return against the real one, PSNR, dB": [
            cell(of["psnr"]["dream"], 1) for of in steps.values()
        ],
        "the real start against the real return": [
            cell(of["psnr"]["start"], 1) for of in steps.values()
        ],
        "the real frame away against the real return": [
            cell(of["psnr"]["away"], 1) for of in steps.values()
        ],
        "things that stood in view, found in the dream (recall)": [
            cell(of["recall"]["share"], 2) for of in steps.values()
        ],
        "things found in the dream that stand there (precision)": [
            cell(of["precision"]["share"], 2) for of in steps.values()
        ],
        "the same in the real picture: recall": [
            cell(of["recall_in_the_game"]["share"], 2) for of in steps.values()
        ],
        "the same in the real picture: precision": [
            cell(of["precision_in_the_game"]["share"], 2) for of in steps.values()
        ],
    }
    lines = [
        f"# {n['checkpoint']}: look away and come back",
        "",
        "| steps away | " + " | ".join(map(str, steps)) + " |",
        "| --- |" + " --- |" * len(steps),
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()),
        "",
        f"Turned away for so many steps, one step of standing, back for as many, one of standing. "
        f"The detector finds {n['detector']['recall']:.2f} of the things in held-out pictures, and "
        f"{n['detector']['precision']:.2f} of what it finds stands there. Intervals: 95 %, drawing "
        f"moments again. Commit {n['commit'] or 'unknown'}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
