"""LeRobot's data sets, version 3: python -m worldmodel.data lerobot SRC --out DIR

A set that `export-lerobot` made comes back as it was: actions, rewards, variables and pose to the
bit, frames too if they were stored without loss.

Time: a row of LeRobot's holds a frame and the action taken then; the frame after the last action is
not recorded. So N rows make an episode of N frames and N-1 actions. Reward and end of the last row
count for the last action that is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from worldmodel.command import check_numbers
from worldmodel.data.episodes import MOST_EPISODE_BYTES, DatasetInfo
from worldmodel.data.importers.lerobot_files import (
    ACTION,
    DONE,
    MOST_MEMORY,
    PATIENCE_S,
    READ_NUMBERS,
    READ_PICTURES,
    REWARD,
    STATE,
    TRUNCATED,
    Description,
    StoredEpisode,
    action_limits,
    read_description,
    require_pyarrow,
    stored_episodes,
)
from worldmodel.data.importers.pipeline import (
    AFTER_END,
    LARGEST_SIDE,
    Found,
    Lack,
    PoseOptions,
    Recording,
    Source,
    import_found,
)
from worldmodel.data.importers.video_file import timed_pictures
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.media.resize import square
from worldmodel.storage.files import opened
from worldmodel.storage.guarded import guarded_call

SIZE = 64
# Reasons to leave something out.
TOO_SHORT = "fewer than 2 frames"
TOO_LONG = f"frames of more than {MOST_EPISODE_BYTES >> 20} MiB"
OUTSIDE = "with an action outside the bounds in stats.json"
NOT_FINITE = "with a reward, variable or pose that is not finite"


@dataclass(frozen=True)
class ImportLeRobot(PoseOptions):
    """Read a LeRobot data set (v3): one camera's frames, their shorter side scaled, then cut to the
    square in the middle. Options don't go with sets that export-lerobot made: they come back as
    they were."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Folder of the set, with meta/info.json."""
    out: Path
    """Folder of the data set."""
    camera: str | None = None
    """The camera whose frames are read, such as observation.images.top; needed where there are
    several."""
    size: int = SIZE
    """Side of a frame, in pixels."""
    variables: tuple[str, ...] = ()
    """Numbers of observation.state, by name, that a dream should predict, such as a gripper."""
    every: int = 1
    """Keep one frame in so many. Rewards are summed; actions are as they were at the beginning of
    the step."""
    sum: tuple[str, ...] = ()
    """With --every: numbers of the action to add up instead, such as motions."""

    def run(self) -> None:
        """Raises UserError where an option or a file is not usable."""
        require_pyarrow()
        check_numbers(self, size=1, every=1)
        if self.size > LARGEST_SIDE:
            raise UserError(f"--size must be at most {LARGEST_SIDE}, not {self.size}")
        description = read_description(self.source)
        ours = description.ours
        camera = self._camera(description)
        if ours is not None:
            self._refuse_options()
        info = ours or self._info(description, camera)
        episodes = stored_episodes(self.source, camera, description)
        reader = _EpisodeReader(self, description, camera, info, is_ours=ours is not None)

        def sources() -> Iterator[Source]:
            for episode in episodes:
                origin = episode.policy or f"episode {episode.number}"
                read = partial(reader.read, episode)
                yield Source(read, origin, None, episode.episode_id, episode.seed)

        found = Found(info, sources(), len(episodes), partial=(AFTER_END,))
        import_found(self.out, found)

    def _refuse_options(self) -> None:
        for option in fields(self):
            if (
                option.name not in ("source", "out")
                and getattr(self, option.name) != option.default
            ):
                raise UserError(
                    f"{self.source} was exported from here and comes back as it was: leave "
                    f"--{option.name.replace('_', '-')} out"
                )

    def _camera(self, description: Description) -> str:
        cameras = description.cameras
        if not cameras:
            raise UserError(f"{self.source} has no camera: no feature is video or image")
        if self.camera is None and len(cameras) == 1:
            return cameras[0]
        if self.camera not in cameras:
            unknown = "" if self.camera is None else f"there is no {self.camera!r}: "
            raise UserError(
                f"{self.source}: {unknown}choose one with --camera: {', '.join(cameras)}"
            )
        return self.camera

    def _info(self, description: Description, camera: str) -> DatasetInfo:
        """The description of a set from elsewhere."""
        for name in (*self.variables, *self.pose_names):
            labels = description.features[STATE].labels if STATE in description.features else ()
            if name not in labels:
                raise UserError(
                    f"{self.source}: {STATE} has no {name!r}; it has {', '.join(labels) or 'none'}"
                )
        return DatasetInfo(
            env_id=self.source.resolve().name,
            env_kwargs={
                "camera": camera,
                "size": self.size,
                "every": self.every,
                "sum": list(self.sum),
                # Ids count the episodes: a set that has grown is another source.
                "num_episodes": description.total_episodes,
            },
            frame_shape=(self.size, self.size, 3),
            actions=self._actions(description),
            variable_names=self.variables,
            pose=self.pose_spec,
            fps=description.fps / self.every,
            frame_skip=1,
        )

    def _actions(self, description: Description) -> ActionSpec:
        """A box of what was taken; a number that never changed may lie as far from it as it is
        large, or 1."""
        size, labels = description.size_of(ACTION), description.features[ACTION].labels
        if unknown := set(self.sum) - set(labels):
            raise UserError(
                f"--sum: the action has no {', '.join(sorted(unknown))}; it has "
                f"{', '.join(labels) or 'no names'}"
            )
        low, high = action_limits(self.source, size)
        room = np.where(low == high, np.maximum(1, abs(low)), 0)
        factor = np.array([self.every if name in self.sum else 1 for name in labels or [""] * size])
        low, high = factor * (low - room), factor * (high + room)
        return ActionSpec(
            "box", low=tuple(low.tolist()), high=tuple(high.tolist()), meanings=labels
        )


