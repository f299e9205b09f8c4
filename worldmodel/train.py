"""Train a world model: python -m worldmodel.train dream-doom --data data/doom-hgs --out runs/doom

First the tokenizer, then the prior on its codes. Stopped in whatever way, the same command goes
on where it was. The folder is a checkpoint: play it, make an environment of it, ship it.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from lightning_fabric import Fabric

from worldmodel.checkpoint import (
    Checkpoint,
    CheckpointError,
    Starts,
    World,
    load_checkpoint,
    save_checkpoint,
)
from worldmodel.configs import StageRecipe, WorldModelConfig
from worldmodel.data import DataError, EpisodeReader
from worldmodel.devices import make_fabric
from worldmodel.model import WorldModel
from worldmodel.presets import PRESETS, Preset
from worldmodel.stages import PriorStage, TokenizerStage
from worldmodel.trainer import (
    Progressed,
    Stage,
    Timing,
    TrainingError,
    console,
    load_state,
    train_stage,
)

NUM_STARTS = 16
SHOWN_AFTER_START = 32  # frames of the real future that a start leaves to compare with


@dataclass(frozen=True)
class Train:
    """Train a world model on recorded episodes: the tokenizer, then the prior on its codes.
    Stopped in whatever way, the same command goes on where it was."""

    preset: tyro.conf.Positional[str] = "dream-doom"
    """Sizes and recipe."""
    data: Path | None = None
    """Folder of episodes; the preset's own by default."""
    out: Path | None = None
    """Folder of the run, a checkpoint in the end; runs/PRESET by default."""
    stage: Literal["both", "tokenizer", "prior"] = "both"
    """What to train."""
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
    try:
        train(options)
    except (CheckpointError, DataError, TrainingError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on here")
        raise SystemExit(130) from None


def train(options: Train) -> None:
    """Do what `Train` says.

    Raises:
        CheckpointError: --init can't be loaded.
        DataError: the data are missing or damaged.
        TrainingError: an option, the run's folder or its device is not usable.
    """
    _check(options)
    preset = _preset(options)
    out = options.out or Path("runs") / options.preset
    reader = EpisodeReader(options.data or Path(preset.data))
    config = WorldModelConfig(
        actions=reader.info.actions,
        variable_names=reader.info.variable_names,
        tokenizer=_fitted(preset, reader),
        prior=preset.prior,
    )
    starts = choose_starts(reader, num_frames=config.prior.window)  # or fail before training
    fabric = make_fabric(
        device=options.device, precision=options.precision, strategy=options.strategy
    )
    fabric.launch()
    torch.manual_seed(options.seed)
    model = (
        _new_model(reader, config) if options.init is None else _begin_from(options.init, config)
    )
    _claim(out, config, reader, fabric)
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
    tokenizer_state = training / "tokenizer.state.safetensors"
    if options.stage != "prior":
        done = run(
            TokenizerStage(
                model.tokenizer,
                reader,
                preset.tokenizer_recipe,
                memory_limit_bytes=int(options.memory_gb * 2**30),
                device=fabric.device,
            ),
            options.tokenizer_minutes,
        )
        if not done or options.stage == "tokenizer":
            return
    if load_state(tokenizer_state, model.tokenizer) == Progressed() and options.init is None:
        raise TrainingError(f"{out} has no tokenizer yet: train with --stage both or tokenizer")
    model.tokenizer.requires_grad_(False).eval()
    if fabric.global_rank > 0:
        fabric.barrier()  # the first process encodes the episodes, the others read its codes
    stage = PriorStage(
        model,
        reader,
        preset.prior_recipe,
        codes_path=training / "codes.safetensors",
        device=fabric.device,
    )
    if fabric.global_rank == 0:
        fabric.barrier()
    run(stage, options.prior_minutes)
    if fabric.global_rank == 0:
        info = reader.info
        world = World(info.env_id, info.env_kwargs, info.fps)
        card = (
            f"# A dream of {info.env_id}\n\nNot measured: `python -m worldmodel.evaluate {out}`.\n"
        )
        save_checkpoint(out, Checkpoint(model, world, starts), card=card, compact=False)


def choose_starts(reader: EpisodeReader, *, num_frames: int) -> Starts:
    """Moments of the test split, spread over its episodes, each with the frames before it.

    Raises:
        DataError: no test episode is long enough.
    """
    lengths = reader.index["episode_length"]
    members = [int(i) for i in reader.split("test") if lengths[i] + 1 >= num_frames]
    if not members:
        raise DataError(
            f"{reader.folder}: no test episode has {num_frames} frames to start from: record "
            "more or longer episodes"
        )
    rng = np.random.default_rng(0)
    chosen = rng.permutation(members)[:NUM_STARTS]
    moments, episodes = [], []
    for i in chosen:
        latest = max(num_frames - 1, int(lengths[i]) - SHOWN_AFTER_START)
        moments.append(int(rng.integers(num_frames - 1, latest + 1)))
        episodes.append(reader.episode(int(i)))
    longest = max(moments)
    prefixes = []
    for episode, moment in zip(episodes, moments, strict=True):
        padding = np.repeat(episode.action[:1], longest - moment, 0)
        prefixes.append(np.concatenate([episode.action[:moment], padding]))

    def window(name: str, missing: int) -> np.ndarray:
        parts = zip(episodes, moments, strict=True)
        return np.stack([getattr(e, name)[m + 1 - num_frames : m + 1 - missing] for e, m in parts])

    return Starts(
        frames=window("frames", 0),
        actions=window("action", 1),
        variables=window("variables", 0),
        seeds=np.asarray([episode.seed for episode in episodes], np.int64),
        prefix_lengths=np.asarray(moments, np.int64),
        prefixes=np.stack(prefixes),
    )


def _check(options: Train) -> None:
    may_be_zero = ("seed", "save_minutes", "validate_minutes")
    for name, value in vars(options).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            too_low = value < 0 or (value == 0 and name not in may_be_zero)
            if too_low or not math.isfinite(value):
                raise TrainingError(f"--{name.replace('_', '-')} can't be {value}")


def _preset(options: Train) -> Preset:
    if options.preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise TrainingError(f"unknown preset {options.preset!r}; the known ones are: {known}")
    preset = PRESETS[options.preset]

    def changed(recipe: StageRecipe, steps: int | None) -> StageRecipe:
        return replace(
            recipe,
            steps=recipe.steps if steps is None else steps,
            batch_size=options.batch_size or recipe.batch_size,
            learning_rate=options.learning_rate or recipe.learning_rate,
        )

    return replace(
        preset,
        tokenizer_recipe=changed(preset.tokenizer_recipe, options.tokenizer_steps),
        prior_recipe=changed(preset.prior_recipe, options.prior_steps),
    )


def _fitted(preset: Preset, reader: EpisodeReader):
    try:
        return replace(preset.tokenizer, frame_shape=reader.info.frame_shape)
    except ValueError as error:
        raise DataError(f"{reader.folder}: {error}") from None


def _new_model(reader: EpisodeReader, config: WorldModelConfig) -> WorldModel:
    try:
        return WorldModel(config)
    except ValueError as error:
        raise DataError(f"{reader.folder}: {error}") from None


def _begin_from(name: str, config: WorldModelConfig) -> WorldModel:
    model = load_checkpoint(name).model.train()
    names = [field.name for field in fields(config)]
    differing = [name for name in names if getattr(config, name) != getattr(model.config, name)]
    if differing:
        raise TrainingError(
            f"--init {name} has other {', '.join(differing)} than this preset and data give"
        )
    return model


def _claim(out: Path, config: WorldModelConfig, reader: EpisodeReader, fabric: Fabric) -> None:
    """Note what the folder is for; refuse one that is for something else."""
    path = out / "training" / "world-model.json"
    described = {**asdict(config), "actions": config.actions.to_json(), "data": reader.digest()}
    wanted = json.loads(json.dumps(described))
    if path.exists():
        stored = json.loads(path.read_text())
        differing = [name for name in wanted if stored.get(name) != wanted[name]]
        if differing:
            raise TrainingError(
                f"{out} holds a run with other {', '.join(differing)} than this preset and data "
                "give: choose another --out, perhaps with --init to begin from that run"
            )
    elif fabric.global_rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(wanted, indent=2) + "\n")
        os.replace(unfinished, path)


if __name__ == "__main__":
    main()
