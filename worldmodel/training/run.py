"""A run of `python -m worldmodel.train`: a folder, a data set, two stages, and a checkpoint."""

import json
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from worldmodel import randomness
from worldmodel.checkpoint import file_digest, finish_save, read_lineage
from worldmodel.command import check_numbers, say, track
from worldmodel.configs.auto import auto_preset, summary
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import PRESETS, Preset
from worldmodel.configs.recipe import StageRecipe
from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError, printable
from worldmodel.storage.files import locked, read_json, write_json
from worldmodel.train import AUTO, KNOWN_PRESETS, Train
from worldmodel.training.describe import describe, to_lines
from worldmodel.training.devices import make_fabric
from worldmodel.training.projects import Project, project_of
from worldmodel.training.schedule import Progressed, Timing
from worldmodel.training.state import load_state
from worldmodel.training.tokenizer_stage import TokenizerStage
from worldmodel.training.trainer import Stage, train_stage
from worldmodel.videogpt.configs import GPTConfig, VideoGPTConfig
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.presets import PUBLISHED, PublishedPreset

CONDITIONS = {"actions", "class", "frames"}
MOST_POLICIES = 8  # named on a model's card
MOST_NOTED_BYTES = 2**22  # of world-model.json


def train(options: Train, *, command: str) -> None:
    """As `worldmodel.train.train`."""
    _check(options)
    if options.json:
        raise UserError("--json goes with --describe")
    train_preset(_preset(options), options, command=command)


def described(options: Train) -> str:
    """As `worldmodel.train.described`."""
    _check(options)
    for name in ("precision", "accumulate", "checkpoint_activations"):
        if getattr(options, name) != getattr(Train(), name):
            option = name.replace("_", "-")
            raise UserError(f"--describe counts without --{option}: leave it out")
    description = describe(options.preset, _preset(options))
    return json.dumps(description, indent=2) if options.json else "\n".join(to_lines(description))


def train_preset(
    preset: Preset | PublishedPreset, options: Train, *, command: str = "the same command"
) -> None:
    """As `worldmodel.train.train_preset`."""
    out = options.out or Path("runs") / _run_name(options)
    reader = EpisodeReader(_data(preset, options))
    project = project_of(preset, reader)  # or fail before anything is written
    _check_conditions(options, project, reader)
    fabric = make_fabric(device=options.device, precision=options.precision)
    fabric.launch()
    with locked(out) if fabric.global_rank == 0 else nullcontext():
        _train(preset, options, out, reader, project, fabric, command)


def _train(
    preset: Preset | PublishedPreset,
    options: Train,
    out: Path,
    reader: EpisodeReader,
    project: Project,
    fabric: Fabric,
    command: str,
) -> None:
    randomness.seed_torch(options.seed, "weights")
    model = project.new_model() if options.init is None else _begin_from(options.init, project)
    if options.checkpoint_activations:
        if not isinstance(model, VideoGPT):
            raise UserError("--checkpoint-activations is for VideoGPT as published: leave it out")
        model.tokenizer.checkpoint_activations = model.prior.checkpoint_activations = True
    training = out / "training"
    data_digest = reader.digest()
    _claim(out, project.config, data_digest, fabric)
    if fabric.global_rank == 0:
        finish_save(out)
        read_lineage(out)  # or fail before hours of training: the checkpoint there is damaged
        for i in track(range(len(reader)), "checking the episodes"):
            reader.steps(i)  # or fail before hours of training: a value in them breaks a rule
        say(_plan(preset, options, out))
        for note in _notes(preset, project, options):
            say(f"note: {note}")

    def run(stage: Stage, schedule_minutes: float | None) -> bool:
        timing = Timing(
            max_minutes=options.max_minutes,
            schedule_minutes=schedule_minutes,
            save_minutes=options.save_minutes,
            validate_minutes=options.validate_minutes,
        )
        done = train_stage(
            stage,
            fabric,
            training,
            timing,
            seed=options.seed,
            compiled=options.compile,
            accumulate=options.accumulate,
        )
        if not done and fabric.global_rank == 0:
            minutes = f"{options.max_minutes:g} minutes (--max-minutes)"
            say(f"stopped the {stage.name} after {minutes}. To resume: {command}")
        return done

    model.to(fabric.device)
    tokenizer_before = model.tokenizer.digest()
    memory_limit_bytes = int(options.memory_gb * 2**30)
    tokenizer_state = training / "tokenizer.state.safetensors"
    prior_state = training / "prior.state.safetensors"
    decoder_state = training / "decoder.state.safetensors"
    if options.stage in ("both", "tokenizer"):
        done = run(
            TokenizerStage(
                model.tokenizer,
                reader,
                preset.tokenizer_recipe,
                memory_limit_bytes=memory_limit_bytes,
                device=fabric.device,
            ),
            options.tokenizer_minutes,
        )
        if done and options.stage == "tokenizer" and fabric.global_rank == 0:
            say("the tokenizer is trained; the prior comes next: --stage prior")
        if not done or options.stage == "tokenizer":
            return
    if load_state(tokenizer_state, model.tokenizer) == Progressed() and options.init is None:
        raise UserError(f"{out} has no tokenizer yet: train with --stage both or tokenizer")
    model.tokenizer.requires_grad_(False).eval()
    tokenizer = model.tokenizer.digest()
    if isinstance(model, WorldModel) and model.sharp is not None:
        if options.init is None or tokenizer != tokenizer_before:
            model.sharp.begin_as(model.tokenizer.decoder)
        load_state(decoder_state, model.sharp, tokenizer, part="sharp.")
    if options.stage == "decoder":
        is_new = load_state(prior_state, model.prior, tokenizer) == Progressed()
        if is_new and options.init is None:
            raise UserError(f"{out} has no prior yet: train one first, with --stage both or prior")
        model.prior.requires_grad_(False).eval()
    if fabric.global_rank > 0:
        fabric.barrier()  # the first process encodes the episodes, the others read its codes
    make = project.decoder_stage if options.stage == "decoder" else project.prior_stage
    stage = make(training, fabric, memory_limit_bytes=memory_limit_bytes)
    if fabric.global_rank == 0:
        fabric.barrier()
    run(stage, options.decoder_minutes if options.stage == "decoder" else options.prior_minutes)
    if fabric.global_rank > 0:
        return
    states = {"state_sha256": prior_state, "decoder_state_sha256": decoder_state}
    _export(out, project, states, _described_data(reader, data_digest))


