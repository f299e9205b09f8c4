"""Steps that all recording commands share: train or load a policy, score it, record.

Interrupted commands resume when they are rerun.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

# Policies and their training are imported where they are used: torch takes seconds to import,
# and every worker process imports these modules.
from collect.recorder import Behaviour, Bot, EpisodePlayer, Job, Players, describe
from collect.rewards import Training
from collect.score import WHOLE_GAME, Measure, print_scores, score_behaviours
from envs.making import made
from envs.policy_function import FunctionPolicy, function_digest, names_function
from worldmodel import randomness
from worldmodel.command import check_numbers, progress_bar, say
from worldmodel.data import DatasetInfo, Episode, EpisodeWriter
from worldmodel.data.episodes import MOST_EPISODE_BYTES, episode_problems, read_info, write_info
from worldmodel.data.left_out import LeftOut
from worldmodel.data.shards import Shard, finished_shards, waiting_files
from worldmodel.errors import UserError
from worldmodel.parallel import Workers, check_workers, connect
from worldmodel.storage.files import file_digest, locked, read_json, write_json, written_whole

# Version of the random streams. In version 1, random players drew actions and how long to hold
# them from the same stream; such sets can't be added to.
STREAMS = 2
Mixture = dict[Behaviour, float]  # the probability that a behaviour plays an episode


@dataclass(frozen=True)
class Options:
    """Options that all collect commands share; some have their own defaults."""

    out: Path
    """Folder of the data set."""
    length: int
    """Maximum number of steps per episode."""
    episodes: int = 1000
    """Total number of episodes; a higher number than before adds to the set."""
    policy: str = "train"
    """Who plays: train (PPO, saved as OUT/policy.zip), random, explore (no trained policy: players
    that go everywhere and come back, and random ones; ViZDoom only), or the path of a
    stable-baselines3 .zip of PPO or SAC (see --trust), or of a dream's policy.safetensors, or
    module:name, a function of yours from an observation to an action."""
    workers: int = 2
    """Number of worker processes; each uses one core."""
    ray: str | None = None
    """Play on a Ray cluster: auto, or its address, host:port; --workers is the number of its cores
    to use. Needs the extra "ray". The set is the same wherever it is played."""
    seed: int = 0
    """Seed of training, scores and episodes. Sets that will be merged need different ones."""
    evaluate_episodes: int = 100
    """Complete games on which the policy and a random player are scored; 0 skips scoring."""
    score_only: bool = False
    """Stop after scoring."""
    trust: bool = False
    """Load a policy file that was not made on this machine: such a file can contain code. Needed
    once for each file."""


@dataclass(frozen=True)
class World:
    """An environment to record, and who plays in it.

    Attributes:
        env_id, env_kwargs: for `gymnasium.make`.
        mixture: who plays where there is a policy.
        measures: of complete games, by name.
        training: of the world's own policy; None: none is trained.
        explorer: makes a player that goes everywhere and comes back; None: there is none.
        longest_game: steps after which a scored game is cut off.
        is_repeatable: whether the same seed and actions give the same frames again.
    """

    env_id: str
    mixture: Mixture
    measures: dict[str, Measure]
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    training: Training | None = None
    explorer: Bot | None = None
    longest_game: int = WHOLE_GAME
    is_repeatable: bool = True

    @property
    def bots(self) -> dict[str, Bot]:
        """By the `actor` of a behaviour."""
        bots = {"bot": self.training and self.training.bot, "explorer": self.explorer}
        return {name: bot for name, bot in bots.items() if bot is not None}

    def check_policy(self, policy: str, *, trusted: bool) -> None:
        """Raises UserError unless it is a function, or the path of a policy for this world that may
        be loaded."""
        from envs.policy import load_policy

        with contextlib.closing(made(self.env_id, **self.env_kwargs)) as env:
            if names_function(policy):
                FunctionPolicy(policy, env)
            else:
                load_policy(Path(policy), env, trusted=trusted)

    def replayed(self, episode: Episode) -> np.ndarray:
        """The frames that an episode's seed and actions give here."""
        with contextlib.closing(made(self.env_id, **self.env_kwargs)) as env:
            frame, _ = env.reset(seed=episode.seed)
            return np.stack([frame] + [env.step(action)[0] for action in episode.action])


