"""Export a dream to ONNX: python -m worldmodel.export dream-doom --out exported/dream-doom

The folder runs without PyTorch, in any language that has an ONNX runtime: docs/export.md shows how.

compare an export with PyTorch   python -m worldmodel.export --check exported/dream-doom

The same actions and random numbers go through onnxruntime and PyTorch, and differences are counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldmodel.checkpoint import load_checkpoint
from worldmodel.command import check_numbers, parse_options, run_command
from worldmodel.errors import UserError, printable
from worldmodel.export import check_packages, dream_folder, export_checkpoint
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.pretrained import shipped_names
from worldmodel.storage.parsed import parsed


@dataclass(frozen=True)
class Export:
    """Export a dream to ONNX, or check an export."""

    checkpoint: tyro.conf.Positional[str | None] = None
    """A shipped name, a run's folder, or a Hugging Face Hub id. With --check: if not given, the
    one that was exported."""
    out: Path | None = None
    """Folder for the exported dream."""
    check: Path | None = None
    """Compare the exported dream in this folder with PyTorch's."""
    steps: int = 500
    """Steps of the comparison."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How the exported dream is sampled; its graphs are made for these settings."""


def main() -> None:
    options = parse_options(Export, "worldmodel.export", __doc__)
    run_command(lambda: export(options), stopped="stopped; the same command starts again")


def export(options: Export) -> int:
    """Export a dream, or check an export.

    Returns:
        The exit status: 1 where the export differs from PyTorch by more than rounding.

    Raises:
        UserError: the checkpoint or the export is missing or damaged, an option is not usable, or
            a package is missing.
        OSError: the folder can't be written to.
    """
    check_numbers(options, steps=1)
    check_packages()
    if options.check is not None:
        return _check(options.checkpoint, options.check, options.steps)
    if options.checkpoint is None or options.out is None:
        raise UserError("give a checkpoint and --out FOLDER, or --check FOLDER")
    export_checkpoint(options.checkpoint, options.out, options.sampling)
    size = sum(path.stat().st_size for path in options.out.glob("*.*"))
    print(printable(f"{options.out}: {size / 2**20:.1f} MiB"))
    return 0


def _check(name: str | None, exported: Path, steps: int) -> int:
    from worldmodel.export.check import compare
    from worldmodel.export.folder import checkpoint_digest
    from worldmodel.export.running import OnnxDream

    dream = OnnxDream(exported)
    recorded = str(dream.description["checkpoint"])
    if name is None and not (recorded in shipped_names() or Path(recorded).is_dir()):
        raise UserError(
            f"{exported} was exported from {recorded!r}, which is not on this machine: name its "
            f"checkpoint, as in python -m worldmodel.export CHECKPOINT --check {exported}"
        )
    folder = dream_folder(name or recorded)
    if checkpoint_digest(folder) != dream.description["sha256"]:
        raise UserError(f"{exported} was exported from another checkpoint than {folder}")
    sampling = parsed(Sampling, dream.description["sampling"])
    comparison = compare(load_checkpoint(str(folder)), dream, sampling, steps=steps)
    print(printable(f"{exported}: {comparison}"))
    return 0 if comparison.is_same else 1


if __name__ == "__main__":
    main()
