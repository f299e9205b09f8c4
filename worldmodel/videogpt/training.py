"""How VideoGPT as published is trained: its tokenizer of clips, then its prior."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from worldmodel.checkpoint import Lineage, check_kind, find_checkpoint, save_checkpoint
from worldmodel.checkpoint.files import VIDEOGPT
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION
from worldmodel.training.options import (
    DREAM_PRESETS,
    PUBLISHED_PRESETS,
    check_preset,
    command_of,
)
from worldmodel.training.run import (
    changed,
    check,
    check_init,
    data_folder,
    made_for,
    shown,
    started,
    world_of,
)
from worldmodel.videogpt.checkpoint import (
    VideoGPTCheckpoint,
    choose_clips,
    load_videogpt,
    model_card,
)
from worldmodel.videogpt.configs import GPTConfig, VideoGPTConfig
from worldmodel.videogpt.describe import describe
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.presets import PUBLISHED, PublishedPreset
from worldmodel.videogpt.stages import ClipTokenizerStage, VideoPriorStage
from worldmodel.videogpt.train import Train

CONDITIONS = {"actions", "class", "frames"}
DREAM_TRAIN = "worldmodel.train"


def train(options: Train, *, command: str) -> None:
    """As `worldmodel.videogpt.train.train`."""
    check(options)
    preset = _preset(options)
    if options.describe:
        print(shown(options, describe(options.preset, preset)))
    else:
        train_preset(preset, options, command=command)


def train_preset(
    preset: PublishedPreset, options: Train, *, command: str = "the same command"
) -> None:
    """Train what a preset says, its recipes as they stand; raises what `train` does.

    Args:
        options: all but those that `train` has worked into the preset.
        command: that resumes the training, for the user.
    """
    out = options.out or Path("runs") / options.preset
    reader = EpisodeReader(data_folder(options, preset.data, preset.get))
    config = config_of(preset, reader)  # or fail before anything is written
    clips = choose_clips(reader, num_frames=config.tokenizer.clip_shape[0])
    _check_conditions(options, config, reader)
    with started(options, out, reader, command, accumulate=options.accumulate) as run:
        model = _model(options, config, reader)
        run.begin(config, preset, _notes(preset, config, options))
        if options.checkpoint_activations:
            model.tokenizer.checkpoint_activations = model.prior.checkpoint_activations = True
        device = run.fabric.device
        model.to(device)
        if not run.train_tokenizer(model.tokenizer, preset.tokenizer_recipe, ClipTokenizerStage):
            return
        stage = VideoPriorStage(
            model,
            reader,
            preset.prior_recipe,
            memory_limit_bytes=run.memory_limit_bytes,
            device=device,
        )
        run.train(stage, options.prior_minutes)

        def save(lineage: Lineage) -> None:
            checkpoint = VideoGPTCheckpoint(model, world_of(reader), clips, lineage)
            card = model_card(checkpoint, name=out.resolve().name)
            save_checkpoint(out, checkpoint, card=card, compact=False)

        drawn = f"python -m worldmodel.videogpt.sample {shlex.quote(str(out))} --out clips.png"
        run.export(save, f"draw clips: {drawn}", states={"state_sha256": "prior"})


def config_of(preset: PublishedPreset, reader: EpisodeReader) -> VideoGPTConfig:
    """What a preset makes of a data set. Raises UserError where the two don't suit."""
    info, num_frames = reader.info, preset.tokenizer.clip_shape[0]
    steered = info.actions != NO_ACTION
    return made_for(
        reader,
        lambda: VideoGPTConfig(
            tokenizer=replace(preset.tokenizer, clip_shape=(num_frames, *info.frame_shape)),
            prior=preset.prior if steered else replace(preset.prior, num_actions=0),
            actions=info.actions,
            class_names=info.class_names,
        ),
    )


def _preset(options: Train) -> PublishedPreset:
    """The preset by its name, changed as the options say."""
    check_preset(options, PUBLISHED_PRESETS, DREAM_PRESETS, DREAM_TRAIN)
    preset = changed(PUBLISHED[options.preset], options)
    if options.conditions is None:
        return preset
    return replace(preset, prior=_conditioned(preset, options.conditions))


def _conditioned(preset: PublishedPreset, conditions: str) -> GPTConfig:
    wanted = _wanted(conditions)
    if unknown := wanted - CONDITIONS:
        raise UserError(
            f"unknown condition {min(unknown)!r}; the known ones are: "
            f"{', '.join(sorted(CONDITIONS))}, or none"
        )
    prior = preset.prior
    return replace(
        prior,
        num_actions=(prior.num_actions or preset.tokenizer.clip_shape[0] - 1)
        * ("actions" in wanted),
        on_class="class" in wanted,
        given_frames=(prior.given_frames or 1) * ("frames" in wanted),
    )


def _wanted(conditions: str | None) -> set[str]:
    """What --conditions asks for."""
    if conditions is None or conditions == "none":
        return set()
    return {name.strip() for name in conditions.split(",")}


def _check_conditions(options: Train, config: VideoGPTConfig, reader: EpisodeReader) -> None:
    """Raises UserError for actions that were asked for and aren't there.

    Those that only the preset asks for are left out where nobody steered.
    """
    if "actions" in _wanted(options.conditions) and not config.prior.num_actions:
        raise UserError(
            f"{reader.folder} holds no actions to condition on: leave them out of --conditions"
        )


def _model(options: Train, config: VideoGPTConfig, reader: EpisodeReader) -> VideoGPT:
    if options.init is None:
        return made_for(reader, lambda: VideoGPT(config))
    folder = find_checkpoint(options.init)
    dream = command_of(DREAM_TRAIN, replace(options, preset="PRESET"))
    check_kind(folder, options.init, VIDEOGPT, dream)
    model = load_videogpt(str(folder)).model.train()
    check_init(options.init, config, model.config)
    return model


def _notes(preset: PublishedPreset, config: VideoGPTConfig, options: Train) -> Iterator[str]:
    """What the data make of a preset that it doesn't say itself."""
    meant, made = preset.tokenizer, config.tokenizer
    if made.clip_shape != meant.clip_shape:
        clips, latents = (
            [_times(shape) for shape in shapes]
            for shapes in ((meant.clip_shape, made.clip_shape), (meant.grid, made.grid))
        )
        yield (
            f"{options.preset} is meant for clips of {clips[0]} and latents of {latents[0]}; "
            f"these are clips of {clips[1]}, so latents are {latents[1]}"
        )
    if config.prior.num_actions < preset.prior.num_actions:
        yield "nobody steered in these episodes: the prior is not conditioned on actions"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