def record_set(options: Options, world: World) -> None:
    """Train, score and record.

    Raises:
        UserError: an option, the policy file or the folder is not usable; no episode was written.
            Or a worker failed; finished episodes are kept.
    """
    _check(options, world)
    if options.policy not in ("random", "explore", "train"):
        world.check_policy(options.policy, trusted=options.trust)
    connect(options.ray)  # before hours of training
    with locked(options.out):
        has_episodes = (options.out / "meta.json").exists()
        policy = _policy(options, world, has_episodes)
        sha256 = _digest(policy)
        mixture = (
            world.mixture if policy is not None else _without_policy(world.mixture, options.policy)
        )
        recording = _recording(options, world, mixture, sha256)
        info = describe(world.env_id, world.env_kwargs, {"recording": recording})
        if has_episodes:
            _check_same_recording(options.out, info)
        most_frames = MOST_EPISODE_BYTES // math.prod(info.frame_shape)
        if options.length >= most_frames:
            say(
                f"note: episodes of {most_frames} steps and more are too large and will be left "
                f"out: choose a --length below {most_frames} if games last so long"
            )
        if isinstance(policy, Path):
            policy = _copy_policy(policy, options.out).read_bytes()
        if has_episodes and world.is_repeatable:
            _check_rendering(options.out, world, info)
        player = partial(EpisodePlayer, world.env_id, world.env_kwargs, policy, world.bots)
        with Workers(player, options.workers, ray=options.ray) as workers:
            if options.evaluate_episodes:
                info = _score(options, world, mixture, info, workers)
            if not options.score_only:
                _record(options, mixture, info, workers)


def _check(options: Options, world: World) -> None:
    if world.training is None and options.policy == "train":
        raise UserError(
            "no policy is trained here: give a .zip of PPO or SAC as --policy, or random"
        )
    if world.explorer is None and options.policy == "explore":
        raise UserError(
            "there is no exploring player here: --policy random, or the path of a policy"
        )
    check_numbers(options, episodes=1, length=1, workers=1, seed=0, evaluate_episodes=0)
    check_workers(options.workers)
    if world.training is not None and world.training.num_steps < 1:
        raise UserError(f"--train-steps must be at least 1, not {world.training.num_steps}")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file, not a folder")


def _policy(options: Options, world: World, has_episodes: bool) -> Path | str | None:
    """The file of the policy that plays, trained if necessary, or the name of a function; None: no
    policy plays."""
    if options.policy in ("random", "explore"):
        return None
    if options.policy != "train":
        return options.policy if names_function(options.policy) else Path(options.policy)
    path = options.out / "policy.zip"
    if path.exists():
        world.check_policy(str(path), trusted=options.trust)
    elif has_episodes:
        raise UserError(
            f"{options.out} contains episodes but no policy.zip to resume with: use the same "
            "--policy as before, or choose another --out"
        )
    if not has_episodes:  # a policy that has recorded is not trained further
        _train(options, world, path)
    return path


def _digest(policy: Path | str | None) -> str | None:
    if policy is None:
        return None
    return file_digest(policy) if isinstance(policy, Path) else function_digest(policy)


def _train(options: Options, world: World, path: Path) -> None:
    from collect.policies import is_trained, train_policy

    training = world.training
    assert training is not None  # `_check` refuses --policy train otherwise
    _check_same_training(options, world, training, path)
    if is_trained(path, training.num_steps, patience=training.patience, trusted=options.trust):
        return
    name, duration = training.algorithm.upper(), ""
    if training.steps_a_minute is not None:
        minutes = training.num_steps / training.steps_a_minute
        duration = f", about {minutes:.0f} minutes on one core"
    say(
        f"training {name} for {training.num_steps:,} steps into {path}{duration}; then "
        f"{options.episodes} episodes are recorded. If interrupted, rerun the same command to "
        "resume"
    )
    with progress_bar() as progress:
        has_bot = training.bot is not None
        cloning = progress.add_task("imitating the bot", total=1, visible=has_bot)
        task = progress.add_task(f"training {name}", total=training.num_steps)
        num_steps = train_policy(
            world.env_id,
            world.env_kwargs,
            training,
            path,
            seed=options.seed,
            num_workers=options.workers,
            on_cloning=lambda fraction: progress.update(cloning, completed=fraction),
            on_progress=lambda steps: progress.update(task, completed=steps),
        )
    if num_steps < training.num_steps:
        say(f"training ended after {num_steps:,} steps: the mean return no longer grew")


def _check_same_training(options: Options, world: World, training: Training, path: Path) -> None:
    """Raises UserError where a policy has begun to learn with other settings; notes those that a
    new one begins with."""
    settings = {
        "env_id": world.env_id,
        "env_kwargs": world.env_kwargs,
        "seed": options.seed,
        "algorithm": training.algorithm,
        "observes": training.observes,
    }
    settings = json.loads(json.dumps(settings))
    noted = options.out / "training.json"
    if not path.exists():
        write_json(noted, settings)
    elif noted.exists():
        found = read_json(noted, most_bytes=2**20)
        found = found if isinstance(found, dict) else {}
        differing = [name for name in settings if found.get(name) != settings[name]]
        if differing:
            raise UserError(
                f"{path} has learned with other settings ({', '.join(differing)}): use the same "
                "options to resume, or choose another --out"
            )


def _copy_policy(path: Path, folder: Path) -> Path:
    """Copy the policy to OUT/policy.zip, beside the episodes that it plays."""
    copy = folder / "policy.zip"
    if not copy.exists():
        with written_whole(copy) as unfinished:
            shutil.copyfile(path, unfinished)
    elif file_digest(copy) != file_digest(path):
        raise UserError(
            f"{copy} is a different policy from {path}: choose another --out, or use the same "
            "--policy as before"
        )
    return copy


