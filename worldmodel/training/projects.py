"""What a preset makes of a data set: a dream, or VideoGPT as published."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from lightning_fabric import Fabric

from worldmodel import randomness
from worldmodel.checkpoint import (
    Checkpoint,
    GivenClips,
    Lineage,
    VideoGPTCheckpoint,
    World,
    choose_starts,
    load_checkpoint,
    load_videogpt,
    save_checkpoint,
)
from worldmodel.checkpoint.card import model_card
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import Preset
from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION
from worldmodel.interface.pose import NO_POSE
from worldmodel.storage.tensors import opened_tensors
from worldmodel.training.decoder_stage import DecoderStage
from worldmodel.training.prior_stage import PriorStage
from worldmodel.training.trainer import Stage
from worldmodel.videogpt.configs import VideoGPTConfig
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.presets import PublishedPreset
from worldmodel.videogpt.stages import VideoPriorStage, clip_tensors

Made = TypeVar("Made")
NUM_STARTS = 16  # that a checkpoint holds
# Of a prior; 0 in checkpoints before version 5.
LATER_PARTS = ("map_width", "tells_age", "recalled")
CALIBRATED = "prior.head.logits.bias"  # all that `worldmodel.calibrate` moves


@runtime_checkable
class Project(Protocol):
    """One model to train on one data set."""

    @property
    def preset(self) -> Preset | PublishedPreset: ...

    @property
    def config(self) -> WorldModelConfig | VideoGPTConfig: ...

    def new_model(self) -> WorldModel | VideoGPT:
        """Random weights, from torch's generator."""
        ...

    def load_model(self, checkpoint: str) -> WorldModel | VideoGPT:
        """The weights of a checkpoint. Raises UserError."""
        ...

    def prior_stage(self, folder: Path, fabric: Fabric, *, memory_limit_bytes: int) -> Stage:
        """How the prior of the model made last is trained; `folder` is for what it keeps."""
        ...

    def decoder_stage(self, folder: Path, fabric: Fabric, *, memory_limit_bytes: int) -> Stage:
        """How the sharp decoder is trained. Raises UserError where there is none."""
        ...

    def save(self, out: Path, lineage: Lineage) -> None:
        """Write the model made last as a checkpoint, with what it was made from."""
        ...

    def is_exported(self, out: Path) -> bool:
        """Whether the checkpoint there holds the model made last, perhaps calibrated since."""
        ...


class DreamProject:
    """A world model that is stepped, and real moments to begin from.

    Raises:
        UserError: the data don't suit the preset.
    """

    def __init__(self, preset: Preset, reader: EpisodeReader) -> None:
        self.preset, self.reader = preset, reader
        self.world = _world(reader)  # drawn as the checkpoint that it begins from
        self.config = _made_for(
            reader,
            lambda: WorldModelConfig(
                actions=reader.info.actions,
                variable_names=reader.info.variable_names,
                tokenizer=replace(preset.tokenizer, frame_shape=reader.info.frame_shape),
                prior=preset.prior,
                pose=reader.info.pose if preset.prior.map_width else NO_POSE,
                sharp_frames=preset.sharp_frames,
            ),
        )
        starts = choose_starts(reader, num_frames=self.config.prior.window, num_starts=NUM_STARTS)
        self.starts = replace(starts, poses=starts.poses[..., : len(self.config.pose)])

    def new_model(self) -> WorldModel:
        self.model = _made_for(self.reader, lambda: WorldModel(self.config))
        return self.model

    def load_model(self, checkpoint: str) -> WorldModel:
        loaded = load_checkpoint(checkpoint)
        self.model = _grown(loaded.model, self.config).train()
        self.world = replace(self.world, sampling=loaded.world.sampling)
        return self.model

    def prior_stage(self, folder: Path, fabric: Fabric, *, memory_limit_bytes: int) -> PriorStage:
        path = folder / "codes.safetensors"
        recipe = self.preset.prior_recipe
        return PriorStage(self.model, self.reader, recipe, codes_path=path, fabric=fabric)

    def decoder_stage(
        self, folder: Path, fabric: Fabric, *, memory_limit_bytes: int
    ) -> DecoderStage:
        return DecoderStage(
            self.model,
            self.reader,
            self.preset.decoder_recipe,
            codes_path=folder / "codes.safetensors",
            fabric=fabric,
            memory_limit_bytes=memory_limit_bytes,
        )

    def save(self, out: Path, lineage: Lineage) -> None:
        checkpoint = Checkpoint(self.model, self.world, self.starts, lineage)
        card = model_card(checkpoint, name=out.resolve().name)
        save_checkpoint(out, checkpoint, card=card, compact=False)

    def is_exported(self, out: Path) -> bool:
        return _holds(out, self.model)


