"""What the trainings of dreams and of VideoGPT share: folder, data set, tokenizer, checkpoint."""

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from torch import nn

from worldmodel import randomness
from worldmodel.checkpoint import (
    AnyCheckpoint,
    World,
    finish_save,
    read_lineage,
    save_checkpoint,
    weights_digest,
)
from worldmodel.command import check_numbers, say, track, usable_device
from worldmodel.configs.presets import StageRecipe
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError, printable
from worldmodel.storage.files import file_digest, locked, read_json, write_json
from worldmodel.training.costs import to_lines
from worldmodel.training.options import TrainOptions
from worldmodel.training.state import Progress, load_state, state_path
from worldmodel.training.tokenizer_stage import TokenizerStage
from worldmodel.training.trainer import Stage, Timing, has_bf16, train_stage

Made = TypeVar("Made")
MOST_POLICIES = 8  # named on a model's card
MOST_CLAIM_BYTES = 2**22  # of world-model.json
STARTED_FROM = "started_from"  # in world-model.json, and in a checkpoint's lineage


@dataclass(frozen=True)
class Run:
    """A training run, in each of its processes.

    Attributes:
        out: the run's folder, locked by the first process.
        command: the command that resumes the run, to show to the user.
        accumulate: micro-batches per process and step.
    """

    options: TrainOptions
    out: Path
    reader: EpisodeReader
    fabric: Fabric
    command: str
    accumulate: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages for all."""
        return self.fabric.global_rank == 0

    @property
    def folder(self) -> Path:
        """Folder of states, curves and pictures."""
        return self.out / "training"

    @cached_property
    def data_digest(self) -> str:
        """Digest of the episodes; reads all of them."""
        return self.reader.digest()

    @property
    def memory_limit_bytes(self) -> int:
        return int(self.options.memory_gb * 2**30)

    @property
    def _claim_path(self) -> Path:
        return self.folder / "world-model.json"

    def state(self, stage: str) -> Path:
        """The file of a stage's training state."""
        return state_path(self.folder, stage)

    def begin(
        self,
        config: Any,
        preset: Any,
        notes: Iterable[str],
        started_from: dict[str, str],
        *,
        learns_places: bool = False,
    ) -> None:
        """Claim the folder for this model and data, and check now what would fail hours later.

        Args:
            started_from: the checkpoint that training starts from, see
                `started_from`; empty: random weights.
            learns_places: whether the stage "place" comes before the prior.

        Raises:
            UserError: the folder belongs to another run, its checkpoint is damaged, or a value in
                the data breaks a rule.
        """
        self._claim(config, started_from)
        if not self.is_first:
            return
        finish_save(self.out)
        read_lineage(self.out)
        for i in track(range(len(self.reader)), "checking the episodes"):
            self.reader.steps(i)
        curves = shlex.quote(str(self.folder / "tensorboard"))
        plan = self._plan(preset, learns_places)
        say(f"training {plan} into {self.out}; curves: tensorboard --logdir {curves}")
        for note in notes:
            say(f"note: {note}")

    def train(self, stage: Stage, schedule_minutes: float | None) -> bool:
        """Train a stage until its schedule or this call's time ends; returns whether the schedule
        is done."""
        options = self.options
        done = train_stage(
            stage,
            self.fabric,
            self.folder,
            Timing(
                max_minutes=options.max_minutes,
                schedule_minutes=schedule_minutes,
                save_minutes=options.save_minutes,
                validate_minutes=options.validate_minutes,
            ),
            seed=options.seed,
            compiled=options.compile,
            accumulate=self.accumulate,
        )
        if not done and self.is_first:
            minutes = f"{options.max_minutes:g} minutes (--max-minutes)"
            say(f"stopped the {stage.name} after {minutes}. To resume: {self.command}")
        return done

    def train_tokenizer(
        self, tokenizer: nn.Module, recipe: StageRecipe, make_stage: Callable[..., TokenizerStage]
    ) -> bool:
        """Train the tokenizer if the options ask for it, then freeze it; returns whether another
        stage follows.

        Raises:
            UserError: another stage was asked for, but there is no tokenizer yet.
        """
        options = self.options
        if options.stage in ("both", "tokenizer"):
            stage = make_stage(
                tokenizer,
                self.reader,
                recipe,
                memory_limit_bytes=self.memory_limit_bytes,
                device=self.fabric.device,
            )
            done = self.train(stage, options.tokenizer_minutes)
            if done and options.stage == "tokenizer" and self.is_first:
                say("the tokenizer is trained; the prior comes next: --stage prior")
            if not done or options.stage == "tokenizer":
                return False
        if load_state(self.state("tokenizer"), tokenizer) == Progress() and options.init is None:
            raise UserError(
                f"{self.out} has no tokenizer of its own: train one with --stage tokenizer, or "
                "name the checkpoint whose tokenizer it uses with --init"
            )
        tokenizer.requires_grad_(False).eval()
        return True

    @contextmanager
    def first_process_first(self) -> Iterator[None]:
        """Let the first process finish what is inside before the others start it."""
        if not self.is_first:
            self.fabric.barrier()
        yield
        if self.is_first:
            self.fabric.barrier()

    def export(
        self,
        checkpoint: AnyCheckpoint,
        make_card: Callable[..., str],
        use: str,
        *,
        states: dict[str, str],
    ) -> None:
        """Save what was trained as a checkpoint, unless the folder's checkpoint was made from the
        same training states: it may have been calibrated since.

        Args:
            checkpoint: the model; its lineage is filled in here.
            make_card: makes the model card of a checkpoint and its `name`.
            use: what to do with the checkpoint, to show to the user.
            states: stages whose states it is made from, by their names in the lineage.
        """
        if not self.is_first:
            return
        paths = {name: self.state(stage) for name, stage in states.items()}
        trained = {name: file_digest(path) for name, path in paths.items() if path.exists()}
        lineage = read_lineage(self.out)
        if lineage == {}:
            say(
                f"{self.out} holds a checkpoint of an earlier version that doesn't say what it "
                "was made from, so it is not replaced. To export this training, move its "
                "config.json elsewhere and run the command again"
            )
            return
        if lineage is not None and lineage.get("trained", {}) == trained:
            say(f"{self.out} was already trained to the end: its checkpoint is unchanged")
            return
        made_from = {"trained": trained, "data": self._data_lineage()}
        if start := read_json(self._claim_path, most_bytes=MOST_CLAIM_BYTES).get(STARTED_FROM):
            made_from[STARTED_FROM] = start
        checkpoint = replace(checkpoint, lineage=made_from)
        card = make_card(checkpoint, name=self.out.resolve().name)
        save_checkpoint(self.out, checkpoint, card=card, compact=False)
        say(f"{self.out} is a checkpoint now; {use}")

    def _plan(self, preset: Any, learns_places: bool) -> str:
        """The stages that will be trained, and their lengths."""
        stages = ["tokenizer", "prior"] if self.options.stage == "both" else [self.options.stage]
        if learns_places and stages[-1] == "prior":
            stages.insert(-1, "place")
        parts = []
        for stage in stages:
            minutes = getattr(self.options, f"{stage}_minutes")
            steps = f"{getattr(preset, f'{stage}_recipe').steps} steps"
            parts.append(f"the {stage} ({steps if minutes is None else f'{minutes:g} minutes'})")
        return ", then ".join(parts)

    def _claim(self, config: Any, started_from: dict[str, str]) -> None:
        """Record which model and data the folder is for; refuse another run's folder."""
        path = self._claim_path
        described = {**asdict(config), "actions": config.actions.to_json()}
        wanted = json.loads(json.dumps({**described, "data": self.data_digest}))
        if path.exists():
            stored = read_json(path, most_bytes=MOST_CLAIM_BYTES)
            if not isinstance(stored, dict):
                raise UserError(f"{path} should hold a JSON object: choose another --out")
            differing = [name for name in wanted if stored.get(name) != wanted[name]]
            if differing:
                raise UserError(
                    f"{self.out} holds a run whose {', '.join(differing)} differ from those of "
                    "this preset and data: choose another --out, perhaps with --init to start "
                    "from that run"
                )
        elif self.is_first:
            write_json(path, {**wanted, STARTED_FROM: started_from})

    def _data_lineage(self) -> dict[str, Any]:
        """A checkpoint's lineage entry: which data it learned, and who recorded them."""
        reader = self.reader
        recorded_by = set(reader.index["policy"].tolist())
        policies = sorted({printable(name.decode(errors="replace")) for name in recorded_by})
        named = policies if len(policies) <= MOST_POLICIES else []  # importers name each file
        return {"sha256": self.data_digest, "num_episodes": len(reader), "recorded_by": named}


