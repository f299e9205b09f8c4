"""What every `python -m collect...` does: train or take a policy, measure it, record episodes.

Stopped in whatever way, the same call goes on where it was.
"""

import hashlib
import os
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
from worldmodel.command import progress_bar, say
from worldmodel.data import DatasetInfo, Episode, EpisodeWriter
from worldmodel.data.episodes import episode_problems, read_info, write_info
from worldmodel.data.left_out import begin_left_out, note_left_out, read_left_out
from worldmodel.data.shards import Shard, finished_shards, unfinished_shards
from worldmodel.errors import UserError
from worldmodel.storage.files import locked, read_json, write_json

# Sets begun before random players had separate streams for actions and holds can't be added to.
STREAMS = 2
UNTRAINED = ("random", "explore", "train")  # no file is given
MOST = {"episodes": 10**9, "length": 10**6, "workers": 1024, "train-steps": 10**12}


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
        bots = {
            "bot": None if self.training is None else self.training.bot,
            "explorer": self.explorer,
        }
        return {name: bot for name, bot in bots.items() if bot is not None}


def record_set(options: Options, world: World) -> None:
    """Train, measure and record as the options say.

    Raises:
        UserError: an option, the policy file or the folder is not usable; nothing was written. Or a
            worker failed; finished episodes are kept.
    """
    _check(options, world)
    if options.policy not in UNTRAINED:
        _check_policy(Path(options.policy), world, trusted=options.trust)
    with locked(options.out):
        _record_set(options, world)


def _record_set(options: Options, world: World) -> None:
    has_episodes = (options.out / "meta.json").exists()
    policy_path = options.out / "policy.zip"
    if options.policy in ("random", "explore"):
        policy_path = None
    elif options.policy != "train":
        policy_path = Path(options.policy)
    elif not has_episodes:  # a policy that has recorded is trained no further
        assert world.training is not None  # or it was refused
        _train(options, world, world.training, policy_path)
    elif policy_path.exists():
        _check_policy(policy_path, world, trusted=options.trust)
    recording = _recording(options, world, policy_path)
    info = describe(world.env_id, world.env_kwargs, {"recording": recording})
    if has_episodes:
        _refuse_other_recording(options.out, info)
    if policy_path is not None:
        policy_path = _keep_policy(policy_path, options.out)
    if has_episodes and world.repeats_itself:
        _check_rendering(options.out, world, info)
    with Workers(
        options.workers, world.env_id, world.env_kwargs, policy_path, world.bots
    ) as workers:
        if options.evaluate_episodes:
            info = _score(options, world, info, workers)
        if not options.score_only:
            _record(options, world, info, workers)


def _check(options: Options, world: World) -> None:
    if world.training is None and options.policy == "train":
        raise UserError("no policy is trained here: give a PPO .zip as --policy, or random")
    if world.explorer is None and options.policy == "explore":
        raise UserError(
            "there is no exploring player here: --policy random, or the path of a policy"
        )
    at_least_one = {name: getattr(options, name) for name in ("episodes", "length", "workers")}
    if world.training is not None:
        at_least_one["train-steps"] = world.training.num_steps
    for name, value in at_least_one.items():
        if not 1 <= value <= MOST[name]:
            raise UserError(f"--{name} must be at least 1 and at most {MOST[name]:,}, not {value}")
    for name in ("seed", "evaluate_episodes"):
        if getattr(options, name) < 0:
            shown = name.replace("_", "-")
            raise UserError(f"--{shown} must not be negative, but is {getattr(options, name)}")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file, not a folder")


def _train(options: Options, world: World, training: Training, path: Path) -> None:
    from collect.policies import is_trained, train_ppo

    if path.exists():
        _check_policy(path, world, trusted=options.trust)
    if is_trained(path, training.num_steps, trusted=options.trust):
        return
    minutes = training.num_steps / training.steps_a_minute
    say(
        f"training PPO for {training.num_steps:,} steps, some {minutes:.0f} minutes of one core, "
        f"into {path}; then {options.episodes} episodes are recorded. Interrupt it at will: the "
        "same command resumes"
    )
    with progress_bar() as progress:
        bot = training.bot is not None
        cloning = progress.add_task("learning from the bot", total=1, visible=bot)
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


def _check_policy(path: Path, world: World, *, trusted: bool) -> None:
    """Raises UserError unless the file is a policy for the environment, and may be loaded."""
    from envs.policy import load_policy

    env = made(world.env_id, **world.env_kwargs)
    try:
        load_policy(path, env, trusted=trusted)
    finally:
        env.close()


def _keep_policy(path: Path, folder: Path) -> Path:
    """The policy as OUT/policy.zip, beside the episodes that it plays."""
    kept = folder / "policy.zip"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / "policy.unfinished.zip"
        shutil.copyfile(path, unfinished)
        os.replace(unfinished, kept)
    elif _sha256(kept) != _sha256(path):
        raise UserError(
            f"{kept} is another policy than {path}: choose another --out, or leave --policy as "
            "it was"
        )
    return kept


