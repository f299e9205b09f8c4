"""Record what is played in an environment as episodes that training takes."""

import contextlib
import copy
import importlib.metadata
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.interface import action_spec, actions_of, controls_of, fps_of, pose_of, variable_names
from worldmodel.data import DatasetInfo, Episode, EpisodeWriter
from worldmodel.data.episodes import UNKNOWN_SEED
from worldmodel.data.reader import empty_splits, lacking_splits, split_of
from worldmodel.errors import UserError

PACKAGES = ("gymnasium", "numpy", "stable-baselines3", "vizdoom", "mujoco")
MOST_STEPS = 200  # of an episode: a long game becomes several, in all splits


def dataset_info(
    env: gymnasium.Env[Any, Any],
    env_id: str,
    env_kwargs: dict[str, Any],
    policies: dict[str, Any],
) -> DatasetInfo:
    """Metadata of a data set recorded in an environment.

    Args:
        env_id, env_kwargs: what it was made from.
        policies: who plays, as JSON.

    Raises:
        UserError: its observations are not uint8 pictures (H, W, C), its actions are of a
            kind that cannot be recorded, or its controls don't fit them.
    """
    shape = env.observation_space.shape or ()
    if env.observation_space.dtype != np.uint8 or len(shape) != 3:
        raise UserError(
            f"{env_id} observes {env.observation_space}: uint8 pictures (H, W, C) are needed"
        )
    controls = controls_of(env, actions_of(env))
    return DatasetInfo(
        env_id=env_id,
        env_kwargs=env_kwargs,
        frame_shape=(shape[0], shape[1], shape[2]),
        actions=action_spec(env),
        variable_names=variable_names(env),
        pose=pose_of(env),
        fps=fps_of(env),
        frame_skip=int(getattr(env.unwrapped, "frame_skip", 1)),
        rendering=str(getattr(env.unwrapped, "rendering", "")),
        controls=controls.to_json() if controls is not None else {},
        policies=policies,
        versions={"python": sys.version.split()[0]}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    )


class EpisodeBuilder:
    """Collects the steps of one episode of an environment, from its first frame on."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], frame: np.ndarray, info: Mapping[str, Any]
    ) -> None:
        self._actions = action_spec(env)
        self._num_variables = len(variable_names(env))
        self._recorded = (*variable_names(env), *pose_of(env).names)
        # Copies: an environment may reuse its frame buffer or modify the action in place.
        self._frames = [np.array(frame)]
        self._numbers = [self._numbers_of(info)]
        self._steps: list[tuple[Any, float, bool, bool]] = []

    @property
    def num_steps(self) -> int:
        return len(self._steps)

    def add(
        self,
        action: Any,
        frame: np.ndarray,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any],
    ) -> None:
        """Add what `step` took, as it was before it, and returned."""
        self._frames.append(np.array(frame))
        self._numbers.append(self._numbers_of(info))
        self._steps.append((action, reward, terminated, truncated))

    def episode(self, *, episode_id: int, seed: int, policy: str) -> Episode:
        """The episode of at least one step; the arguments are as in `Episode`."""
        action, reward, terminated, truncated = zip(*self._steps, strict=True)
        numbers = np.asarray(self._numbers, np.float32)
        numbers = numbers.reshape(len(self._frames), len(self._recorded))
        return Episode(
            episode_id=episode_id,
            seed=seed,
            policy=policy,
            frames=np.stack(self._frames),
            action=np.asarray(action, self._actions.dtype),
            reward=np.asarray(reward, np.float32),
            terminated=np.asarray(terminated, bool),
            truncated=np.asarray(truncated, bool),
            variables=numbers[:, : self._num_variables],
            pose=numbers[:, self._num_variables :],
        )

    def _numbers_of(self, info: Mapping[str, Any]) -> list[float]:
        return [info[name] for name in self._recorded]


class RecordEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records everything that is played in an environment, real or dreamed.

    An episode is stored when it ends, when the next one begins, and when the environment is closed.
    After `MOST_STEPS` steps the rest becomes an episode of its own. Where an episode can't be
    reached by a seed alone (it is such a rest, or began without a seed or with options), its seed
    is `UNKNOWN_SEED`.

    Args:
        env: what is played.
        folder: of the data set; one of the same environment is continued.
        env_id, env_kwargs: what the environment was made from; default: by its `spec`.
        policy: who plays, as stored with each episode, unless `steered_by` says otherwise.

    Attributes:
        num_episodes, num_steps: stored by this object.

    Raises:
        UserError: the environment can't be recorded, or the folder holds other episodes or is in
            use.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        folder: str | Path,
        *,
        env_id: str | None = None,
        env_kwargs: dict[str, Any] | None = None,
        policy: str = "person",
    ) -> None:
        super().__init__(env)
        if env_id is None:
            if env.spec is None:
                raise UserError("env_id is needed: this environment was not made by an id")
            env_id, registered = env.spec.id, gymnasium.spec(env.spec.id).kwargs
            given = env.spec.kwargs
            env_kwargs = dict(item for item in given.items() if item not in registered.items())
        self.policy = policy
        self.num_episodes = self.num_steps = 0
        self._writer = EpisodeWriter(folder, dataset_info(env, env_id, env_kwargs or {}, {}))
        self._seed = UNKNOWN_SEED
        self._players: set[str] = set()  # of the running episode
        self._builder: EpisodeBuilder | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._store()
        frame, info = self.env.reset(seed=seed, options=options)
        self._seed = UNKNOWN_SEED if seed is None or options else seed
        self._builder = EpisodeBuilder(self.env, frame, info)
        return frame, info

    def steered_by(self, player: str) -> None:
        """Note who plays the next step: "person" stands for `policy`."""
        self._players.add(self.policy if player == "person" else player)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._builder is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        taken = copy.copy(action)
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._builder.add(taken, frame, float(reward), terminated, truncated, info)
        if terminated or truncated:
            self._store()
        elif self._builder.num_steps == MOST_STEPS:
            self._store()
            self._seed = UNKNOWN_SEED
            self._builder = EpisodeBuilder(self.env, frame, info)
        return frame, reward, terminated, truncated, info

    def close(self) -> None:
        with contextlib.ExitStack() as closing:
            closing.callback(super().close)
            closing.callback(self._close_writer)
            self._store()

    @property
    def lacking_splits(self) -> str:
        """What is missing for training, see `worldmodel.data.reader.lacking_splits`."""
        return lacking_splits(self._writer.done)

    def _next_id(self) -> int:
        """A new id; of a split that has no episode yet, if there is one."""
        done = self._writer.done
        wanted = empty_splits(done)
        free = (i for i in itertools.count() if i not in done)
        return next(i for i in free if not wanted or split_of(i) == wanted[0])

    def _close_writer(self) -> None:
        self._writer.close()
        if not self._writer.done:  # an empty folder may take another world's episodes
            (self._writer.folder / "meta.json").unlink(missing_ok=True)

    def _store(self) -> None:
        builder, self._builder = self._builder, None
        player, self._players = "+".join(sorted(self._players)) or self.policy, set()
        if builder is None or builder.num_steps == 0:
            return
        self._writer.append(
            builder.episode(episode_id=self._next_id(), seed=self._seed, policy=player)
        )
        self.num_episodes += 1
        self.num_steps += builder.num_steps
