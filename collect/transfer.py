"""Train in the dream, play in the real game: python -m collect.transfer --dream dream-doom

PPO learns in the dream alone and, for comparison, in the real game for as many steps. These
policies, their snapshots during training, and a random player are scored in the real game and in
the dream. If interrupted, rerun the same command to resume.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown

import envs
from collect.transfer_report import Arm, Scored, write_report
from worldmodel.command import check_numbers, parse_options, progress_bar, run_command, say
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.parallel import check_workers, connect
from worldmodel.storage.files import locked, read_json, write_json

if TYPE_CHECKING:
    from collect.transfer_worlds import DreamWorlds

NUM_FIRST_FRAMES = 64  # of real games, from which dreams start
STARTS = ("own", "resets")
STEPS_A_MINUTE = 4_200  # of learning in a dream on one core, to estimate the time
_FIRST_FRAME_SEED = 1_000_000  # other games than those that are scored


@dataclass(frozen=True)
class Transfer:
    """Train PPO in a dream alone, and score it in the real game."""

    dream: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    real: str | None = None
    """The real game: doom-hgs, doom-battle2, doom-take-cover, robot-pushing, or a Gymnasium id;
    default: the one that the dream was recorded in."""
    out: Path = Path("reports/transfer")
    """Folder of policies, scores and the report. Resuming loads its policies: use only folders that
    you trust."""
    steps: int = 200_000
    """Steps of PPO, in the dream and in the real game each."""
    seeds: str = "0,1,2"
    """Seeds of the trainings, comma-separated."""
    num_envs: int = 16
    """Number of dreams, or real games, in a training batch."""
    horizon: str = "300"
    """Steps after which a dream is cut off in training; a list is swept: 100,300."""
    temperature: str = "own"
    """Temperature of the dream in training: own (the checkpoint's, which is used for scoring) or a
    number; a higher one is harder to exploit (Ha and Schmidhuber 2018, Sec. 4.2). A list is swept:
    own,1.0,1.2. Guidance is always the checkpoint's own."""
    starts: str = "resets"
    """Where dreams start in training. own: at the checkpoint's moments; resets: at first frames of
    real games; or a folder of episodes, at moments of these. A list is swept."""
    episodes: int = 100
    """Games on which a trained policy is scored, in each of the two worlds."""
    curve_every: int = 20_000
    """Training steps between the snapshots for the curves and the ranking; at least one rollout of
    128 steps in all environments."""
    curve_episodes: int = 20
    """Games on which each snapshot is scored; 0 leaves snapshots out."""
    device: str = "cpu"
    """Device of the dream: cpu or cuda. Policies learn on the CPU."""
    workers: int = 1
    """Processes that score policies, each on one core."""
    ray: str | None = None
    """Score on a Ray cluster: auto, or its address, host:port; --workers is the number of its cores
    to use. Needs the extra "ray"."""


def main() -> None:
    options = parse_options(Transfer, "collect.transfer", __doc__)
    run_command(lambda: transfer(options))


def transfer(options: Transfer) -> None:
    """Run the command.

    Raises:
        UserError: an option is not usable, the dream is of another world, or another process
            writes to the folder.
    """
    arms = _arms(options)  # report wrong options before the next imports, which take seconds
    from collect.transfer_worlds import DreamWorlds

    real = envs.REAL_WORLDS.get(options.real or "", options.real)
    worlds = DreamWorlds(options.dream, real, device=options.device)
    worlds.check(arms)
    connect(options.ray)  # before hours of training
    with locked(options.out):
        _check_same(options, worlds)
        say(
            f"{len(arms)} policies learn for {options.steps:,} steps each, about "
            f"{options.steps / STEPS_A_MINUTE:.0f} minutes per policy on one core, and are scored; "
            f"output: {options.out}. If interrupted, rerun the same command to resume"
        )
        worlds.first_moments(NUM_FIRST_FRAMES, _FIRST_FRAME_SEED)
        for arm in arms:
            _train(options, worlds, arm)
        scored = _score(options, worlds, arms)
        report = write_report(options.out, options, worlds.env_id, scored)
    Console().print(Markdown(report.read_text()))
    say(f"report: {report}")


def _arms(options: Transfer) -> list[Arm]:
    """All trainings: each seed in the real game, then each seed in each kind of dream.

    Policies of the real game can stay when the folder is used for a better dream.
    """
    check_numbers(
        options, steps=1, num_envs=1, episodes=1, curve_every=1, curve_episodes=0, workers=1
    )
    check_workers(options.workers)
    seeds = _numbers(options.seeds, "seeds", int)
    horizons = _numbers(options.horizon, "horizon", int)
    temperatures = _numbers(options.temperature, "temperature", _temperature)
    if not (
        min(horizons) >= 1 and min(seeds) >= 0 and all(t is None or t >= 0 for t in temperatures)
    ):
        raise UserError("--horizon must be at least 1, --temperature and --seeds at least 0")
    starts = {start.strip(): _starts_name(start.strip()) for start in options.starts.split(",")}
    dreams = [
        Arm("dream", seed, horizon, temperature, start, starts[start])
        for horizon, temperature, start in product(horizons, temperatures, starts)
        for seed in seeds
    ]
    arms = [*(Arm("real", seed) for seed in seeds), *dreams]
    if len({arm.name for arm in arms}) < len(arms):
        raise UserError("--seeds, --horizon, --temperature and --starts may not repeat a value")
    return arms


def _temperature(text: str) -> float | None:
    """None stands for the checkpoint's own."""
    return None if text.strip() == "own" else float(text)


def _starts_name(starts: str) -> str:
    """What represents it in names: for a folder, its name and a digest of its episodes."""
    if starts in STARTS:
        return starts
    if not (Path(starts) / "meta.json").is_file():
        missing = f"{starts}: there are no episodes here"
        raise UserError(f"{missing}; --starts must be own, resets or a folder of episodes")
    return f"{Path(starts).resolve().name}-{EpisodeReader(starts).digest()[:8]}"


def _check_same(options: Transfer, worlds: "DreamWorlds") -> None:
    """Raises UserError if the folder has policies that learned with other settings."""
    settings = {
        "dream": worlds.digest,
        "real": [worlds.env_id, worlds.env_kwargs],
        "steps": options.steps,
        "num_envs": options.num_envs,
        "rule": None if worlds.rule is None else worlds.rule.__name__,
    }
    path = options.out / "settings.json"
    learned = {policy.parent for policy in options.out.glob("*/policy*.zip")}
    in_dreams = sorted(folder.name for folder in learned if folder.name.startswith("dream-"))
    found = None
    with contextlib.suppress(UserError):
        found = read_json(path, most_bytes=2**20)
    found = found if isinstance(found, dict) else {}
    differing = [name for name in settings if found.get(name) != settings[name]]
    if in_dreams and differing == ["dream"]:
        raise UserError(
            f"{options.out} has policies that learned in another dream: remove "
            f"{', '.join(in_dreams)} there, or choose another --out"
        )
    if learned and set(differing) - {"dream"}:
        name = next(name for name in differing if name != "dream")
        raise UserError(
            f"{options.out} has policies that learned with other settings ({name} was "
            f"{found.get(name)}): choose another --out, or remove it"
        )
    write_json(path, settings)


def _numbers(text: str, option: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{option} must be comma-separated numbers, not {text!r}") from None


def _train(options: Transfer, worlds: "DreamWorlds", arm: Arm) -> None:
    from stable_baselines3 import PPO

    from collect.policies import FRAME_RECIPE, is_trained, learn, stacked_frames

    path = options.out / arm.name / "policy.zip"
    if is_trained(path, options.steps):
        return
    path.parent.mkdir(exist_ok=True)
    environments = worlds.training(arm, options.num_envs)
    with progress_bar() as bar:
        task = bar.add_task(f"training: {arm.name}", total=options.steps)
        learn(
            stacked_frames(environments),
            PPO,
            "CnnPolicy",
            # Four batches per rollout, as with the recipe's own 16 environments.
            FRAME_RECIPE | {"batch_size": FRAME_RECIPE["n_steps"] * options.num_envs // 4},
            path,
            num_steps=options.steps,
            seed=arm.seed,
            snapshot_every=options.curve_every,
            on_progress=lambda steps: bar.update(task, completed=steps),
        )


def _score(options: Transfer, worlds: "DreamWorlds", arms: list[Arm]) -> list[Scored]:
    """Score every policy, the snapshots, and a random player, in both worlds."""
    from collect.policies import snapshots
    from collect.transfer_worlds import Scores

    scores = Scores(options.out / "scores.json", worlds)
    policies: list[tuple[Arm, int, Path | None, int]] = [
        (Arm("random", 0), 0, None, options.episodes),
    ]
    for arm in arms:
        path = options.out / arm.name / "policy.zip"
        if options.curve_episodes:
            for steps, snapshot in sorted(snapshots(path).items()):
                if steps < options.steps:
                    policies.append((arm, steps, snapshot, options.curve_episodes))
        policies.append((arm, options.steps, path, options.episodes))
    games = [
        (scores.games(path, "real", count), scores.games(path, "dream", count))
        for *_, path, count in policies
    ]
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=2 * sum(count for *_, count in policies))
        scores.play(
            [game for both in games for game in both],
            num_workers=options.workers,
            ray=options.ray,
            on_games=lambda count: bar.advance(task, count),
        )
    return [
        Scored(arm, steps, scores.of(real), scores.of(dream))
        for (arm, steps, *_), (real, dream) in zip(policies, games, strict=True)
    ]


if __name__ == "__main__":
    main()