@contextmanager
def started(
    options: TrainOptions, out: Path, reader: EpisodeReader, command: str, *, accumulate: int = 1
) -> Iterator[Run]:
    """A run in a locked folder, with torch seeded for the initial weights.

    Raises:
        UserError: the device is not usable, or another process trains in the folder.
    """
    fabric = make_fabric(device=options.device, precision=options.precision)
    fabric.launch()
    with locked(out) if fabric.global_rank == 0 else nullcontext():
        randomness.seed_torch(options.seed, "weights")
        yield Run(options, out, reader, fabric, command, accumulate)


def make_fabric(*, device: str, precision: str) -> Fabric:
    """Fabric over the processes that torchrun started (DDP), or over this one alone.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".

    Raises:
        UserError: the device isn't available.
    """
    on_cuda = usable_device(device, or_auto=True) == "cuda"
    device_type = "cuda" if on_cuda else "cpu"
    # Without instructions for it bf16 is emulated, and five times slower than fp32.
    in_bf16 = has_bf16(device_type) if precision == "auto" else precision == "bf16"
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return Fabric(
        accelerator=device_type,
        strategy="auto" if processes == 1 else "ddp",
        devices=local_processes,
        num_nodes=processes // local_processes,
        plugins=Bfloat16(device_type) if in_bf16 else Precision(),
    )


