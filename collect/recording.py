"""What every `python -m collect...` does: train or take a policy, measure it, record episodes.

If it is interrupted, the same command resumes.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

# Policies and their training are imported where they are used: torch takes seconds to import,
# and every worker process imports these modules.
from collect.recorder import Behaviour, Bot, Job, Workers, describe
from collect.score import WHOLE_GAME, Measure, print_scores, score_behaviours
from collect.training import Training
from envs.making import made
from worldmodel import randomness
from worldmodel.command import check_numbers, progress_bar, say
from worldmodel.data import DatasetInfo, Episode, EpisodeWriter
from worldmodel.data.episodes import episode_problems, read_info, write_info
from worldmodel.data.left_out import LeftOut
from worldmodel.data.shards import Shard, finished_shards, waiting_files
from worldmodel.errors import UserError
from worldmodel.storage.files import locked, read_json, write_json, written_whole

# Sets begun before random players had separate streams for actions and holds can't be added to.
STREAMS = 2
UNTRAINED = ("random", "explore", "train")  # no file is given
MOST_WORKERS = 1024


@dataclass(frozen=True)
class Options:
    """What every collect command is asked for; commands have defaults of their own."""

    out: Path
    """Folder of the data set."""
    length: int
    """Most steps an episode."""
    episodes: int = 1000
    """Number of episodes in all; more than before adds to the set."""
    policy: str = "train"
    """Who plays: train (PPO, kept as OUT/policy.zip), random, explore (nobody trained: players
    that go everywhere and come back, and random ones; where there are any), or the path of a
    stable-baselines3 PPO .zip (see --trust)."""
    workers: int = 2
    """Worker processes, each with one core."""
    seed: int = 0
    """Of everything: training, scores and episodes. Sets to be merged need different ones."""
    evaluate_episodes: int = 100
    """Whole games that the policy and a random one are measured on; 0 leaves that out."""
    score_only: bool = False
    """Stop after the score."""
    trust: bool = False
    """Load a policy file that was not made on this machine: such a file can carry code. Needed
    once for each file."""


@dataclass(frozen=True)
class World:
    """What is collected from.

    Attributes:
        env_id, env_kwargs: for `gymnasium.make`.
        shares: who acts where there is a policy, and how often.
        measures: of whole games, by name.
        training: of a policy of its own; None: none is trained.
        explorer: makes a player that goes everywhere and comes back; None: there is none.
        longest_game: steps after which a measured game is cut off.
        repeats_itself: whether a seed and actions give the same frames again.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    shares: dict[Behaviour, float]
    measures: dict[str, Measure]
    training: Training | None
    explorer: Bot | None = None
    longest_game: int = WHOLE_GAME
    repeats_itself: bool = True

    @property
    def bots(self) -> dict[str, Bot]:
        """By the `actor` of a behaviour."""
        taught_by = None if self.training is None else self.training.bot
        bots = {"bot": taught_by, "explorer": self.explorer}
        return {name: bot for name, bot in bots.items() if bot is not None}

    def check_policy(self, path: Path, *, trusted: bool) -> None:
        """Raises UserError unless the file is a policy for this world, and may be loaded."""
        from envs.policy import load_policy

        with contextlib.closing(made(self.env_id, **self.env_kwargs)) as env:
            load_policy(path, env, trusted=trusted)

    def gives_again(self, episode: Episode) -> bool:
        """Whether an episode's seed and actions give its frames, to the bit."""
        with contextlib.closing(made(self.env_id, **self.env_kwargs)) as env:
            frame, _ = env.reset(seed=episode.seed)
            frames = [frame] + [env.step(action)[0] for action in episode.action]
        return np.array_equal(np.stack(frames), episode.frames)


def record_set(options: Options, world: World) -> None:
    """Train, measure and record as the options say.

    Raises:
        UserError: an option, the policy file or the folder is not usable; nothing was written. Or a
            worker failed; finished episodes are kept.
    """
    _check(options, world)
    if options.policy not in UNTRAINED:
        world.check_policy(Path(options.policy), trusted=options.trust)
    with locked(options.out):
        has_episodes = (options.out / "meta.json").exists()
        policy_path = _policy_path(options, world, has_episodes)
        sha256 = None if policy_path is None else _sha256(policy_path)
        shares = world.shares if sha256 else _unaided(world.shares, options.policy)
        recording = _described(options, world, shares, sha256)
        info = describe(world.env_id, world.env_kwargs, {"recording": recording})
        if has_episodes:
            _refuse_other_recording(options.out, info)
        if policy_path is not None:
            policy_path = _kept(policy_path, options.out)
        if has_episodes and world.repeats_itself:
            _check_rendering(options.out, world, info)
        with Workers(
            options.workers, world.env_id, world.env_kwargs, policy_path, world.bots
        ) as workers:
            if options.evaluate_episodes:
                info = _scored(options, world, shares, info, workers)
            if not options.score_only:
                _record(options, shares, info, workers)


