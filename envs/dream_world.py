"""What all dreams of a checkpoint share: the model, its spaces, and the moments they start from."""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import gymnasium
import numpy as np
import torch

from envs import threads  # noqa: F401  forked processes work
from envs.interface import space_of
from envs.making import refuse_imports
from worldmodel.checkpoint import (
    Checkpoint,
    Starts,
    StartsAt,
    check_same_world,
    checkpoint_digest,
    choose_starts,
    find_checkpoint,
    load_checkpoint,
    read_world,
)
from worldmodel.data import EpisodeReader
from worldmodel.dream import Dream
from worldmodel.errors import UserError
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.prior.fast import compile_once
from worldmodel.prior.memory import empty_memory

MAX_RECORDED_STARTS = 512
OWN_MOMENT = ("frames", "actions", "variables", "poses")  # reset options


@dataclass(frozen=True)
class Moment:
    """A moment that a dream can start from.

    Attributes:
        frames: uint8 (T, H, W, C), up to the moment itself.
        actions: (T-1, *shape), between the frames.
        variables: float32 (T, V).
        poses: float32 (T, P); None: unknown.
        start: its index among the starts; None: it isn't one of them.
    """

    frames: np.ndarray
    actions: np.ndarray
    variables: np.ndarray
    poses: np.ndarray | None = None
    start: int | None = None


@dataclass(frozen=True)
class RealMoment:
    """How to bring the real environment to a dream's start: reset with the seed, then take the
    actions."""

    env_id: str
    env_kwargs: dict[str, Any]
    seed: int
    actions: np.ndarray


class DreamOptions(TypedDict, total=False):
    """The keyword arguments of `DreamWorld`, for those that pass them on."""

    horizon: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    guidance: float | None
    pose_temperature: float | None
    device: str
    starts: str | Path | Sequence[Moment] | None
    starts_at: StartsAt