class Bfloat16(MixedPrecision):
    """Autocast to bf16 of the operations that bear it.

    Fabric's own plugin also rounds what a module is given. Poses of three digits are off by a step.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__("bf16-mixed", device_type)

    def convert_input(self, data: Any) -> Any:
        return data


def check(options: TrainOptions) -> None:
    """Raises UserError for numbers out of range."""
    lowest = dict.fromkeys(("seed", "save_minutes", "validate_minutes"), 0)
    numbers = {name for name, value in vars(options).items() if type(value) in (int, float)}
    check_numbers(options, above_zero=numbers - lowest.keys(), **lowest)
    if options.json and not options.describe:
        raise UserError("--json goes with --describe")


def describe_as_asked(options: TrainOptions, description: dict[str, Any]) -> str:
    """A preset's description as JSON or as lines of text.

    Raises:
        UserError: an option is set that would change the described costs.
    """
    for field in fields(options):
        is_ignored = field.name in ("precision", "accumulate", "checkpoint_activations")
        if is_ignored and getattr(options, field.name) != field.default:
            option = field.name.replace("_", "-")
            raise UserError(f"--describe doesn't take --{option} into account: leave it out")
    return json.dumps(description, indent=2) if options.json else "\n".join(to_lines(description))


def with_options(preset: Made, options: TrainOptions) -> Made:
    """A preset whose recipes take steps, batch size and learning rate from the options."""
    recipes: dict[str, StageRecipe] = {}
    for name, recipe in vars(preset).items():
        if isinstance(recipe, StageRecipe):
            steps = getattr(options, name.replace("_recipe", "_steps")) or recipe.steps
            recipes[name] = replace(recipe, steps=steps)
            if name != "place_recipe":  # which has moments in place of clips
                recipes[name] = replace(
                    recipes[name],
                    batch_size=options.batch_size or recipe.batch_size,
                    learning_rate=options.learning_rate or recipe.learning_rate,
                )
    return replace(preset, **recipes)  # pyright: ignore[reportArgumentType]


def data_folder(options: TrainOptions, preset: Any) -> Path:
    """The folder of episodes: --data, or the preset's own.

    Raises:
        UserError: the preset's data have to be fetched first.
    """
    if options.data is not None:
        return options.data
    folder = Path(preset.data)
    if not (folder / "meta.json").exists():
        raise UserError(
            f"{folder} holds no data set: get {options.preset}'s with `{preset.get} --out "
            f"{folder}` (--help explains its options), or give another with --data"
        )
    return folder


def made_for(reader: EpisodeReader, make: Callable[[], Made]) -> Made:
    """The result of `make`; sizes that don't suit the data become a UserError."""
    try:
        return make()
    except ValueError as error:
        raise UserError(f"{reader.folder}: {error}") from None


def started_from(checkpoint: Path, part: str) -> dict[str, str]:
    """The lineage entry of the checkpoint that a training starts from.

    Args:
        part: of it that the training takes: "all" or "tokenizer".
    """
    name = printable(checkpoint.resolve().name)  # paths are nobody else's business
    return {"name": name, "part": part, "weights_sha256": weights_digest(checkpoint)}


def check_init(name: str, wanted: Any, found: Any) -> None:
    """Raises UserError where the checkpoint to start from has another config than the run."""
    differing = [
        field.name
        for field in fields(wanted)
        if getattr(wanted, field.name) != getattr(found, field.name)
    ]
    if differing:
        raise UserError(
            f"--init {name}: its {', '.join(differing)} differ from those of this preset and data"
        )


def world_of(reader: EpisodeReader) -> World:
    """The environment that a data set was recorded in."""
    info = reader.info
    return World(info.env_id, info.env_kwargs, info.fps, info.controls)
