"""How a dream is trained: its tokenizer, its prior, and, if asked for, its sharp decoder."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from worldmodel.checkpoint import (
    Checkpoint,
    Lineage,
    World,
    check_kind,
    choose_starts,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from worldmodel.checkpoint.card import model_card
from worldmodel.configs.auto import auto_preset, summary
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import PRESETS, Preset
from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.interface.pose import NO_POSE
from worldmodel.train import Train
from worldmodel.training.decoder_stage import DecoderStage
from worldmodel.training.describe import describe
from worldmodel.training.options import (
    AUTO,
    DREAM_PRESETS,
    PUBLISHED_PRESETS,
    check_preset,
    command_of,
)
from worldmodel.training.prior_stage import PriorStage
from worldmodel.training.run import (
    Run,
    changed,
    check,
    check_init,
    data_folder,
    made_for,
    shown,
    started,
    world_of,
)
from worldmodel.training.schedule import Progressed
from worldmodel.training.state import load_state
from worldmodel.training.tokenizer_stage import TokenizerStage

NUM_STARTS = 16  # that a checkpoint holds
# Of a prior; 0 in checkpoints before version 5.
LATER_PARTS = ("map_width", "tells_age", "recalled")
PUBLISHED_TRAIN = "worldmodel.videogpt.train"


def train(options: Train, *, command: str) -> None:
    """As `worldmodel.train.train`."""
    check(options)
    preset = changed(_preset(options), options)
    if options.describe:
        print(shown(options, describe(options.preset, preset)))
    else:
        train_preset(preset, options, command=command)


def train_preset(preset: Preset, options: Train, *, command: str = "the same command") -> None:
    """Train what a preset says, its recipes as they stand; raises what `train` does.

    Args:
        options: all but those that `train` has worked into the preset.
        command: that resumes the training, for the user.
    """
    out = options.out or Path("runs") / _run_name(options)
    reader = EpisodeReader(data_folder(options, preset.data, preset.get))
    # Or fail before anything is written.
    config = made_for(reader, lambda: _config(preset, reader))
    starts = choose_starts(reader, num_frames=config.prior.window, num_starts=NUM_STARTS)
    starts = replace(starts, poses=starts.poses[..., : len(config.pose)])
    with started(options, out, reader, command) as run:
        model, world = _model(options, config, reader)
        run.begin(config, preset, _notes(preset, options))
        if not _train(run, model, preset, options):
            return

        def save(lineage: Lineage) -> None:
            checkpoint = Checkpoint(model, world, starts, lineage)
            card = model_card(checkpoint, name=out.resolve().name)
            save_checkpoint(out, checkpoint, card=card, compact=False)

        run.export(
            save,
            f"play it: python -m play --env {shlex.quote(str(out))}",
            states={"state_sha256": "prior", "decoder_state_sha256": "decoder"},
        )


def _train(run: Run, model: WorldModel, preset: Preset, options: Train) -> bool:
    """Train the stages asked for; returns whether there is a model to make a checkpoint of."""
    model.to(run.fabric.device)
    tokenizer_before = model.tokenizer.digest()
    if not run.train_tokenizer(model.tokenizer, preset.tokenizer_recipe, TokenizerStage):
        return False
    tokenizer = model.tokenizer.digest()
    if model.sharp is not None:
        if options.init is None or tokenizer != tokenizer_before:
            model.sharp.begin_as(model.tokenizer.decoder)
        load_state(run.state("decoder"), model.sharp, tokenizer, part="sharp.")
    codes_path = run.folder / "codes.safetensors"
    if options.stage != "decoder":
        with run.first_process_first():  # it encodes the episodes, the others read its codes
            recipe = preset.prior_recipe
            stage = PriorStage(model, run.reader, recipe, codes_path=codes_path, fabric=run.fabric)
        run.train(stage, options.prior_minutes)
        return True
    is_new = load_state(run.state("prior"), model.prior, tokenizer) == Progressed()
    if is_new and options.init is None:
        raise UserError(f"{run.out} has no prior yet: train one first, with --stage both or prior")
    model.prior.requires_grad_(False).eval()
    with run.first_process_first():
        stage = DecoderStage(
            model,
            run.reader,
            preset.decoder_recipe,
            codes_path=codes_path,
            fabric=run.fabric,
            memory_limit_bytes=run.memory_limit_bytes,
        )
    run.train(stage, options.decoder_minutes)
    return True


def _preset(options: Train) -> Preset:
    """The preset by its name."""
    check_preset(options, DREAM_PRESETS, PUBLISHED_PRESETS, PUBLISHED_TRAIN)
    if options.preset != AUTO:
        return PRESETS[options.preset]
    if options.data is None:
        raise UserError(
            "give the folder of episodes with --data, or name a preset that knows its own: "
            f"{', '.join(PRESETS)}"
        )
    return auto_preset(EpisodeReader(options.data))


def _run_name(options: Train) -> str:
    if options.preset == AUTO and options.data is not None:
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


def _notes(preset: Preset, options: Train) -> Iterator[str]:
    if options.preset == AUTO:
        yield summary(preset)


def _model(
    options: Train, config: WorldModelConfig, reader: EpisodeReader
) -> tuple[WorldModel, World]:
    """The model to train, and its world, sampled as the checkpoint that it begins from."""
    world = world_of(reader)
    if options.init is None:
        return made_for(reader, lambda: WorldModel(config)), world
    folder = find_checkpoint(options.init)
    published = replace(options, preset="PRESET")
    check_kind(folder, options.init, Checkpoint.kind, command_of(PUBLISHED_TRAIN, published))
    loaded = load_checkpoint(str(folder))
    model = _grown(loaded.model, config).train()
    check_init(options.init, config, model.config)
    return model, replace(world, sampling=loaded.world.sampling)


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
