"""How VideoGPT as published is trained: its tokenizer of clips, then its prior."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from worldmodel.checkpoint import find_kind
from worldmodel.checkpoint.files import VIDEOGPT
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION
from worldmodel.training.costs import described
from worldmodel.training.options import (
    DREAM_PRESETS,
    PUBLISHED_PRESETS,
    TrainVideoGPT,
    check_preset,
    main_arguments,
)
from worldmodel.training.run import (
    check,
    check_init,
    data_folder,
    describe_as_asked,
    made_for,
    started,
    started_from,
    with_options,
    world_of,
)
from worldmodel.videogpt.attention import sparse_attention
from worldmodel.videogpt.checkpoint import (
    VideoGPTCheckpoint,
    choose_clips,
    load_videogpt,
    model_card,
)
from worldmodel.videogpt.configs import PUBLISHED, PublishedPreset, VideoGPTConfig
from worldmodel.videogpt.gpt import Conditions
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.stages import ClipTokenizerStage, VideoPriorStage

CONDITIONS = {"actions", "class", "frames"}
DREAM_TRAIN = "worldmodel.train"


def train(options: TrainVideoGPT, *, command: str) -> None:
    """Train or describe VideoGPT as the options say.

    Args:
        command: the command that resumes the training, to show to the user.

    Raises:
        UserError: --init can't be loaded; the data are missing, damaged or invalid; an option,
            the run's folder or its device is not usable; or another process trains there.
    """
    check(options)
    preset = _preset(options)
    if options.describe:
        print(describe_as_asked(options, describe(options.preset, preset)))
    else:
        train_preset(preset, options, command=command)


def train_preset(
    preset: PublishedPreset, options: TrainVideoGPT, *, command: str = "the same command"
) -> None:
    """Train a preset with its recipes unchanged; arguments and errors as those of `train`."""
    out = options.out or Path("runs") / options.preset
    reader = EpisodeReader(data_folder(options, preset))
    reader.check_splits()
    config = config_of(preset, reader)  # made first: an error comes before anything is written
    clips = choose_clips(reader, num_frames=config.tokenizer.clip_shape[0])
    if "actions" in _wanted(options.conditions) and not config.prior.num_actions:
        raise UserError(
            f"{reader.folder} holds no actions to condition on: leave them out of --conditions"
        )
    with started(options, out, reader, command, accumulate=options.accumulate) as run:
        model, lineage = _model(options, config, reader)
        run.begin(config, preset, _notes(preset, config, options), lineage)
        if options.checkpoint_activations:
            model.tokenizer.checkpoint_activations = model.prior.checkpoint_activations = True
        model.to(run.fabric.device)
        if not run.train_tokenizer(model.tokenizer, preset.tokenizer_recipe, ClipTokenizerStage):
            return
        stage = VideoPriorStage(
            model,
            reader,
            preset.prior_recipe,
            memory_limit_bytes=run.memory_limit_bytes,
            device=run.fabric.device,
        )
        run.train(stage, options.prior_minutes)
        run.export(
            VideoGPTCheckpoint(model, world_of(reader), clips),
            model_card,
            "sample clips: python -m worldmodel.videogpt.sample "
            f"{shlex.quote(str(out))} --out clips.png",
            states={"state_sha256": "prior"},
        )


def describe(name: str, preset: PublishedPreset) -> dict[str, Any]:
    """Sizes and costs of a preset, computed without data, in JSON's types; see `described`."""
    tokenizer = preset.tokenizer
    names = ("a", "b") if preset.prior.on_class else ()
    config = VideoGPTConfig(tokenizer, preset.prior, preset.actions, names)
    model = VideoGPT(config).eval()
    num_frames, height, width, channels = tokenizer.clip_shape
    clips = torch.zeros(1, channels, num_frames, height, width)
    codes = torch.zeros(1, *tokenizer.latent_shape, dtype=torch.int64)
    given = clips[:, :, : preset.prior.given_frames] if preset.prior.given_frames else None
    vector = torch.zeros(1, config.condition_size) if config.condition_size else None
    conditions = Conditions(vector=vector, frames=given)
    if preset.prior.attention == "sparse":  # caches the masks: they can't be made of fake tensors
        tokens = torch.zeros(1, 1, codes.numel(), 1)
        sparse_attention(tokens, tokens, tokens, tokenizer.latent_shape)
    named = {
        "actions": f"{preset.prior.num_actions} actions of {preset.actions.vector_size}"
        if preset.prior.num_actions
        else "",
        "class": "the class" if preset.prior.on_class else "",
        "frames": f"{preset.prior.given_frames} given frame"
        + f"{'s' * (preset.prior.given_frames > 1)}"
        if preset.prior.given_frames
        else "",
    }
    return described(
        name,
        preset,
        model=model,
        losses=(
            lambda: model.tokenizer(clips).loss,
            lambda: model.prior(codes, conditions).float().mean(),
        ),
        source=preset.source,
        clip_shape=tokenizer.clip_shape,
        conditions=" and ".join(text for text in named.values() if text) or "none",
        condition_size=config.condition_size,
        frames_of_tokens=num_frames,
    )