class _EpisodeReader:
    """Reads the episodes of a set.

    Args:
        info: of the data set that is made.
        is_ours: whether the set was exported from here.
    """

    def __init__(
        self,
        options: ImportLeRobot,
        description: Description,
        camera: str,
        info: DatasetInfo,
        *,
        is_ours: bool,
    ) -> None:
        self._options = options
        self._camera = camera
        self._info = info
        self._is_ours = is_ours
        self._tolerance_s = 0.5 / description.fps
        self._film = _Film()
        features = description.features
        self._sizes = {ACTION: description.size_of(ACTION)}
        for name in (STATE, REWARD, DONE, TRUNCATED):
            if name in features:
                self._sizes[name] = description.size_of(name)
        for name in (REWARD, DONE, TRUNCATED):
            if self._sizes.get(name, 1) != 1:
                raise UserError(f"{name!r} has {self._sizes[name]} numbers a row, not one")
        self._sizes |= dict.fromkeys(("timestamp", "frame_index", "episode_index"), 1)
        self._columns = self._state_columns(description)
        labels = features[ACTION].labels or ("",) * self._sizes[ACTION]
        self._is_summed = [name in options.sum for name in labels]

    def _state_columns(self, description: Description) -> list[int]:
        """Which numbers of observation.state are the variables and the pose."""
        if self._is_ours:
            count = len(self._info.variable_names) + len(self._info.pose)
            if self._sizes.get(STATE, 0) != count:
                raise UserError(f"{STATE!r} should have {count} numbers a row")
            return list(range(count))
        names = (*self._options.variables, *self._options.pose_names)
        return [description.features[STATE].labels.index(name) for name in names]

    def read(self, episode: StoredEpisode) -> Recording | Lack:
        """An episode, or why it is left out. Raises UserError where a file is damaged."""
        name, info = f"episode {episode.number}", self._info
        rows = self._rows(episode)
        # A row's end is that of its action: it shows at the next frame, if there is one.
        is_end = np.zeros(episode.num_rows, bool)
        for flag in (DONE, TRUNCATED):
            is_end |= rows.get(flag, is_end) != 0
        num_actions = int(is_end.argmax()) + 1 if is_end.any() else episode.num_rows
        num_frames = min(num_actions + 1, episode.num_rows)
        at = np.arange(0, num_frames, self._options.every)
        if len(at) < 2:
            return Lack(TOO_SHORT, name)
        if len(at) * int(np.prod(info.frame_shape)) > MOST_EPISODE_BYTES:
            return Lack(TOO_LONG, name)
        actions, rewards, state = self._steps(rows, at, num_actions)
        if not self._is_ours and not info.actions.contains(actions):
            return Lack(OUTSIDE, name)
        if not self._is_ours and not (np.isfinite(state).all() and np.isfinite(rewards).all()):
            return Lack(NOT_FINITE, name)
        zero = np.zeros(episode.num_rows)
        num_variables = len(info.variable_names)
        is_last = np.arange(len(at) - 1) == len(at) - 2
        return Recording(
            self._frames(episode, rows["timestamp"], at),
            actions=actions.reshape(-1, *info.actions.shape),
            variables=state[:, :num_variables],
            pose=state[:, num_variables:],
            rewards=rewards,
            terminated=is_last & bool(rows.get(DONE, zero)[:num_actions].any()),
            truncated=is_last & bool(rows.get(TRUNCATED, zero)[:num_actions].any()),
            lacks=(Lack(AFTER_END, name),) if num_actions + 1 < episode.num_rows else (),
        )

    def _steps(
        self, rows: dict[str, np.ndarray], at: np.ndarray, num_actions: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions (T, A), rewards (T,) and state (T+1, S) of the steps that begin at the rows `at`;
        the last one also earns what comes after its frame."""
        taken = rows[ACTION][:num_actions]
        state = rows[STATE][at][:, self._columns] if self._columns else np.zeros((len(at), 0))
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is left out
            actions = taken[at[:-1]]
            if self._info.actions.kind == "box":
                sums = np.add.reduceat(taken[: at[-1]].astype(float), at[:-1])
                actions = np.where(self._is_summed, sums, actions).astype(np.float32)
            earned = rows.get(REWARD, np.zeros(num_actions))[:num_actions].astype(float)
            rewards = np.add.reduceat(earned, at[:-1]).astype(np.float32)
            return actions, rewards, state.astype(np.float32)

    def _rows(self, episode: StoredEpisode) -> dict[str, np.ndarray]:
        """All numbers of an episode: (N,) of single ones, (N, size) of action and state.

        Raises UserError where the rows are damaged, or another episode's.
        """
        rows = guarded_call(
            READ_NUMBERS,
            episode.data,
            self._sizes,
            episode.start,
            episode.num_rows,
            subject=episode.data,
            most_memory=MOST_MEMORY,
        )
        rows = {name: rows[name] if name in (ACTION, STATE) else rows[name][:, 0] for name in rows}
        is_own = rows["episode_index"] == episode.number
        if not is_own.all() or (rows["frame_index"] != np.arange(episode.num_rows)).any():
            raise UserError(
                f"{episode.data}: the {episode.num_rows} rows from {episode.start} on should be "
                f"episode {episode.number}, in order"
            )
        times_s = rows["timestamp"]
        if not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
            raise UserError(f"{episode.data}: timestamps of episode {episode.number} don't rise")
        return rows

    def _frames(self, episode: StoredEpisode, times_s: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The frames of the rows `at`."""
        size = self._options.size
        if episode.film is None:
            return guarded_call(
                READ_PICTURES,
                episode.data,
                self._camera,
                episode.start,
                episode.num_rows,
                int(at[-1]) + 1,
                self._options.every,
                size,
                subject=episode.data,
                patience_s=PATIENCE_S,
                most_memory=MOST_MEMORY,
            )
        frames = []
        wanted_s = episode.film_start_s + times_s[at].astype(float)
        for picture in self._film.pictures(episode.film, wanted_s, self._tolerance_s):
            if not self._is_ours:
                frames.append(square(picture, size))
                continue
            height, width, channels = self._info.frame_shape
            if picture.shape[:2] != (height, width):
                raise UserError(
                    f"{episode.film}: frames are {picture.shape[:2]}, not {(height, width)}"
                )
            frames.append(picture[:, :, :channels])  # grey ones were stored in three colours
        return np.stack(frames)


class _Film:
    """Frames of films at given times. A film is decoded in order, and once, as long as its frames
    are asked for in order; seeking isn't exact in every film."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._following: Iterator[tuple[np.ndarray, float]] = iter(())
        self._picture = np.zeros(0)
        self._time_s = 0.0
        self._next: tuple[np.ndarray, float] | None = None

    def pictures(self, path: Path, times_s: np.ndarray, tolerance_s: float) -> Iterator[np.ndarray]:
        """The frame nearest to each of the rising times, uint8 (H, W, 3).

        Raises:
            UserError: the film is damaged, or has no frame near one of the times.
        """
        with opened(path):  # a pipe might never end
            pass
        if path != self._path or times_s[0] < self._time_s - tolerance_s:
            self._path, self._following = path, timed_pictures(path)
            self._picture, self._time_s = next(self._following, (np.zeros(0), float("inf")))
            self._next = next(self._following, None)
        for time_s in times_s.tolist():
            while self._next and abs(self._next[1] - time_s) <= abs(self._time_s - time_s):
                self._picture, self._time_s = self._next
                self._next = next(self._following, None)
            if abs(self._time_s - time_s) > tolerance_s:
                raise UserError(f"{path} has no frame at {time_s:.3f} seconds")
            yield self._picture
