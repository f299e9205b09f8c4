"""Train a world model: python -m worldmodel.train --data data/car --out runs/car

Sizes are chosen from the data, or named: `python -m worldmodel.train dream-doom`. First the
tokenizer, then the prior on its codes. Stopped in whatever way, the same command goes on where it
was. The folder is a checkpoint: play it, make an environment of it, ship it.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from lightning_fabric import Fabric

from worldmodel import randomness
from worldmodel.auto_preset import AUTO, auto_preset, summary
from worldmodel.command import run_command, say
from worldmodel.configs import GPTConfig, StageRecipe, VideoGPTConfig, WorldModelConfig
from worldmodel.data import EpisodeReader
from worldmodel.describe import describe, to_lines
from worldmodel.errors import UserError
from worldmodel.files import written_whole
from worldmodel.model import WorldModel
from worldmodel.presets import PRESETS, PUBLISHED, Preset, PublishedPreset
from worldmodel.training.devices import make_fabric
from worldmodel.training.projects import Project, project_of
from worldmodel.training.schedule import Progressed, Timing
from worldmodel.training.stages import TokenizerStage
from worldmodel.training.state import load_state
from worldmodel.training.trainer import Stage, train_stage
from worldmodel.videogpt import VideoGPT

KNOWN_PRESETS = (AUTO, *PRESETS, *PUBLISHED)
CONDITIONS = {"actions", "class", "frames"}


@dataclass(frozen=True)
class Train:
    """Train a world model on recorded episodes: the tokenizer, then the prior on its codes.
    Stopped in whatever way, the same command goes on where it was."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            help="Sizes and recipe; auto chooses those of a dream from --data. One of: "
            f"{', '.join(KNOWN_PRESETS)}."
        ),
    ] = AUTO
    data: Path | None = None
    """Folder of episodes; the preset's own by default."""
    out: Path | None = None
    """Folder of the run, a checkpoint in the end; runs/PRESET by default, of auto runs/DATA."""
    stage: Literal["both", "tokenizer", "prior"] = "both"
    """What to train."""
    conditions: str | None = None
    """What the prior as published is told, parted by commas: actions, class, frames; or none.
    The preset's own by default."""
    init: str | None = None
    """Checkpoint to begin from instead of random weights: a shipped name, a folder, or a
    Hugging Face Hub id. With --stage prior its tokenizer stays as it is."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the arithmetic; weights stay fp32. auto: bf16 where the hardware computes in it."""
    max_minutes: float | None = None
    """Stop this call after so many minutes a stage, ready to go on."""
    tokenizer_minutes: float | None = None
    """Minutes of training over which the tokenizer's learning rate falls, all calls together.
    By default it falls over --tokenizer-steps."""
    prior_minutes: float | None = None
    """The same for the prior."""
    tokenizer_steps: int | None = None
    """Steps of the tokenizer's schedule; the preset's by default."""
    prior_steps: int | None = None
    """Steps of the prior's schedule; the preset's by default."""
    batch_size: int | None = None
    """Clips a step of both stages, over all processes; the preset's by default."""
    learning_rate: float | None = None
    """Peak of both stages; the preset's by default."""
    describe: bool = False
    """Only print the preset's parts, parameters, latents, and what a step costs in fp32, a whole
    batch at once; only auto needs data."""
    json: bool = False
    """With --describe: as JSON, for machines."""
    seed: int = 0
    """Of the weights and the batches."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How the processes that torchrun starts share the work: ddp, each with all weights, or
    fsdp, each with a slice of them. auto: ddp."""
    accumulate: int = 1
    """Parts in which a process works through its share of a batch, with that much less memory."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the model first: a minute or so, then faster steps."""
    save_minutes: float = 2.0
    """Between saves of the training state."""
    validate_minutes: float = 5.0
    """Between validations, each with a preview picture."""
    memory_gb: float = 8.0
    """Frames are held unpacked in memory up to this size, else read from disk as needed."""


def main() -> None:
    options = tyro.cli(Train, prog="python -m worldmodel.train", description=__doc__)
    run_command(lambda: print(described(options)) if options.describe else train(options))


def train(options: Train) -> None:
    """Do what `Train` says.

    Raises:
        UserError: --init can't be loaded.
        UserError: the data are missing or damaged.
        UserError: an option, the run's folder or its device is not usable.
    """
    _check(options)
    if options.json:
        raise UserError("--json goes with --describe")
    train_preset(_preset(options), options)