def _check(options: Options, world: World) -> None:
    if world.training is None and options.policy == "train":
        raise UserError("no policy is trained here: give a PPO .zip as --policy, or random")
    if world.explorer is None and options.policy == "explore":
        raise UserError(
            "there is no exploring player here: --policy random, or the path of a policy"
        )
    check_numbers(options, episodes=1, length=1, workers=1, seed=0, evaluate_episodes=0)
    if options.workers > MOST_WORKERS:
        raise UserError(f"--workers must be at most {MOST_WORKERS}, not {options.workers}")
    if world.training is not None and world.training.num_steps < 1:
        raise UserError(f"--train-steps must be at least 1, not {world.training.num_steps}")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file, not a folder")


def _policy_path(options: Options, world: World, has_episodes: bool) -> Path | None:
    """The policy that plays, trained if there is none yet; None: nobody trained plays."""
    if options.policy in ("random", "explore"):
        return None
    if options.policy != "train":
        return Path(options.policy)
    path = options.out / "policy.zip"
    if path.exists():
        world.check_policy(path, trusted=options.trust)
    elif has_episodes:
        raise UserError(
            f"{options.out} holds episodes but no policy.zip to resume with: use the same --policy "
            "as then, or choose another --out"
        )
    if not has_episodes:  # a policy that has recorded is trained no further
        assert world.training is not None  # or it was refused
        _train(options, world, world.training, path)
    return path


def _train(options: Options, world: World, training: Training, path: Path) -> None:
    from collect.policies import is_trained, train_ppo

    if is_trained(path, training.num_steps, trusted=options.trust):
        return
    minutes = training.num_steps / training.steps_a_minute
    say(
        f"training PPO for {training.num_steps:,} steps, some {minutes:.0f} minutes of one core, "
        f"into {path}; then {options.episodes} episodes are recorded. If it is interrupted, "
        "the same command resumes"
    )
    with progress_bar() as progress:
        has_bot = training.bot is not None
        cloning = progress.add_task("learning from the bot", total=1, visible=has_bot)
        task = progress.add_task("training PPO", total=training.num_steps)
        train_ppo(
            world.env_id,
            world.env_kwargs,
            training,
            path,
            seed=options.seed,
            trusted=options.trust,
            on_cloning=lambda share: progress.update(cloning, completed=share),
            on_progress=lambda steps: progress.update(task, completed=steps),
        )


def _kept(path: Path, folder: Path) -> Path:
    """The policy as OUT/policy.zip, beside the episodes that it plays."""
    kept = folder / "policy.zip"
    if not kept.exists():
        with written_whole(kept) as unfinished:
            shutil.copyfile(path, unfinished)
    elif _sha256(kept) != _sha256(path):
        raise UserError(
            f"{kept} is another policy than {path}: choose another --out, or leave --policy as "
            "it was"
        )
    return kept


def _described(
    options: Options, world: World, shares: dict[Behaviour, float], sha256: str | None
) -> dict[str, Any]:
    """What meta.json says of who acted: all episodes of a set have this in common."""
    training = world.training if options.policy == "train" else None
    return {
        "seed": options.seed,
        "streams": STREAMS,
        "length": options.length,
        "train_steps": None if training is None else training.num_steps,
        "policy_sha256": sha256,
        "behaviours": {
            behaviour.name: {
                "share": share,
                "random_start": behaviour.random_start,
                "max_hold": behaviour.max_hold,
                # Sets from before there was such a thing don't say it.
                **({"rest": behaviour.rest} if behaviour.rest else {}),
            }
            for behaviour, share in shares.items()
        },
    }


def _unaided(shares: dict[Behaviour, float], policy: str) -> dict[Behaviour, float]:
    """The shares of those who act without a trained policy."""
    actors = (None, "explorer") if policy == "explore" else (None,)
    unaided = {who: share for who, share in shares.items() if who.actor in actors}
    return {who: share / sum(unaided.values()) for who, share in unaided.items()}


