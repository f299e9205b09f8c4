"""Make a checkpoint small enough to ship: python -m worldmodel.ship runs/dream-doom OUT

The prior's matrices become int8 with a scale for each row; the tokenizer's weights and the pose
head's, half precision. Measure the result, not the original; then run this again with --report and
--overwrite for its model card. --push user/name uploads it to the Hugging Face Hub, with or without
OUT; log in first: `hf auth login`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from worldmodel.checkpoint import (
    CHECKPOINT,
    carry_policy,
    find_checkpoint,
    folder_for_another,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from worldmodel.checkpoint.card import NOT_MEASURED, model_card, numbers_of
from worldmodel.command import parse_options, run_command
from worldmodel.errors import UserError, printable
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.storage.hub import CARD, find_repository, push


@dataclass(frozen=True)
class Ship:
    """Make a checkpoint small enough to ship."""

    checkpoint: tyro.conf.Positional[str]
    """A run's folder."""
    out: tyro.conf.Positional[Path | None] = None
    """Folder of the small checkpoint; its name is the model's. With --push it may be left out."""
    push: str | None = None
    """Repository on the Hugging Face Hub to push the small checkpoint to, user/name. It is made if
    it doesn't exist; the checkpoint's name is then user/name."""
    private: bool = False
    """Make a private repository. If not given, it becomes what the Hub's settings say: public,
    usually."""
    license: str | None = None
    """Its licence, by the Hub's name: cc-by-4.0, for example. If not given, MIT for dreams of this
    project's own worlds, and none for others."""
    temperature: float | None = None
    """Default temperature of its dreams; if not given, the run's."""
    guidance: float | None = None
    """Default guidance of its dreams; if not given, the run's."""
    report: Path | None = None
    """report.md written by `python -m worldmodel.evaluate OUT`, for the model card."""
    overwrite: bool = False
    """Replace a checkpoint in OUT, or in the repository."""


def main() -> None:
    options = parse_options(Ship, "worldmodel.ship", __doc__)
    run_command(lambda: ship(options))


def ship(options: Ship) -> None:
    """Make the small checkpoint, in a folder or only for the Hub, and push it if that is asked for.

    Raises:
        UserError: the checkpoint is missing or damaged, OUT or an option is not usable, or the Hub
            can't be reached or refuses.
        OSError: the report can't be read, or the folder not written.
    """
    repository = None
    if options.push is not None:
        repository = find_repository(
            options.push, CHECKPOINT, private=options.private, overwrite=options.overwrite
        )
    elif options.out is None:
        raise UserError("give OUT, a folder for the small checkpoint, or --push user/name, or both")
    elif options.private:
        raise UserError("--private is for --push user/name")
    with TemporaryDirectory() as temporary:
        out = options.out or Path(temporary) / "small"
        _make_small(options, out)
        files = CHECKPOINT.files_in(out)
        num_bytes = sum(path.stat().st_size for path in files.values())
        print(printable(f"{options.out or options.push}: {num_bytes / 2**20:.1f} MiB"))
        if repository is not None:
            card = (out / CARD).read_text(encoding="utf-8")
            print(printable(f"pushed to {push(repository, files, card)}"))


def _make_small(options: Ship, out: Path) -> None:
    numbers = NOT_MEASURED if options.report is None else numbers_of(options.report)
    folder = find_checkpoint(options.checkpoint)
    with folder_for_another(out, [folder], overwrite=options.overwrite):
        checkpoint = load_checkpoint(str(folder))
        chosen = SamplingOptions(temperature=options.temperature, guidance=options.guidance)
        sampling = chosen.applied_to(checkpoint.world.sampling)
        shipped_from = {"weights_sha256": weights_digest(folder)}
        checkpoint = replace(
            checkpoint,
            world=replace(checkpoint.world, sampling=sampling),
            lineage={**checkpoint.lineage, "shipped_from": shipped_from},
        )
        name = options.push or out.resolve().name
        card = model_card(checkpoint, name=name, numbers=numbers, license=options.license)
        save_checkpoint(out, checkpoint, card=card, compact=True)
        carry_policy(folder, out)


if __name__ == "__main__":
    main()
