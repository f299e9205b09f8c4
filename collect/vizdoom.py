"""Record a ViZDoom scenario: python -m collect.vizdoom --scenario hgs --out data/doom-hgs

Trains a policy when none is given, measures it beside a random one, then records episodes with
parallel workers. Stopped in whatever way, the same command goes on where it was.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Policies and their training are imported where they are used: torch takes seconds to import,
# and every worker process imports this module.
from collect.recorder import (
    POLICY,
    POLICY_WITH_NOISE,
    RANDOM,
    Behaviour,
    Job,
    WorkerError,
    Workers,
    describe,
    random_seeds,
)
from collect.score import print_scores, score_behaviours
from worldmodel.data import DataError, DatasetInfo, Episode, EpisodeWriter
from worldmodel.data.episodes import read_info, write_info
from worldmodel.data.shards import open_shard, read_episode, read_index

SCENARIOS = {"hgs": "DoomHealthGatheringSupreme-v0"}
# The noise takes a world model to places where the policy would not go, and covers every action.
WITH_POLICY = {POLICY: 0.45, POLICY_WITH_NOISE: 0.35, RANDOM: 0.2}
WITHOUT_POLICY = {RANDOM: 1.0}

console = Console(stderr=True)


@dataclass(frozen=True)
class Collect:
    """Record a ViZDoom scenario, played by a trained policy, by that policy with noise, and at
    random. Stopped in whatever way, the same command goes on where it was."""

    scenario: str = "hgs"
    """What to play. hgs: Health Gathering Supreme."""
    episodes: int = 1000
    """Number of episodes in all; more than before adds to the set."""
    length: int = 100
    """Most steps an episode; 8.75 steps are a second."""
    out: Path = Path("data/doom-hgs")
    """Folder of the data set. Its policy.zip is loaded to go on: use only sets that you trust."""
    policy: str = "train"
    """Who plays: train (PPO, kept as OUT/policy.zip), random, or the path of a
    stable-baselines3 PPO .zip. Such a file can carry code: take only one that you trust."""
    train_steps: int = 500_000
    """Environment steps of the policy's training, in all."""
    workers: int = 2
    """Worker processes, each with one core."""
    seed: int = 0
    """Of everything: training, scores and episodes. Sets to be merged need different ones."""
    evaluate_episodes: int = 100
    """Whole games that the policy and a random one are measured on; 0 leaves that out."""
    score_only: bool = False
    """Stop after the score."""