def _recording(options: Options, world: World, policy_path: Path | None) -> dict[str, Any]:
    """What meta.json says of who acted: all episodes of a set have this in common."""
    if policy_path is not None and not policy_path.exists():
        raise UserError(
            f"{options.out} holds episodes but no policy.zip to go on with: use the same --policy "
            "as then, or choose another --out"
        )
    training = world.training if options.policy == "train" else None
    return {
        "seed": options.seed,
        "streams": STREAMS,
        "length": options.length,
        "train_steps": None if training is None else training.num_steps,
        "policy_sha256": None if policy_path is None else _sha256(policy_path),
        "behaviours": {
            behaviour.name: {
                "share": share,
                "random_start": behaviour.random_start,
                "max_hold": behaviour.max_hold,
                # Not said by sets from before there was such a thing.
                **({"rest": behaviour.rest} if behaviour.rest else {}),
            }
            for behaviour, share in _shares(world, options, policy_path is not None).items()
        },
    }


def _shares(world: World, options: Options, with_policy: bool) -> dict[Behaviour, float]:
    if with_policy:
        return world.shares
    actors = (None, "explorer") if options.policy == "explore" else (None,)
    unaided = {b: share for b, share in world.shares.items() if b.actor in actors}
    return {behaviour: share / sum(unaided.values()) for behaviour, share in unaided.items()}


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
            f"{folder} was recorded otherwise: {'; '.join(differences)}. Use the same options "
            "to go on there, or choose another --out"
        )


def _check_rendering(folder: Path, world: World, info: DatasetInfo) -> None:
    """Play an episode of the folder again, and note how frames are made if that isn't said yet.

    Raises:
        UserError: its seed and actions give other frames here: none recorded now would mix.
    """
    stored = read_info(folder)
    episode = _any_episode(folder, stored)
    if episode is not None and not _comes_out_again(episode, world):
        raise UserError(
            f"{folder} was recorded otherwise: episode {episode.episode_id} comes out with other "
            "frames here, from another version of the simulator, or drawn in another way. Choose "
            "another --out"
        )
    if not stored.rendering:
        write_info(folder, replace(stored, rendering=info.rendering))


def _any_episode(folder: Path, info: DatasetInfo) -> Episode | None:
    """The first episode of a shard, finished or not; None when there is none yet."""
    for path in [*finished_shards(folder), *unfinished_shards(folder)]:
        shard = Shard(path, info)
        if len(shard.index) and shard.problems[0] is None:
            return shard.episode(0)
    return None


def _comes_out_again(episode: Episode, world: World) -> bool:
    """Whether its seed and actions give its frames, to the bit."""
    env = made(world.env_id, **world.env_kwargs)
    try:
        frame, _ = env.reset(seed=episode.seed)
        frames = [frame] + [env.step(action)[0] for action in episode.action]
    finally:
        env.close()
    return np.array_equal(np.stack(frames), episode.frames)


def _score(options: Options, world: World, info: DatasetInfo, workers: Workers) -> DatasetInfo:
    """Measure the policy, unless OUT/policy-score.json says that it was done; print and store."""
    path = options.out / "policy-score.json"
    measured_on = {
        "policy_sha256": info.policies["recording"]["policy_sha256"],
        "seed": options.seed,
        "num_episodes": options.evaluate_episodes,
        "measures": list(world.measures),
        "env_kwargs": world.env_kwargs,
    }
    scores = _stored_scores(path, measured_on)
    if scores is None:
        shares = _shares(world, options, measured_on["policy_sha256"] is not None)
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
    info = replace(info, policies={**info.policies, "scores": scores})
    if (options.out / "meta.json").exists():
        write_info(options.out, replace(read_info(options.out), policies=info.policies))
    return info


def _stored_scores(path: Path, measured_on: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured before on the same; None where nothing was."""
    if not path.exists():
        return None
    stored = read_json(path, most_bytes=2**20)
    if not isinstance(stored, dict) or not isinstance(stored.get("scores"), dict):
        return None
    scores = stored.pop("scores")
    return scores if stored == measured_on else None


def _record(options: Options, world: World, info: DatasetInfo, workers: Workers) -> None:
    with (
        EpisodeWriter(options.out, info, is_locked=True) as writer,
        progress_bar() as progress,
    ):
        missing = [i for i in range(options.episodes) if i not in writer.done]
        begin_left_out(options.out)  # those that were left out are played again, and again left out
        task = progress.add_task(
            "recording", total=options.episodes, completed=options.episodes - len(missing)
        )
        for episode in workers.play(_jobs(options, world, missing, info)):
            if problems := episode_problems(episode, info):
                note_left_out(options.out, problems[0], f"episode {episode.episode_id}")
            else:
                writer.append(episode)
            progress.advance(task)
    say(f"{options.out} holds {len(writer.done)} episodes")
    left_out = read_left_out(options.out)
    for line in left_out:
        say(line)
    if not writer.done:
        raise UserError(f"{options.out} holds no episode: {'; '.join(left_out)}")


def _jobs(
    options: Options, world: World, episode_ids: list[int], info: DatasetInfo
) -> Iterator[Job]:
    shares = _shares(world, options, info.policies["recording"]["policy_sha256"] is not None)
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