def config_of(preset: PublishedPreset, reader: EpisodeReader) -> VideoGPTConfig:
    """A preset's config for a data set. Raises UserError where the two don't fit."""
    info, num_frames = reader.info, preset.tokenizer.clip_shape[0]
    has_actions = info.actions != NO_ACTION
    return made_for(
        reader,
        lambda: VideoGPTConfig(
            tokenizer=replace(preset.tokenizer, clip_shape=(num_frames, *info.frame_shape)),
            prior=preset.prior if has_actions else replace(preset.prior, num_actions=0),
            actions=info.actions,
            class_names=info.class_names,
        ),
    )


def _preset(options: TrainVideoGPT) -> PublishedPreset:
    """The preset by its name, with the changes that the options ask for."""
    check_preset(options, PUBLISHED_PRESETS, DREAM_PRESETS, DREAM_TRAIN)
    preset = with_options(PUBLISHED[options.preset], options)
    if options.conditions is None:
        return preset
    wanted, prior = _wanted(options.conditions), preset.prior
    if unknown := wanted - CONDITIONS:
        raise UserError(
            f"unknown condition {min(unknown)!r}; the known ones are: "
            f"{', '.join(sorted(CONDITIONS))}, or none"
        )
    num_actions = prior.num_actions or preset.tokenizer.clip_shape[0] - 1
    prior = replace(
        prior,
        num_actions=num_actions * ("actions" in wanted),
        on_class="class" in wanted,
        given_frames=(prior.given_frames or 1) * ("frames" in wanted),
    )
    return replace(preset, prior=prior)


def _wanted(conditions: str | None) -> set[str]:
    """The conditions in --conditions."""
    if conditions is None or conditions == "none":
        return set()
    return {name.strip() for name in conditions.split(",")}


def _model(
    options: TrainVideoGPT, config: VideoGPTConfig, reader: EpisodeReader
) -> tuple[VideoGPT, dict[str, str]]:
    """The model to train, and the lineage entry of the checkpoint that it starts from."""
    if options.init is None:
        return made_for(reader, lambda: VideoGPT(config)), {}
    dream = main_arguments(replace(options, preset="PRESET"))
    folder = find_kind(options.init, VIDEOGPT, DREAM_TRAIN, *dream)
    model = load_videogpt(str(folder)).model.train()
    check_init(options.init, config, model.config)
    return model, started_from(folder, "all")


def _notes(
    preset: PublishedPreset, config: VideoGPTConfig, options: TrainVideoGPT
) -> Iterator[str]:
    """How the model differs from the preset because of the data."""
    meant, made = preset.tokenizer, config.tokenizer
    if made.clip_shape != meant.clip_shape:
        shapes = (meant.clip_shape, meant.grid, made.clip_shape, made.grid)
        clips, grid, own_clips, own_grid = ("x".join(map(str, shape)) for shape in shapes)
        yield (
            f"{options.preset} is meant for clips of {clips} and latents of {grid}; "
            f"these are clips of {own_clips}, so latents are {own_grid}"
        )
    if config.prior.num_actions < preset.prior.num_actions:
        yield "these episodes have no actions: the prior is not conditioned on actions"