def main() -> None:
    options = tyro.cli(Collect, prog="python -m collect.vizdoom", description=__doc__)
    try:
        collect(options)
    except (DataError, WorkerError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on here")
        raise SystemExit(130) from None


def collect(options: Collect) -> None:
    """Do what `Collect` says.

    Raises:
        DataError: an option, the policy file or the folder is not usable; nothing was written.
        WorkerError: a worker failed. Finished episodes are kept.
    """
    _check(options)
    env_id = SCENARIOS[options.scenario]
    has_episodes = (options.out / "meta.json").exists()
    policy_path = options.out / "policy.zip"
    if options.policy == "random":
        policy_path = None
    elif options.policy != "train":
        policy_path = Path(options.policy)
        _check_policy(policy_path, env_id)
    elif not has_episodes:  # a policy that has recorded is trained no further
        _train(options, env_id, policy_path)
    recording = _recording(options, policy_path)
    if has_episodes:
        _refuse_other_recording(options.out, recording)
    if policy_path is not None:
        policy_path = _keep_policy(policy_path, options.out)
    info = describe(env_id, {}, {"recording": recording})
    if has_episodes:
        _check_rendering(options.out, info)
    with Workers(options.workers, env_id, {}, policy_path) as workers:
        if options.evaluate_episodes:
            info = _score(options, info, workers)
        if not options.score_only:
            _record(options, info, workers)


def _check(options: Collect) -> None:
    if options.scenario not in SCENARIOS:
        known = ", ".join(SCENARIOS)
        raise DataError(f"unknown scenario {options.scenario!r}; the known ones are: {known}")
    for name in ("episodes", "length", "workers", "train_steps"):
        if getattr(options, name) < 1:
            shown = name.replace("_", "-")
            raise DataError(f"--{shown} must be at least 1, not {getattr(options, name)}")
    for name in ("seed", "evaluate_episodes"):
        if getattr(options, name) < 0:
            shown = name.replace("_", "-")
            raise DataError(f"--{shown} must not be negative, but is {getattr(options, name)}")
    if options.out.exists() and not options.out.is_dir():
        raise DataError(f"--out {options.out} is a file, not a folder")


def _train(options: Collect, env_id: str, path: Path) -> None:
    from collect.policies import train_ppo

    options.out.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_policy(path, env_id)
    with _progress() as progress:
        task = progress.add_task("training PPO", total=options.train_steps)
        train_ppo(
            env_id,
            path,
            num_steps=options.train_steps,
            seed=options.seed,
            on_progress=lambda steps: progress.update(task, completed=steps),
        )


def _check_policy(path: Path, env_id: str) -> None:
    """Raises DataError unless the file is a policy for the environment."""
    from envs.policy import FramePolicy, PolicyFileError

    env = gymnasium.make(env_id)
    try:
        FramePolicy(path).check_fits(env.observation_space, env.action_space)
    except PolicyFileError as error:
        raise DataError(str(error)) from None
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
        raise DataError(
            f"{kept} is another policy than {path}: choose another --out, or leave --policy as "
            "it was"
        )
    return kept


def _recording(options: Collect, policy_path: Path | None) -> dict[str, Any]:
    """What meta.json says of who acted: all episodes of a set have this in common."""
    if policy_path is not None and not policy_path.exists():
        raise DataError(
            f"{options.out} holds episodes but no policy.zip to go on with: use the same --policy "
            "as then, or choose another --out"
        )
    return {
        "seed": options.seed,
        "length": options.length,
        "train_steps": options.train_steps if options.policy == "train" else None,
        "policy_sha256": None if policy_path is None else _sha256(policy_path),
        "behaviours": {
            behaviour.name: {
                "share": share,
                "random_start": behaviour.random_start,
                "max_hold": behaviour.max_hold,
            }
            for behaviour, share in _shares(policy_path is not None).items()
        },
    }


def _shares(with_policy: bool) -> dict[Behaviour, float]:
    return WITH_POLICY if with_policy else WITHOUT_POLICY


def _refuse_other_recording(folder: Path, recording: dict[str, Any]) -> None:
    """Raises DataError when the folder's episodes were recorded with other options."""
    stored = read_info(folder).policies.get("recording", {})
    differences = [
        name if isinstance(value, dict) else f"{name} {stored.get(name)} against {value}"
        for name, value in recording.items()
        if stored.get(name) != value
    ]
    if differences:
        raise DataError(
            f"{folder} was recorded otherwise: {'; '.join(differences)}. Use the same options "
            "to go on there, or choose another --out"
        )


def _check_rendering(folder: Path, info: DatasetInfo) -> None:
    """Play an episode of the folder again, and note how frames are made if that isn't said yet.

    Raises:
        DataError: its seed and actions give other frames here: none recorded now would mix.
    """
    stored = read_info(folder)
    episode = _any_episode(folder, stored)
    if episode is not None and not _comes_out_again(episode, info.env_id):
        raise DataError(
            f"{folder} was recorded otherwise: episode {episode.episode_id} comes out with other "
            "frames here, from another ViZDoom or from screens shrunk in another way. Choose "
            "another --out"
        )
    if not stored.rendering:
        write_info(folder, replace(stored, rendering=info.rendering))


def _any_episode(folder: Path, info: DatasetInfo) -> Episode | None:
    """The first episode of a shard, finished or not; None when there is none yet."""
    for path in sorted([*folder.glob("shard-*.h5"), *folder.glob("shard-*.h5.tmp")]):
        with open_shard(path) as file:
            index = read_index(file, info)
            if len(index):
                return read_episode(file, info, index[0])
    return None


def _comes_out_again(episode: Episode, env_id: str) -> bool:
    """Whether its seed and actions give its frames, to the bit."""
    env = gymnasium.make(env_id)
    try:
        frame, _ = env.reset(seed=episode.seed)
        frames = [frame] + [env.step(action)[0] for action in episode.action]
    finally:
        env.close()
    return np.array_equal(np.stack(frames), episode.frames)


def _score(options: Collect, info: DatasetInfo, workers: Workers) -> DatasetInfo:
    """Measure the policy, unless OUT/policy-score.json says that it was done; print and store."""
    path = options.out / "policy-score.json"
    measured_on = {
        "policy_sha256": info.policies["recording"]["policy_sha256"],
        "seed": options.seed,
        "num_episodes": options.evaluate_episodes,
    }
    scores = _stored_scores(path, measured_on)
    if scores is None:
        with_policy = measured_on["policy_sha256"] is not None
        with _progress() as progress:
            total = options.evaluate_episodes * (1 + with_policy)
            task = progress.add_task("measuring the policy", total=total)
            measured = score_behaviours(
                workers,
                with_policy=with_policy,
                num_episodes=options.evaluate_episodes,
                seed=options.seed,
                frame_skip=info.frame_skip,
                pickups_at=info.variable_names.index("pickups"),
                on_episode=lambda: progress.advance(task),
            )
        scores = {name: score.to_json() for name, score in measured.items()}
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**measured_on, "scores": scores}, indent=2) + "\n")
    print_scores(scores, Console())
    info = replace(info, policies={**info.policies, "scores": scores})
    if (options.out / "meta.json").exists():
        write_info(options.out, replace(read_info(options.out), policies=info.policies))
    return info


def _stored_scores(path: Path, measured_on: dict[str, Any]) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_bytes())
        scores = stored.pop("scores")
    except (OSError, ValueError, KeyError, AttributeError):  # none, or half of one
        return None
    return scores if stored == measured_on else None


def _record(options: Collect, info: DatasetInfo, workers: Workers) -> None:
    with EpisodeWriter(options.out, info) as writer, _progress() as progress:
        missing = [i for i in range(options.episodes) if i not in writer.done]
        task = progress.add_task(
            "recording", total=options.episodes, completed=options.episodes - len(missing)
        )
        for episode in workers.play(_jobs(options, missing, info)):
            writer.append(episode)
            progress.advance(task)
    console.print(f"{options.out} holds {len(writer.done)} episodes")


def _jobs(options: Collect, episode_ids: list[int], info: DatasetInfo) -> Iterator[Job]:
    shares = _shares(info.policies["recording"]["policy_sha256"] is not None)
    for i in episode_ids:
        env_seed, action_seed = random_seeds(options.seed, i)
        behaviour = choose_behaviour(options.seed, i, shares)
        yield Job(i, env_seed, action_seed, behaviour, options.length)


def choose_behaviour(seed: int, episode_id: int, shares: dict[Behaviour, float]) -> Behaviour:
    """Who acts in an episode: fixed by its id and the seed, in the given shares."""
    drawn = np.random.default_rng([seed, episode_id]).random()
    below = 0.0
    for behaviour, share in shares.items():
        below += share
        if drawn < below:
            return behaviour
    return behaviour


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


if __name__ == "__main__":
    main()