def _recording(
    options: Options, world: World, mixture: Mixture, sha256: str | None
) -> dict[str, Any]:
    """What all episodes of a set have in common, for meta.json."""
    training = world.training if options.policy == "train" else None
    return {
        "seed": options.seed,
        "streams": STREAMS,
        "length": options.length,
        "train_steps": None if training is None else training.num_steps,
        "policy_sha256": sha256,
        "behaviours": {
            who.name: {
                "share": probability,
                "random_start": who.random_start,
                "max_hold": who.max_hold,
                # Missing from sets recorded before it was introduced.
                **({"rest": who.rest} if who.rest else {}),
            }
            for who, probability in mixture.items()
        },
    }


def _without_policy(mixture: Mixture, policy: str) -> Mixture:
    """The mixture restricted to players that need no trained policy."""
    actors = (None, "explorer") if policy == "explore" else (None,)
    rest = {who: probability for who, probability in mixture.items() if who.actor in actors}
    return {who: probability / sum(rest.values()) for who, probability in rest.items()}


def _check_same_recording(folder: Path, info: DatasetInfo) -> None:
    """Raises UserError when the folder's episodes were recorded with other options."""
    stored_info = read_info(folder)
    stored, recording = stored_info.policies.get("recording", {}), info.policies["recording"]
    # `_check_rendering` compares the frames themselves.
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
    """Replay an episode of the folder, and store how frames are rendered if that is missing.

    Raises:
        UserError: its seed and actions give other frames here, so new episodes wouldn't match.
    """
    stored = read_info(folder)
    for path in [*finished_shards(folder), *waiting_files(folder)]:
        shard = Shard(path, stored)
        if len(shard.index) and shard.problems[0] is None:
            episode = shard.episode(0)
            frames = world.replayed(episode)
            if np.array_equal(frames, episode.frames):
                break
            if not np.array_equal(frames, world.replayed(episode)):
                say(
                    f"note: episode {episode.episode_id} gives different frames each time it is "
                    "replayed, so it can't tell whether this is the simulator of the set"
                )
                break
            raise UserError(
                f"{folder} was recorded with another simulator: episode {episode.episode_id} has "
                "different frames when it is replayed here: the simulator has another version, "
                "or renders differently. Choose another --out"
            )
    if not stored.rendering:
        write_info(folder, replace(stored, rendering=info.rendering))


def _score(
    options: Options, world: World, mixture: Mixture, info: DatasetInfo, workers: Players
) -> DatasetInfo:
    """Score the policy, unless OUT/policy-score.json holds the scores; print and store them.

    Returns:
        `info` with the scores.
    """
    path = options.out / "policy-score.json"
    without_noise = [who for who in mixture if who.random_start in (0, 1)]
    measured_on = {
        "policy_sha256": info.policies["recording"]["policy_sha256"],
        "seed": options.seed,
        "num_episodes": options.evaluate_episodes,
        "measures": list(world.measures),
        "env_kwargs": world.env_kwargs,
        "longest_game": world.longest_game,
        "players": [who.name for who in without_noise],
    }
    stored = read_json(path, most_bytes=2**20) if path.exists() else None
    scores = stored.pop("scores", None) if isinstance(stored, dict) else None
    if not isinstance(scores, dict) or stored != measured_on:
        with progress_bar() as progress:
            total = options.evaluate_episodes * len(without_noise)
            task = progress.add_task("scoring the policy", total=total)
            scores = score_behaviours(
                workers,
                world.measures,
                info,
                behaviours=without_noise,
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


def _record(options: Options, mixture: Mixture, info: DatasetInfo, workers: Players) -> None:
    with EpisodeWriter(options.out, info, is_locked=True) as writer, progress_bar() as progress:
        missing = [i for i in range(options.episodes) if i not in writer.done]
        num_done = options.episodes - len(missing)
        task = progress.add_task("recording", total=options.episodes, completed=num_done)
        left_out = LeftOut()  # starts empty: episodes left out before are played again
        left_out.write(options.out)
        for episode in workers.run(_jobs(options, mixture, missing)):
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


def _jobs(options: Options, mixture: Mixture, episode_ids: list[int]) -> Iterator[Job]:
    for i in episode_ids:
        env_seed = randomness.integer(options.seed, "environment", i)
        player_seed = randomness.integer(options.seed, "player", i)
        behaviour = choose_behaviour(options.seed, i, mixture)
        yield Job(i, env_seed, player_seed, behaviour, options.length)


def choose_behaviour(seed: int, episode_id: int, mixture: Mixture) -> Behaviour:
    """Sample who plays an episode; determined by its id and the seed."""
    drawn = randomness.generator(seed, "behaviour", episode_id).random()
    below = 0.0
    for behaviour, probability in mixture.items():
        below += probability
        if drawn < below:
            return behaviour
    return behaviour