class VideoGPTProject:
    """VideoGPT as published, and test clips to take conditions from.

    Raises:
        UserError: the data don't suit the preset.
    """

    def __init__(self, preset: PublishedPreset, reader: EpisodeReader) -> None:
        self.preset, self.reader = preset, reader
        self.world = _world(reader)
        info, num_frames = reader.info, preset.tokenizer.clip_shape[0]
        steered = info.actions != NO_ACTION
        self.config = _made_for(
            reader,
            lambda: VideoGPTConfig(
                tokenizer=replace(preset.tokenizer, clip_shape=(num_frames, *info.frame_shape)),
                prior=preset.prior if steered else replace(preset.prior, num_actions=0),
                actions=info.actions,
                class_names=info.class_names,
            ),
        )
        self.clips = choose_clips(reader, num_frames=num_frames)

    def new_model(self) -> VideoGPT:
        self.model = _made_for(self.reader, lambda: VideoGPT(self.config))
        return self.model

    def load_model(self, checkpoint: str) -> VideoGPT:
        self.model = load_videogpt(checkpoint).model.train()
        return self.model

    def prior_stage(
        self, folder: Path, fabric: Fabric, *, memory_limit_bytes: int
    ) -> VideoPriorStage:
        return VideoPriorStage(
            self.model,
            self.reader,
            self.preset.prior_recipe,
            memory_limit_bytes=memory_limit_bytes,
            device=fabric.device,
        )

    def decoder_stage(self, folder: Path, fabric: Fabric, *, memory_limit_bytes: int) -> Stage:
        raise NotImplementedError("options refuse it before")

    def save(self, out: Path, lineage: Lineage) -> None:
        checkpoint = VideoGPTCheckpoint(self.model, self.world, self.clips, lineage)
        card = model_card(checkpoint, name=out.resolve().name)
        save_checkpoint(out, checkpoint, card=card, compact=False)

    def is_exported(self, out: Path) -> bool:
        return _holds(out, self.model)


def project_of(preset: Preset | PublishedPreset, reader: EpisodeReader) -> Project:
    """What the preset makes of the data. Raises UserError where they don't suit."""
    if isinstance(preset, PublishedPreset):
        return VideoGPTProject(preset, reader)
    return DreamProject(preset, reader)


def choose_clips(reader: EpisodeReader, *, num_frames: int) -> GivenClips:
    """Clips of the test split, of different episodes as far as there are enough.

    Raises:
        UserError: no test episode is long enough.
    """
    sampler = ClipSampler(reader, "test", num_frames, memory_limit_bytes=0)
    rng = randomness.generator(0, "conditions of a checkpoint")
    episodes = rng.permutation(sampler.episodes)[:NUM_STARTS]
    room = reader.index["episode_length"][episodes] + 1 - num_frames
    rows = np.stack([episodes, rng.integers(room + 1)], 1)
    frames, actions, classes = clip_tensors(sampler.read(rows), reader, torch.device("cpu"))
    return GivenClips(frames.numpy(), actions.numpy(), classes.numpy())


def _made_for(reader: EpisodeReader, make: Callable[[], Made]) -> Made:
    """What `make` makes; sizes that don't go with the data become a UserError."""
    try:
        return make()
    except ValueError as error:
        raise UserError(f"{reader.folder}: {error}") from None


def _grown(model: WorldModel, config: WorldModelConfig) -> WorldModel:
    """The model with the parts that a config has besides its own: they begin without effect. The
    model itself where the two differ in something else."""
    lacking = [name for name in LATER_PARTS if not getattr(model.config.prior, name)]
    own = {name: getattr(model.config.prior, name) for name in lacking}
    pose = config.pose if model.config.pose else NO_POSE
    sharp_frames = config.sharp_frames if model.config.sharp_frames else 0
    if model.config == config or model.config != replace(
        config, pose=pose, sharp_frames=sharp_frames, prior=replace(config.prior, **own)
    ):
        return model
    grown = WorldModel(config)
    grown.load_state_dict({**grown.state_dict(), **model.state_dict()})
    if model.sharp is None and grown.sharp is not None:
        grown.sharp.begin_as(grown.tokenizer.decoder)
    return grown


def _world(reader: EpisodeReader) -> World:
    info = reader.info
    return World(info.env_id, info.env_kwargs, info.fps, info.controls)


def _holds(out: Path, model: WorldModel | VideoGPT) -> bool:
    """Whether the weights there are the model's, but for what calibration moves."""
    state = model.state_dict()
    with opened_tensors(out / "weights.safetensors") as file:
        if set(file.keys()) != set(state):
            return False
        return all(
            torch.equal(file.get_tensor(name), tensor.cpu())
            for name, tensor in state.items()
            if name != CALIBRATED
        )
