"""VideoGPT's ablations:

    python -m worldmodel.videogpt.ablate table5 --data data/bair --out reports/ablation

Each row of a table is trained with the same budget and measured on the test split; a table and a
plot show the paper's figures next to ours. Rows that several tables share are trained once. After
an interruption the same command resumes.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldmodel.command import (
    check_numbers,
    duration,
    parse_options,
    run_command,
    say,
    usable_device,
)
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.report import to_json
from worldmodel.evaluation.tables import Blocks, to_text
from worldmodel.interface.sampling import Sampling
from worldmodel.metrics.features import VIDEOGPT, FeatureNetwork, load_i3d
from worldmodel.storage.files import locked, read_json, write_json, written_whole
from worldmodel.storage.provenance import git_commit, machine
from worldmodel.training.state import load_state, state_path
from worldmodel.videogpt.ablation import (
    ABLATIONS,
    Row,
    compares_tokenizers,
    draw_ablation,
    to_blocks,
    to_markdown,
)
from worldmodel.videogpt.configs import PUBLISHED, PublishedPreset, VideoGPTConfig
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.train import Train
from worldmodel.videogpt.training import config_of, train_preset
from worldmodel.videogpt.whole_clips import ClipSettings, WholeClips

MOST_BYTES = 2**24  # of a table's JSON


@dataclass(frozen=True)
class Ablate:
    """Train and measure each row of one of VideoGPT's tables."""

    table: Annotated[
        Literal["table3", "table4", "table5", "table6", "table7"], tyro.conf.Positional
    ]
    """Table 3: attention in the VQ-VAE; 4: layers of the prior; 5: latent sizes; 6: codes;
    7: codebooks."""
    data: Path
    """Folder of episodes; the paper's ablations are on BAIR."""
    out: Path = Path("reports/ablation")
    """Folder of the runs, the tables and the plots."""
    max_minutes: float = 60.0
    """Budget of each stage of each row, over all calls."""
    steps: int | None = None
    """Budget of each stage in steps instead of minutes: the same for fast and slow machines."""
    size: Literal["paper", "miniature"] = "paper"
    """miniature: a quarter of the latents, narrow networks and no conditions, for a CPU."""
    preset: str = "bair"
    """The published preset that the rows modify."""
    stage: Literal["both", "tokenizer"] = "both"
    """tokenizer: leave out the priors, and the columns that need them."""
    batch_size: int | None = None
    """Clips per step; by default the preset's."""
    clips: int = 256
    """Test clips for measuring the rows."""
    i3d_weights: Path | None = None
    """Weights for FVD, R-FVD and FVD*; without them these are left out."""
    trust_weights: bool = False
    """Run a TorchScript archive whose digest is not StyleGAN-V's: it is code."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Floating-point precision of the training."""
    seed: int = 0
    """Seed of weights, batches, clips and samples."""

    @property
    def with_prior(self) -> bool:
        """Whether priors are trained and measured too."""
        return ABLATIONS[self.table].trains_prior and self.stage == "both"


def main() -> None:
    options = parse_options(Ablate, "worldmodel.videogpt.ablate", __doc__)
    run_command(lambda: print(to_text(ablate(options))))


def ablate(options: Ablate) -> Blocks:
    """Train and measure a table's rows.

    Returns:
        The table, as in OUT/TABLE.md.

    Raises:
        UserError: the data are missing or damaged; the I3D's weights can't be used; an option is
            not usable, or a row can't be made of preset and data (both are checked before anything
            is trained); or training fails.
    """
    base = _base(options)
    reader = EpisodeReader(options.data)
    rows = ABLATIONS[options.table].rows
    models = {row.name: _model_of(row, base, options, reader) for row in rows}
    network = None
    if options.i3d_weights is not None:
        network = load_i3d(
            options.i3d_weights,
            VIDEOGPT,
            device=usable_device(options.device, or_auto=True),
            trust_weights=options.trust_weights,
        )
    with locked(options.out):
        _refuse_others(options)
        say(_plan(options, len(models)))
        return _ablate(options, reader, models, network)


def _ablate(
    options: Ablate,
    reader: EpisodeReader,
    models: dict[str, tuple[PublishedPreset, VideoGPTConfig]],
    network: FeatureNetwork | None,
) -> Blocks:
    """Train and measure row by row, in the locked folder."""
    ablation, data_digest = ABLATIONS[options.table], reader.digest()
    results: dict[str, Any] = {}
    report: dict[str, Any] = {}
    for name, (preset, config) in models.items():
        folder = _train(name, preset, config, options, data_digest)
        results[name] = _measured(config, reader, folder, options, network)
        report = to_json(
            {
                "table": options.table,
                "settings": {k: str(v) for k, v in asdict(options).items()},
                "commit": git_commit(),
                "machine": machine(),
                "rows": results,
            }
        )
        write_json(options.out / f"{options.table}.json", report)
    with written_whole(options.out / f"{options.table}.md") as unfinished:
        unfinished.write_text(to_markdown(ablation, report), encoding="utf-8")
    draw_ablation(options.out / f"{options.table}.png", ablation, report)
    return to_blocks(ablation, report)


def _refuse_others(options: Ablate) -> None:
    """Raises UserError where a file to write exists and is not an ablation's."""
    path = options.out / f"{options.table}.json"
    others = [path.with_suffix(suffix) for suffix in (".md", ".png")]
    if path.exists():
        data = read_json(path, most_bytes=MOST_BYTES)
        if isinstance(data, dict) and data.get("table") == options.table:
            return
        others = [path]
    for other in others:
        if other.exists():
            raise UserError(
                f"{other} was written by another program: choose another --out, or move it away"
            )