def _described_data(reader: EpisodeReader, digest: str) -> dict[str, Any]:
    """Of a checkpoint's lineage: which data it learned, and who recorded them."""
    policies = sorted({printable(name.decode(errors="replace")) for name in _policies(reader)})
    named = policies if len(policies) <= MOST_POLICIES else []  # importers name each file
    return {"sha256": digest, "num_episodes": len(reader), "recorded_by": named}


def _policies(reader: EpisodeReader) -> set[bytes]:
    return set(reader.index["policy"].tolist())


def _export(out: Path, project: Project, states: dict[str, Path], data: dict[str, Any]) -> None:
    """Make a checkpoint of what was trained, unless the one that is there was made from these very
    states: it may have been calibrated since."""
    trained = {name: file_digest(path) for name, path in states.items() if path.exists()}
    lineage = read_lineage(out)
    if lineage is not None:
        # Older checkpoints don't say what they were made from.
        is_of_state = lineage.get("trained", {}) == trained if lineage else project.is_exported(out)
        if is_of_state:
            say(f"{out} was trained to its end before: its checkpoint stays as it is")
            return
    project.save(out, {"trained": trained, "data": data})
    folder = shlex.quote(str(out))
    is_dream = isinstance(project.config, WorldModelConfig)
    use = (
        f"play it: python -m play --env {folder}"
        if is_dream
        else f"draw clips: python -m worldmodel.sample {folder} --out clips.png"
    )
    say(f"{out} is a checkpoint now; {use}")


def _plan(preset: Preset | PublishedPreset, options: Train, out: Path) -> str:
    """What will be trained and written where, in a line."""
    stages = [
        ("tokenizer", preset.tokenizer_recipe, options.tokenizer_minutes),
        ("prior", preset.prior_recipe, options.prior_minutes),
    ]
    if options.stage != "both":
        if isinstance(preset, Preset):
            stages.append(("decoder", preset.decoder_recipe, options.decoder_minutes))
        stages = [stage for stage in stages if stage[0] == options.stage]
    parts = []
    for name, recipe, minutes in stages:
        length = f"{recipe.steps} steps" if minutes is None else f"{minutes:g} minutes"
        parts.append(f"the {name} ({length})")
    return (
        f"training {', then '.join(parts)} into {out}; each says how long it takes once it runs; "
        f"curves: tensorboard --logdir {shlex.quote(str(out / 'training' / 'tensorboard'))}"
    )


def _data(preset: Preset | PublishedPreset, options: Train) -> Path:
    """The folder of episodes. Raises UserError where the preset's own has to be got first."""
    folder = Path(preset.data)
    if options.data is not None:
        return options.data
    if not (folder / "meta.json").exists():
        raise UserError(
            f"{folder} holds no data set: get {options.preset}'s with `{preset.get} --out "
            f"{folder}` (--help explains its options), or give another with --data"
        )
    return folder


