"""Make a checkpoint small enough to ship: python -m worldmodel.ship runs/dream-doom OUT

The prior's matrices become int8 with a scale for each row, the tokenizer's weights half precision.
Measure the result, not the original; then run this again with --report and --overwrite for its
model card.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from worldmodel.checkpoint import (
    FILES,
    POLICY_FILE,
    carry_policy,
    find_checkpoint,
    folder_for_another,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from worldmodel.checkpoint.card import NOT_MEASURED, model_card, numbers_of
from worldmodel.command import run_command
from worldmodel.errors import printable
from worldmodel.interface.sampling import SamplingOptions


@dataclass(frozen=True)
class Ship:
    """Make a checkpoint small enough to ship."""

    checkpoint: tyro.conf.Positional[str]
    """A run's folder."""
    out: tyro.conf.Positional[Path]
    """Folder of the small checkpoint; its name is the model's."""
    temperature: float | None = None
    """Default temperature of its dreams; if not given, the run's."""
    guidance: float | None = None
    """Default guidance of its dreams; if not given, the run's."""
    report: Path | None = None
    """report.md written by `python -m worldmodel.evaluate OUT`, for the model card."""
    overwrite: bool = False
    """Replace a checkpoint in OUT."""


def main() -> None:
    options = tyro.cli(Ship, prog="python -m worldmodel.ship", description=__doc__)
    run_command(lambda: ship(options))


def ship(options: Ship) -> None:
    """Write the small checkpoint.

    Raises:
        UserError: the checkpoint is missing or damaged, or OUT or an option is not usable.
        OSError: the report can't be read, or the folder not written.
    """
    numbers = NOT_MEASURED if options.report is None else numbers_of(options.report)
    folder = find_checkpoint(options.checkpoint)
    with folder_for_another(options.out, [folder], overwrite=options.overwrite):
        checkpoint = load_checkpoint(str(folder))
        chosen = SamplingOptions(temperature=options.temperature, guidance=options.guidance)
        sampling = chosen.applied_to(checkpoint.world.sampling)
        shipped_from = {"weights_sha256": weights_digest(folder)}
        checkpoint = replace(
            checkpoint,
            world=replace(checkpoint.world, sampling=sampling),
            lineage={**checkpoint.lineage, "shipped_from": shipped_from},
        )
        card = model_card(checkpoint, name=options.out.resolve().name, numbers=numbers)
        save_checkpoint(options.out, checkpoint, card=card, compact=True)
        carry_policy(folder, options.out)
    files = (options.out / name for name in (*FILES, POLICY_FILE, "README.md"))
    num_bytes = sum(path.stat().st_size for path in files if path.is_file())
    print(printable(f"{options.out}: {num_bytes / 2**20:.1f} MiB"))


if __name__ == "__main__":
    main()