def _plan(options: Ablate, num_rows: int) -> str:
    """What will be trained, where it is written, and how long it takes at most."""
    stages = 1 + options.with_prior
    if options.steps is None:
        longest = duration(60 * options.max_minutes * num_rows * stages)
        length = (
            f"up to {longest} of training in all (--max-minutes {options.max_minutes:g} a stage)"
        )
    else:
        length = f"{options.steps} steps a stage"
    return (
        f"training {num_rows} rows of {stages} stage{'s' * (stages > 1)} into {options.out}: "
        f"{length}, except what is trained already; then each is measured"
    )


def _base(options: Ablate) -> PublishedPreset:
    """The preset that rows modify. Raises UserError for options that can't be used."""
    if options.preset not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UserError(f"unknown preset {options.preset!r}; the known ones are: {known}")
    check_numbers(options, above_zero=["max_minutes"], steps=1, batch_size=1, clips=1, seed=0)
    if options.stage == "tokenizer" and not compares_tokenizers(ABLATIONS[options.table]):
        raise UserError(f"{options.table} is about priors: leave --stage tokenizer out")
    base = PUBLISHED[options.preset]
    if options.size == "miniature":
        t, h, w = base.tokenizer.downsampling
        base = replace(
            base,
            tokenizer=replace(
                base.tokenizer,
                downsampling=(t, 2 * h, 2 * w),
                hidden_units=64,
                residual_units=32,
                residual_layers=2,
                code_dim=64,
            ),
            prior=replace(
                base.prior, width=128, feedforward=512, layers=4, num_actions=0, given_frames=0
            ),
        )
    recipes = {
        name: replace(
            getattr(base, name),
            steps=options.steps or getattr(base, name).steps,
            batch_size=options.batch_size or getattr(base, name).batch_size,
            warmup=min(getattr(base, name).warmup, 50 if options.size == "miniature" else 10**9),
        )
        for name in ("tokenizer_recipe", "prior_recipe")
    }
    return replace(base, **recipes)


def _model_of(
    row: Row, base: PublishedPreset, options: Ablate, reader: EpisodeReader
) -> tuple[PublishedPreset, VideoGPTConfig]:
    """A row's preset and config. Raises UserError where the base or the data don't allow it."""
    try:
        preset = row.change(base)
        return preset, config_of(preset, reader)
    except ValueError as error:
        raise UserError(
            f'{options.table} has a row "{row.name}", which can\'t be made of --preset '
            f"{options.preset} and --data {options.data}: {error}"
        ) from None


def _train(
    name: str,
    preset: PublishedPreset,
    config: VideoGPTConfig,
    options: Ablate,
    data_digest: str,
) -> Path:
    """Train a row until its budget is spent; returns the run's folder."""
    minutes = None if options.steps else options.max_minutes
    # A run's name depends on everything that its training depends on.
    shared = {
        "data": data_digest,
        "seed": options.seed,
        "minutes": minutes,
        "precision": options.precision,
        "tokenizer": asdict(config.tokenizer),
        "recipe": asdict(preset.tokenizer_recipe),
    }
    prior = {"prior": asdict(config.prior), "recipe": asdict(preset.prior_recipe)}
    tokenizer_key = _digest(shared)
    folder = options.out / "runs" / f"{tokenizer_key}-{_digest({**shared, 'of_prior': prior})}"
    say(f"{options.table}, {name}: {folder}")
    training = Train(
        preset=options.preset,
        data=options.data,
        out=folder,
        device=options.device,
        precision=options.precision,
        tokenizer_minutes=minutes,
        prior_minutes=minutes,
        seed=options.seed,
        validate_minutes=float(10**6),  # at the end only
    )
    # Rows that differ in the prior alone share the tokenizer that was finished first.
    finished = options.out / "tokenizers" / f"{tokenizer_key}.safetensors"
    state = state_path(folder / "training", "tokenizer")
    if finished.exists():
        _copy(finished, state)
    else:
        train_preset(preset, replace(training, stage="tokenizer"))
        _copy(state, finished)
    if options.with_prior:
        train_preset(preset, replace(training, stage="prior"))
    return folder


def _measured(
    config: VideoGPTConfig,
    reader: EpisodeReader,
    folder: Path,
    options: Ablate,
    network: FeatureNetwork | None,
) -> dict[str, Any]:
    """The numbers of a trained row."""
    model = VideoGPT(config)
    training = folder / "training"
    progress = {"tokenizer": load_state(state_path(training, "tokenizer"), model.tokenizer)}
    if options.with_prior:
        path = state_path(training, "prior")
        progress["prior"] = load_state(path, model.prior, model.tokenizer.digest())
    settings = ClipSettings(options.clips, Sampling(), options.seed, batch_size=8)
    model.to(usable_device(options.device, or_auto=True)).eval()
    clips = WholeClips(model, reader, settings)
    numbers: dict[str, Any] = {
        "parameters": {
            stage: sum(p.numel() for p in model.get_submodule(stage).parameters())
            for stage in progress
        },
        "steps": {stage: reached.step for stage, reached in progress.items()},
        "reconstruction": clips.reconstruction(),
    }
    if options.with_prior:
        numbers["likelihood"] = clips.likelihood()
    if network is not None:
        numbers["fvd"] = clips.fvd(network, with_samples=options.with_prior)
    return numbers


def _digest(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _copy(source: Path, path: Path) -> None:
    with written_whole(path) as unfinished:
        shutil.copyfile(source, unfinished)


if __name__ == "__main__":
    main()
