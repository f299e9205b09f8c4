"""How a dream is trained: its tokenizer, its prior and, if asked for, its sharp decoder."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.checkpoint import (
    Checkpoint,
    World,
    choose_starts,
    find_kind,
    load_checkpoint,
)
from worldmodel.checkpoint.card import model_card
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import PRESETS, Preset, auto_preset, shortage, summary
from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.interface.pose import NO_POSE
from worldmodel.training.codes import CodedEpisodes
from worldmodel.training.costs import described
from worldmodel.training.decoder_stage import DecoderStage
from worldmodel.training.options import (
    AUTO_SMALL,
    DREAM_PRESETS,
    PUBLISHED_PRESETS,
    RANDOM_WEIGHTS,
    TrainDream,
    check_preset,
    main_arguments,
)
from worldmodel.training.place_stage import PlaceParts, PlaceStage
from worldmodel.training.prior_losses import prior_losses
from worldmodel.training.prior_stage import PriorStage
from worldmodel.training.run import (
    Run,
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
from worldmodel.training.state import Progress, load_state
from worldmodel.training.tokenizer_stage import TokenizerStage

TOKENIZER_STAGES = ("both", "tokenizer")  # values of --stage that train it
NUM_STARTS = 16  # in a checkpoint
# Entries of a prior's config that are 0 in checkpoints before version 5.
ADDED_PARTS = ("map_width", "recalled")
PUBLISHED_TRAIN = "worldmodel.videogpt.train"


def train(options: TrainDream, *, command: str) -> None:
    """Train or describe a dream as the options say.

    Args:
        command: the command that resumes the training, to show to the user.

    Raises:
        UserError: --init can't be loaded; the data are missing, damaged or invalid; an option,
            the run's folder or its device is not usable; or another process trains there.
    """
    check(options)
    preset = with_options(_preset(options), options)
    if options.describe:
        description = describe(options.preset, preset)
        if options.preset not in PRESETS and options.data is not None:
            reader = EpisodeReader(options.data)
            lengths = reader.index["episode_length"][reader.split("train")] + 1
            description["frames_to_learn_from"] = int(lengths.sum())
        print(describe_as_asked(options, description))
    else:
        train_preset(preset, options, command=command)


def train_preset(preset: Preset, options: TrainDream, *, command: str = "the same command") -> None:
    """Train a preset with its recipes unchanged; arguments and errors as those of `train`."""
    out = options.out or Path("runs") / _run_name(options)
    trains_tokenizer = options.stage in TOKENIZER_STAGES
    start = options.init or (preset.start if trains_tokenizer else None)
    if options.init == RANDOM_WEIGHTS:
        options, start = replace(options, init=None), None
    reader = EpisodeReader(data_folder(options, preset))
    reader.check_splits()
    # Made first: an error comes before anything is written.
    config = made_for(reader, lambda: _config(preset, reader))
    starts = choose_starts(reader, num_frames=config.prior.window, num_starts=NUM_STARTS)
    starts = replace(starts, poses=starts.poses[..., : len(config.pose)])
    with started(options, out, reader, command) as run:
        model, world, notes, lineage = _model(start, options, config, reader)
        if options.preset not in PRESETS:
            notes = [summary(preset), *notes]
            if short := shortage(preset, reader):
                notes = [short, *notes]
        run.begin(config, preset, notes, lineage, learns_places=_learns_places(model))
        if _train(run, model, preset, options):
            run.export(
                Checkpoint(model, world, starts),
                model_card,
                f"play it: python -m play --env {shlex.quote(str(out))}",
                states={"state_sha256": "prior", "decoder_state_sha256": "decoder"},
            )


def describe(name: str, preset: Preset) -> dict[str, Any]:
    """Sizes and costs of a preset, computed without data, in JSON's types; see `described`."""
    tokenizer = preset.tokenizer
    config = WorldModelConfig(
        preset.actions,
        preset.variable_names,
        tokenizer,
        preset.prior,
        preset.pose if preset.prior.map_width else NO_POSE,
        preset.sharp_frames,
    )
    model = WorldModel(config).eval()
    height, width, channels = tokenizer.frame_shape
    num_frames = preset.prior_recipe.num_frames
    frames = torch.zeros(preset.tokenizer_recipe.num_frames, channels, height, width)
    codes = torch.zeros(1, num_frames, *tokenizer.grid, tokenizer.num_codebooks, dtype=torch.int64)

    def prior_loss() -> Tensor:
        return prior_losses(
            model.prior,
            model.prior,
            codes=codes,
            past_codes=codes[:, :-1],
            actions=torch.zeros(1, num_frames - 1, preset.actions.vector_size),
            reward=torch.zeros(1, num_frames - 1),
            terminated=torch.zeros(1, num_frames - 1, dtype=torch.bool),
            variables=torch.zeros(1, num_frames, len(preset.variable_names)),
            weights=torch.ones(1, num_frames - 1),
        ).loss

    return described(
        name,
        preset,
        model=model,
        losses=(lambda: model.tokenizer(frames).loss, prior_loss),
        source="a dream, to be lived in step by step",
        clip_shape=(num_frames, *tokenizer.frame_shape),
        conditions=f"each frame's action of {preset.actions.vector_size}",
        condition_size=preset.actions.vector_size,
        frames_of_tokens=1,
    )


