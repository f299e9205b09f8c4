"""What the page of `play` needs of a dream: its export, and how its random numbers are seeded."""

from pathlib import Path

from envs.vector_dream import STREAM
from worldmodel import randomness
from worldmodel.checkpoint import checkpoint_digest
from worldmodel.export import dream_folder, export_checkpoint
from worldmodel.interface.sampling import SamplingOptions

SHOWN = ("decode", "step")  # graphs; a page that only plays encodes nothing


def export_to_play(name: str, out: Path, sampling: SamplingOptions) -> None:
    """Export what a page plays. Raises as `worldmodel.export.export_checkpoint`."""
    export_checkpoint(name, out, sampling, SHOWN)


def digest_of(name: str) -> str:
    """sha256 of a dream's checkpoint. Raises UserError where there is none."""
    return checkpoint_digest(dream_folder(name))


def seed_path() -> list[int]:
    """The words with which numpy's SeedSequence spawns a dream's random numbers from its seed."""
    return [int(word) for word in randomness.sequence(0, STREAM).spawn_key]
