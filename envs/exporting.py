"""What the page of `play` needs of a dream: its export, and how its random numbers are seeded."""

import hashlib
from pathlib import Path

import torch

from envs.vector_dream import STREAM
from worldmodel import export, randomness
from worldmodel.checkpoint import checkpoint_digest
from worldmodel.export import dream_folder, export_checkpoint
from worldmodel.interface.sampling import SamplingOptions

SHOWN = ("decode", "step")  # graphs; a page that only plays encodes nothing


def export_to_play(name: str, out: Path, sampling: SamplingOptions) -> None:
    """Export what a page plays. Raises as `worldmodel.export.export_checkpoint`."""
    export_checkpoint(name, out, sampling, SHOWN)


def exporter_digest() -> str:
    """sha256 of the code that exports, and of torch's version."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(Path(export.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def digest_of(name: str) -> str:
    """sha256 of a dream's checkpoint. Raises UserError where there is none."""
    return checkpoint_digest(dream_folder(name))


def seed_path() -> list[int]:
    """The words with which numpy's SeedSequence spawns a dream's random numbers from its seed."""
    return [int(word) for word in randomness.sequence(0, STREAM).spawn_key]