def _train(run: Run, model: WorldModel, preset: Preset, options: TrainDream) -> bool:
    """Train the stages asked for; returns whether the model is ready to become a checkpoint."""
    model.to(run.fabric.device)
    tokenizer_before = model.tokenizer.digest()
    learns_places = _learns_places(model)
    if not run.train_tokenizer(model.tokenizer, preset.tokenizer_recipe, TokenizerStage):
        return False
    tokenizer = model.tokenizer.digest()
    if model.sharp is not None:
        if options.init is None or tokenizer != tokenizer_before:
            model.sharp.start_from(model.tokenizer.decoder)
        load_state(run.state("decoder"), model.sharp, tokenizer, part="sharp.")
    trains_decoder = options.stage == "decoder"
    if trains_decoder:
        is_new = load_state(run.state("prior"), model.prior, tokenizer) == Progress()
        if is_new and options.init is None:
            raise UserError(
                f"{run.out} has no prior yet: train one first, with --stage both or prior"
            )
        model.prior.requires_grad_(False).eval()
    with run.first_process_first():  # it encodes the episodes, the others read its codes
        path = run.folder / "codes.safetensors"
        coded = CodedEpisodes(model.tokenizer, run.reader, path, run.fabric)
    if learns_places and not trains_decoder:
        places = PlaceStage(model, coded, preset.place_recipe)
        if not run.train(places, options.place_minutes):
            return False
    with run.first_process_first():  # it compiles, the others read what it compiled
        if trains_decoder:
            stage = DecoderStage(model, coded, preset.decoder_recipe, run.memory_limit_bytes)
        else:
            stage = PriorStage(model, coded, preset.prior_recipe)
    run.train(stage, options.decoder_minutes if trains_decoder else options.prior_minutes)
    return True


def _learns_places(model: WorldModel) -> bool:
    """Whether the prior has parts that learn from single moments, and some are new."""
    return model.prior.place is not None and PlaceParts(model.prior).are_any


def _preset(options: TrainDream) -> Preset:
    """The preset by its name."""
    check_preset(options, DREAM_PRESETS, PUBLISHED_PRESETS, PUBLISHED_TRAIN)
    if options.preset in PRESETS:
        return PRESETS[options.preset]
    if options.data is None:
        raise UserError(
            "give the folder of episodes with --data, or name a preset that has its own: "
            f"{', '.join(PRESETS)}"
        )
    reader = EpisodeReader(options.data)
    preset = auto_preset(reader, small=options.preset == AUTO_SMALL)
    reader.check_splits()
    return preset


def _run_name(options: TrainDream) -> str:
    if options.preset not in PRESETS and options.data is not None:
        return options.data.resolve().name
    return options.preset


def _config(preset: Preset, reader: EpisodeReader) -> WorldModelConfig:
    info = reader.info
    return WorldModelConfig(
        actions=info.actions,
        variable_names=info.variable_names,
        tokenizer=replace(preset.tokenizer, frame_shape=info.frame_shape),
        prior=preset.prior,
        pose=info.pose if preset.prior.map_width else NO_POSE,
        sharp_frames=preset.sharp_frames,
    )


def _model(
    start: str | None, options: TrainDream, config: WorldModelConfig, reader: EpisodeReader
) -> tuple[WorldModel, World, list[str], dict[str, str]]:
    """The model to train; its world, with the sampling settings of the checkpoint `start` where
    that is of the same world; what to tell the user about them; and `start`'s lineage entry."""
    world = world_of(reader)
    if start is None:
        return made_for(reader, lambda: WorldModel(config)), world, [], {}
    published = main_arguments(replace(options, preset="PRESET"))
    folder = find_kind(start, Checkpoint.kind, PUBLISHED_TRAIN, *published)
    loaded = load_checkpoint(str(folder))
    if _is_grown(loaded.model.config, config):
        world = replace(world, sampling=loaded.world.sampling)
        return _grown(loaded.model, config).train(), world, [], started_from(folder, "all")
    if options.stage not in TOKENIZER_STAGES or not config.tokenizer.has_weights_of(
        loaded.model.config.tokenizer
    ):
        check_init(start, config, loaded.model.config)  # raises: they differ
    model = made_for(reader, lambda: WorldModel(config))
    model.tokenizer.load_state_dict(loaded.model.tokenizer.state_dict())
    model.tokenizer.codebooks.start_anew()
    note = f"the tokenizer starts from that of {start}, which is of another world or size"
    notes = [f"{note}; the prior starts from random weights"]
    return model, world, notes, started_from(folder, "tokenizer")


def _is_grown(config: WorldModelConfig, wanted: WorldModelConfig) -> bool:
    """Whether `wanted` is the config, perhaps with added parts."""
    own = {n: getattr(config.prior, n) for n in ADDED_PARTS if not getattr(config.prior, n)}
    pose = wanted.pose if config.pose else NO_POSE
    sharp_frames = wanted.sharp_frames if config.sharp_frames else 0
    prior = replace(wanted.prior, **own)
    return config == replace(wanted, pose=pose, sharp_frames=sharp_frames, prior=prior)


def _grown(model: WorldModel, config: WorldModelConfig) -> WorldModel:
    """The model with the parts that only `config` has; they have no effect until trained."""
    if model.config == config:
        return model
    grown = WorldModel(config)
    grown.load_state_dict({**grown.state_dict(), **model.state_dict()})
    if model.sharp is None and grown.sharp is not None:
        grown.sharp.start_from(grown.tokenizer.decoder)
    return grown