class DreamWorld:
    """A checkpoint, and the settings of its dreams.

    Arguments and errors are those of `envs.dream.DreamEnv`.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        horizon: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        pose_temperature: float | None = None,
        device: str = "cpu",
        starts: str | Path | Sequence[Moment] | None = None,
        starts_at: StartsAt = "anywhere",
    ) -> None:
        if horizon is not None and horizon < 1:
            raise UserError(f"horizon must be at least 1, or None for no end, not {horizon}")
        if starts_at not in ("anywhere", "reset"):
            raise UserError(f"starts_at must be anywhere or reset, not {starts_at!r}")
        if starts_at == "reset" and not isinstance(starts, str | Path):
            raise UserError("starts_at='reset' needs starts: the folder of recorded episodes")
        self.horizon, self.device = horizon, _usable(device)
        folder = find_checkpoint(checkpoint)  # only once: on the hub it may change meanwhile
        chosen = SamplingOptions(temperature, top_k, top_p, guidance, pose_temperature)
        self.sampling = chosen.applied_to(read_world(str(folder)).sampling)  # before the weights
        loaded = load_checkpoint(str(folder), device=self.device)
        if self.device.type == "cpu":
            compile_once()
        self.folder = folder
        self.model, self.recorded = loaded.model, loaded.world
        self.config = self.model.config
        self.observation_space = gymnasium.spaces.Box(
            0, 255, self.config.tokenizer.frame_shape, np.uint8
        )
        self.action_space = space_of(self.config.actions)
        self.starts: Starts | None = loaded.starts  # None: the caller's own moments
        if isinstance(starts, str | Path):
            self.starts = self._recorded_starts(loaded, Path(starts), starts_at)
        if starts is None or isinstance(starts, str | Path):
            self.moments = _moments(self.starts)
        else:
            self.starts = None
            self.moments = [
                self._own_moment({name: getattr(moment, name) for name in OWN_MOMENT})
                for moment in starts
            ]
            if len({len(moment.frames) for moment in self.moments}) != 1:
                raise UserError("starts must be at least one moment, all of the same length")

    def digest(self) -> str:
        """sha256 of the checkpoint's files: identifies the dream."""
        return checkpoint_digest(self.folder)

    def moment(self, options: dict[str, Any], rng: np.random.Generator) -> Moment:
        """The moment given by reset options, or a random start.

        Raises:
            UserError: an option is unknown, or does not fit this world.
        """
        options = dict(options)
        if "frames" in options:
            return self._own_moment(options)
        start = options.pop("start", None)
        if options:
            raise UserError(
                f"unknown reset options {sorted(options)}: use start, or frames, actions, "
                "variables and poses"
            )
        start = int(rng.integers(len(self.moments))) if start is None else self.checked_start(start)
        return replace(self.moments[start], start=start)

    def begin(self, moments: Sequence[Moment]) -> tuple[Dream, np.ndarray]:
        """Start dreams from moments of the same length.

        Returns:
            The dreams, and their first frames, uint8 (B, H, W, C).
        """
        given = (
            torch.from_numpy(np.stack([getattr(moment, name) for moment in moments]))
            for name in OWN_MOMENT
        )
        dream = self.model.start(*(array.to(self.device) for array in given))
        return dream, self.model.newest_frames(dream).cpu().numpy()

    def recorded_env(self) -> tuple[str, dict[str, Any]]:
        """Id and arguments of the recorded environment, for `gymnasium.make`.

        Raises:
            UserError: the checkpoint, which is untrusted, names a module that would be imported.
        """
        refuse_imports(self.recorded.env_id, self.recorded.env_kwargs)
        return self.recorded.env_id, copy.deepcopy(self.recorded.env_kwargs)

    def real_moment(self, start: int) -> RealMoment:
        """How to bring the real environment to the moment `start`.

        Raises:
            UserError: as `recorded_env`; the starts are the caller's own; there is no such one; or
                no seed leads to it.
        """
        env_id, env_kwargs = self.recorded_env()
        if self.starts is None:
            raise UserError(
                "starts are your own moments: the real environment can't be brought to these"
            )
        start = self.checked_start(start)
        length = self.starts.prefix_lengths[start]
        if self.starts.seeds[start] < 0:
            raise UserError(
                f"start {start} was recorded without a seed: the real environment can't be brought "
                "to it"
            )
        return RealMoment(
            env_id=env_id,
            env_kwargs=env_kwargs,
            seed=int(self.starts.seeds[start]),
            actions=self.starts.prefixes[start, :length].copy(),
        )

    def check_fit(self, dream: Dream) -> None:
        """Raises UserError for a dream of a model of another size."""
        own, theirs = empty_memory(self.config, 1, self.device), dream.memory
        if (
            theirs.keys_values[:1].shape != own.keys_values.shape
            or theirs.variables[:1].shape != own.variables.shape
            or dream.recent.shape[1] != max(1, self.config.sharp_frames)
            or theirs.poses[:1].shape != own.poses.shape
            or theirs.keyframes.codes[:1].shape != own.keyframes.codes.shape
        ):
            raise UserError("this state is of a checkpoint of another size")

    def checked_start(self, start: Any) -> int:
        """The index of a moment. Raises UserError for anything else."""
        try:
            number = operator.index(start)
        except TypeError:  # 2.7, infinity, a list
            number = -1
        if not 0 <= number < len(self.moments):
            raise UserError(
                f"start must be a whole number from 0 to {len(self.moments) - 1}, not {start!r}"
            )
        return number

    def _recorded_starts(self, checkpoint: Checkpoint, folder: Path, starts_at: StartsAt) -> Starts:
        reader = EpisodeReader(folder)
        check_same_world(checkpoint, reader, str(self.folder), same_environment=True)
        return choose_starts(
            reader,
            num_frames=self.config.prior.window,
            num_starts=MAX_RECORDED_STARTS,
            split="train",
            starts_at=starts_at,
        )

    def _own_moment(self, options: dict[str, Any]) -> Moment:
        if unknown := set(options) - set(OWN_MOMENT):
            raise UserError(f"options {sorted(unknown)} can't be combined with frames")
        config = self.config
        frames = np.asarray(options["frames"])
        shape = config.tokenizer.frame_shape
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != shape:
            raise UserError(
                f"frames must be uint8 (T, {shape[0]}, {shape[1]}, {shape[2]}) with T >= 1, not "
                f"{frames.dtype} {frames.shape}"
            )
        if len(frames) == 0:
            raise UserError("frames must contain at least one frame")
        none = np.zeros((0, *config.actions.shape), config.actions.dtype)
        actions = np.asarray(options.get("actions", none))
        if not actions.size:
            actions = none  # [] has another dtype and shape
        try:
            actions = config.actions.checked(actions, (len(frames) - 1,))
        except UserError:
            raise UserError(
                f"{len(frames)} frames need the {len(frames) - 1} actions between them, each in "
                f"{self.action_space}"
            ) from None
        mean = self.model.prior.outcome.variable_mean.cpu().numpy()
        variables = np.asarray(options.get("variables", np.tile(mean, (len(frames), 1))))
        if (
            variables.shape != (len(frames), len(mean))
            or not np.issubdtype(variables.dtype, np.number)
            or not np.isfinite(variables).all()
        ):
            raise UserError(f"variables must be ({len(frames)}, {len(mean)}) finite numbers")
        poses = self._own_poses(options.get("poses"), len(frames))
        # What came before the window is not remembered.
        # Copies: the caller may overwrite its own arrays.
        seen = min(len(frames), config.prior.window)
        return Moment(
            frames[-seen:].copy(),
            actions[len(actions) - (seen - 1) :],
            variables[-seen:].astype(np.float32),
            poses[-seen:],
        )

    def _own_poses(self, given: Any, num_frames: int) -> np.ndarray:
        """Poses (T, P) as given; NaN if they are not.

        Raises:
            UserError: they are not finite, or far outside the range of the training data.
        """
        spec, size = self.config.pose, (num_frames, len(self.config.pose))
        if given is None:
            return np.full(size, np.nan, np.float32)
        try:
            poses = np.asarray(given)
        except ValueError:  # a ragged list
            poses = np.zeros(0)
        if poses.shape == size and not len(spec):
            return poses.astype(np.float32)
        if poses.shape != size or not np.issubdtype(poses.dtype, np.number) or not len(spec):
            raise UserError(
                f"poses must be ({num_frames}, {len(spec)}) numbers: {', '.join(spec.names)}"
                if len(spec)
                else "this world has no pose: leave poses out"
            )
        place = self.model.prior.place
        assert place is not None
        low, high = (part.cpu().numpy() for part in (place.space.low, place.space.high))
        position = poses[:, : len(spec.position)]
        margin = high - low
        is_near = (position >= low - margin) & (position <= high + margin)
        if not np.isfinite(poses).all() or not is_near.all():
            ranges = ", ".join(
                f"{name} {least:g} to {most:g}"
                for name, least, most in zip(spec.position, low, high, strict=True)
            )
            raise UserError(
                f"poses must be finite and near the range of the training data: {ranges}"
            )
        return poses.astype(np.float32)


def _moments(starts: Starts) -> list[Moment]:
    arrays = (starts.frames, starts.actions, starts.variables, starts.poses)
    return [Moment(*parts, start=None) for parts in zip(*arrays, strict=True)]


def _usable(device: str) -> torch.device:
    """Raises UserError when torch has no such device here."""
    try:
        return torch.zeros(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"device must be one that torch can use here, not {device!r}: {reason}"
        ) from None