def described(options: Train) -> str:
    """What `Train` would train, as text for people or as JSON.

    Raises:
        UserError: auto's data are missing or damaged.
        UserError: an option is not usable.
    """
    _check(options)
    for name in ("precision", "accumulate", "checkpoint_activations", "strategy"):
        if getattr(options, name) != getattr(Train(), name):
            option = name.replace("_", "-")
            raise UserError(f"--describe counts without --{option}: leave it out")
    description = describe(options.preset, _preset(options))
    return json.dumps(description, indent=2) if options.json else "\n".join(to_lines(description))


def train_preset(preset: Preset | PublishedPreset, options: Train) -> None:
    """Train what a preset says, its recipes as they stand; raises what `train` does.

    Args:
        options: all but those that `train` has worked into the preset.
    """
    out = options.out or Path("runs") / _run_name(options)
    reader = EpisodeReader(_data(preset, options))
    project = project_of(preset, reader)  # or fail before anything is written
    _check_conditions(options, project, reader)
    fabric = make_fabric(
        device=options.device, precision=options.precision, strategy=options.strategy
    )
    fabric.launch()
    randomness.seed_torch(options.seed, "weights")
    model = project.new_model() if options.init is None else _begin_from(options.init, project)
    _claim(out, project.config, reader, fabric)
    if fabric.global_rank == 0:
        for note in _notes(preset, project, options):
            say(f"note: {note}")
    training = out / "training"

    def run(stage: Stage, schedule_minutes: float | None) -> bool:
        timing = Timing(
            max_minutes=options.max_minutes,
            schedule_minutes=schedule_minutes,
            save_minutes=options.save_minutes,
            validate_minutes=options.validate_minutes,
        )
        return train_stage(
            stage,
            fabric,
            training,
            timing,
            seed=options.seed,
            compiled=options.compile,
            accumulate=options.accumulate,
            checkpoint_activations=options.checkpoint_activations,
        )

    model.to(fabric.device)
    memory_limit_bytes = int(options.memory_gb * 2**30)
    tokenizer_state = training / "tokenizer.state.safetensors"
    prior_state = training / "prior.state.safetensors"
    if options.stage != "prior":
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
        if not done or options.stage == "tokenizer":
            return
    if load_state(tokenizer_state, model.tokenizer) == Progressed() and options.init is None:
        raise UserError(f"{out} has no tokenizer yet: train with --stage both or tokenizer")
    model.tokenizer.requires_grad_(False).eval()
    if fabric.global_rank > 0:
        fabric.barrier()  # the first process encodes the episodes, the others read its codes
    stage = project.prior_stage(
        training, memory_limit_bytes=memory_limit_bytes, device=fabric.device
    )
    if fabric.global_rank == 0:
        fabric.barrier()
    done = run(stage, options.prior_minutes)
    if fabric.global_rank > 0:
        return
    if _newer(out / "weights.safetensors", prior_state):
        say(f"{out} was trained to its end before: it stays as it is")
        return
    project.save(out)
    so_far = "" if done else "; the same command trains on"
    say(f"{out} is a checkpoint now: python -m worldmodel.sample {out} --out futures.png{so_far}")


def _newer(path: Path, than: Path) -> bool:
    """Whether a file was written after another one: a checkpoint may have been calibrated since."""
    return path.exists() and path.stat().st_mtime_ns >= than.stat().st_mtime_ns


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
    may_be_zero = ("seed", "save_minutes", "validate_minutes")
    for name, value in vars(options).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            too_low = value < 0 or (value == 0 and name not in may_be_zero)
            if too_low or not math.isfinite(value):
                raise UserError(f"--{name.replace('_', '-')} can't be {value}")


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
        yield "nobody steered in these episodes: the prior is told no actions"


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
    out: Path, config: WorldModelConfig | VideoGPTConfig, reader: EpisodeReader, fabric: Fabric
) -> None:
    """Note what the folder is for; refuse one that is for something else."""
    path = out / "training" / "world-model.json"
    described = {**asdict(config), "actions": config.actions.to_json(), "data": reader.digest()}
    wanted = json.loads(json.dumps(described))
    if path.exists():
        stored = json.loads(path.read_text())
        differing = [name for name in wanted if stored.get(name) != wanted[name]]
        if differing:
            raise UserError(
                f"{out} holds a run with other {', '.join(differing)} than this preset and data "
                "give: choose another --out, perhaps with --init to begin from that run"
            )
    elif fabric.global_rank == 0:
        try:
            with written_whole(path) as unfinished:
                unfinished.write_text(json.dumps(wanted, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{out} can't be written to ({error}): choose another --out") from None


if __name__ == "__main__":
    main()