def _refuse_other_recording(folder: Path, info: DatasetInfo) -> None:
    """Raises UserError when the folder's episodes were recorded with other options."""
    stored_info = read_info(folder)
    stored, recording = stored_info.policies.get("recording", {}), info.policies["recording"]
    # Whether frames are made alike is found out by making some.
    differences = stored_info.differences(replace(info, rendering=stored_info.rendering))
    differences += [
        name if isinstance(value, dict) else f"{name} {stored.get(name)} against {value}"
        for name, value in recording.items()
        if stored.get(name) != value
    ]
    if differences:
        raise UserError(
            f"{folder} was recorded with other options: {'; '.join(differences)}. Use the same "
            "options to resume, or choose another --out"
        )


def _check_rendering(folder: Path, world: World, info: DatasetInfo) -> None:
    """Play an episode of the folder again, and note how frames are made if that isn't said yet.

    Raises:
        UserError: its seed and actions give other frames here: none recorded now would mix.
    """
    stored = read_info(folder)
    for path in [*finished_shards(folder), *waiting_files(folder)]:
        shard = Shard(path, stored)
        if len(shard.index) and shard.problems[0] is None:
            episode = shard.episode(0)
            if world.gives_again(episode):
                break
            raise UserError(
                f"{folder} was recorded with another simulator: episode {episode.episode_id} has "
                "different frames when it is played again here: the simulator has another version, "
                "or renders differently. Choose another --out"
            )
    if not stored.rendering:
        write_info(folder, replace(stored, rendering=info.rendering))


def _scored(
    options: Options,
    world: World,
    shares: dict[Behaviour, float],
    info: DatasetInfo,
    workers: Workers,
) -> DatasetInfo:
    """Measure the policy, unless OUT/policy-score.json says that it was done; print and store.

    Returns:
        `info` with the scores.
    """
    path = options.out / "policy-score.json"
    measured_on = {
        "policy_sha256": info.policies["recording"]["policy_sha256"],
        "seed": options.seed,
        "num_episodes": options.evaluate_episodes,
        "measures": list(world.measures),
        "env_kwargs": world.env_kwargs,
    }
    stored = read_json(path, most_bytes=2**20) if path.exists() else None
    scores = stored.pop("scores", None) if isinstance(stored, dict) else None
    if not isinstance(scores, dict) or stored != measured_on:
        behaviours = [who for who in shares if who.random_start in (0, 1)]  # without the noisy ones
        with progress_bar() as progress:
            total = options.evaluate_episodes * len(behaviours)
            task = progress.add_task("measuring the policy", total=total)
            scores = score_behaviours(
                workers,
                world.measures,
                info,
                behaviours=behaviours,
                num_episodes=options.evaluate_episodes,
                longest_game=world.longest_game,
                seed=options.seed,
                on_episode=lambda: progress.advance(task),
            )
        write_json(path, {**measured_on, "scores": scores})
    print_scores(scores, world.measures, Console())
    policies = {**info.policies, "scores": scores}
    if (options.out / "meta.json").exists():
        write_info(options.out, replace(read_info(options.out), policies=policies))
    return replace(info, policies=policies)


def _record(
    options: Options, shares: dict[Behaviour, float], info: DatasetInfo, workers: Workers
) -> None:
    with EpisodeWriter(options.out, info, is_locked=True) as writer, progress_bar() as progress:
        missing = [i for i in range(options.episodes) if i not in writer.done]
        num_done = options.episodes - len(missing)
        task = progress.add_task("recording", total=options.episodes, completed=num_done)
        left_out = LeftOut()  # empty: what was left out before is played, and left out, again
        left_out.write(options.out)
        for episode in workers.play(_jobs(options, shares, missing)):
            if problems := episode_problems(episode, info):
                left_out.add(problems[0], f"episode {episode.episode_id}")
                left_out.write(options.out)
            else:
                writer.append(episode)
            progress.advance(task)
    lines = left_out.lines()
    for line in (f"{options.out} holds {len(writer.done)} episodes", *lines):
        say(line)
    if not writer.done:
        raise UserError(f"{options.out} holds no episode: {'; '.join(lines)}")


def _jobs(
    options: Options, shares: dict[Behaviour, float], episode_ids: list[int]
) -> Iterator[Job]:
    for i in episode_ids:
        env_seed = randomness.integer(options.seed, "environment", i)
        player_seed = randomness.integer(options.seed, "player", i)
        behaviour = choose_behaviour(options.seed, i, shares)
        yield Job(i, env_seed, player_seed, behaviour, options.length)


def choose_behaviour(seed: int, episode_id: int, shares: dict[Behaviour, float]) -> Behaviour:
    """Who acts in an episode: fixed by its id and the seed, in the given shares."""
    drawn = randomness.generator(seed, "behaviour", episode_id).random()
    below = 0.0
    for behaviour, share in shares.items():
        below += share
        if drawn < below:
            return behaviour
    return behaviour


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
