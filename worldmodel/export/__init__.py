"""Dreams as ONNX graphs, for runtimes other than PyTorch."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from worldmodel.checkpoint import Checkpoint, find_kind, load_checkpoint, read_world
from worldmodel.errors import UserError
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.storage.files import locked

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
GRAPHS = ("step", "decode", "encode")


def export_checkpoint(
    name: str, out: Path, chosen: SamplingOptions, graphs: Sequence[str] = GRAPHS
) -> None:
    """Export a dream into a folder.

    Args:
        name: a shipped name, a folder, or a Hugging Face Hub id.
        chosen: sampling settings that replace the checkpoint's own.
        graphs: which of `GRAPHS`.

    Raises:
        UserError: the checkpoint is missing, damaged or no dream, a setting can't be exported, or
            a package is missing.
        OSError: the folder can't be written to.
    """
    check_packages()
    from worldmodel.export.folder import write_export  # late: onnx is an extra

    folder = dream_folder(name)
    sampling = chosen.applied_to(read_world(str(folder)).sampling)
    if sampling.pose_temperature:
        raise UserError("only the likeliest pose can be exported: --pose-temperature 0")
    with locked(out):
        write_export(load_checkpoint(str(folder)), name, folder, sampling, out, graphs)


def check_packages() -> None:
    """Raises UserError where a package that exports need is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)} not installed: pip install 'videogpt-dream[export]'")


def dream_folder(name: str) -> Path:
    """The folder of a dream's checkpoint. Raises UserError where there is none."""
    clips = ("worldmodel.videogpt.sample", name, "--out", "clips.png")
    return find_kind(name, Checkpoint.kind, *clips)