def _check(options: Train) -> None:
    lowest = dict.fromkeys(("seed", "save_minutes", "validate_minutes"), 0)
    numbers = {name for name, value in vars(options).items() if type(value) in (int, float)}
    check_numbers(options, above_zero=numbers - lowest.keys(), **lowest)


def _preset(options: Train) -> Preset | PublishedPreset:
    """The preset by its name, changed as the options say."""
    preset = _named_preset(options)

    def changed(recipe: StageRecipe, steps: int | None) -> StageRecipe:
        return replace(
            recipe,
            steps=recipe.steps if steps is None else steps,
            batch_size=options.batch_size or recipe.batch_size,
            learning_rate=options.learning_rate or recipe.learning_rate,
        )

    preset = replace(
        preset,
        tokenizer_recipe=changed(preset.tokenizer_recipe, options.tokenizer_steps),
        prior_recipe=changed(preset.prior_recipe, options.prior_steps),
    )
    if isinstance(preset, Preset):
        recipe = changed(preset.decoder_recipe, options.decoder_steps)
        preset = replace(preset, decoder_recipe=recipe)
    elif options.stage == "decoder":
        raise UserError("--stage decoder is for dreams, not for VideoGPT as published")
    if options.conditions is None:
        return preset
    if not isinstance(preset, PublishedPreset):
        raise UserError("--conditions goes with VideoGPT as published, not with a dream")
    return replace(preset, prior=_conditioned(preset, options.conditions))


def _named_preset(options: Train) -> Preset | PublishedPreset:
    if options.preset == AUTO:
        if options.data is None:
            raise UserError(
                "give the folder of episodes with --data, or name a preset that knows its own: "
                f"{', '.join(KNOWN_PRESETS[1:])}"
            )
        return auto_preset(EpisodeReader(options.data))
    preset = PRESETS.get(options.preset) or PUBLISHED.get(options.preset)
    if preset is None:
        known = ", ".join(KNOWN_PRESETS)
        raise UserError(f"unknown preset {options.preset!r}; the known ones are: {known}")
    return preset


def _run_name(options: Train) -> str:
    if options.preset == AUTO and options.data is not None:
        return options.data.resolve().name
    return options.preset


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


def _notes(preset: Preset | PublishedPreset, project: Project, options: Train) -> Iterator[str]:
    """What the data make of a preset that it doesn't say itself."""
    config = project.config
    if options.preset == AUTO and isinstance(preset, Preset):
        yield summary(preset)
    if not isinstance(preset, PublishedPreset) or not isinstance(config, VideoGPTConfig):
        return
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


def _check_conditions(options: Train, project: Project, reader: EpisodeReader) -> None:
    """Raises UserError for actions that were asked for and aren't there.

    Those that only the preset asks for are left out where nobody steered.
    """
    config = project.config
    has_actions = isinstance(config, VideoGPTConfig) and config.prior.num_actions > 0
    if "actions" in _wanted(options.conditions) and not has_actions:
        raise UserError(
            f"{reader.folder} holds no actions to condition on: leave them out of --conditions"
        )


def _begin_from(name: str, project: Project) -> WorldModel | VideoGPT:
    model = project.load_model(name)
    names = [field.name for field in fields(project.config)]
    differing = [
        name for name in names if getattr(project.config, name) != getattr(model.config, name)
    ]
    if differing:
        raise UserError(
            f"--init {name} has other {', '.join(differing)} than this preset and data give"
        )
    return model


def _claim(
    out: Path, config: WorldModelConfig | VideoGPTConfig, data_digest: str, fabric: Fabric
) -> None:
    """Note what the folder is for; refuse one that is for something else."""
    path = out / "training" / "world-model.json"
    described = {**asdict(config), "actions": config.actions.to_json(), "data": data_digest}
    wanted = json.loads(json.dumps(described))
    if path.exists():
        stored = read_json(path, most_bytes=MOST_NOTED_BYTES)
        if not isinstance(stored, dict):
            raise UserError(f"{path} should hold a JSON object: choose another --out")
        differing = [name for name in wanted if stored.get(name) != wanted[name]]
        if differing:
            raise UserError(
                f"{out} holds a run with other {', '.join(differing)} than this preset and data "
                "give: choose another --out, perhaps with --init to begin from that run"
            )
    elif fabric.global_rank == 0:
        write_json(path, wanted)
