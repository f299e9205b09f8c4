"""Make a checkpoint small enough to ship: python -m worldmodel.ship runs/dream-doom OUT

The prior's matrices become int8 with a scale a row, the tokenizer's weights half precision. Measure
the result, not what it was made from; then run this again with --report for its model card.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from worldmodel.checkpoint import load_checkpoint, save_checkpoint
from worldmodel.command import run_command
from worldmodel.errors import UserError

CARD = """# A dream of {env_id}

A learned simulator: a VQ-VAE tokenizer and a frame GPT prior. It is stepped like the environment
that it learned:

```python
import envs, gymnasium

env = gymnasium.make("VideoGPTDream-v0", checkpoint="{name}")
```

{parameters:.1f}M parameters ({tokenizer:.1f}M tokenizer, {prior:.1f}M prior), {num_starts} recorded
moments to begin from, actions {actions}, variables {variables}. Made for research and play; what
it dreams is no claim about the game.

{numbers}
"""


@dataclass(frozen=True)
class Ship:
    """Make a checkpoint small enough to ship."""

    checkpoint: tyro.conf.Positional[str]
    """A run's folder."""
    out: tyro.conf.Positional[Path]
    """Folder of the small checkpoint; its name is the model's."""
    temperature: float | None = None
    """That its dreams are drawn at by default; as in the run if not given."""
    guidance: float | None = None
    """The same of guidance."""
    report: Path | None = None
    """report.md that `python -m worldmodel.evaluate OUT` wrote, for the model card."""


def main() -> None:
    options = tyro.cli(Ship, prog="python -m worldmodel.ship", description=__doc__)
    run_command(lambda: ship(options))


def ship(options: Ship) -> None:
    """Do what `Ship` says.

    Raises:
        UserError: the checkpoint is missing or damaged.
        OSError: the report can't be read, or the folder not written.
    """
    checkpoint = load_checkpoint(options.checkpoint)
    try:
        sampling = checkpoint.world.sampling.changed(
            temperature=options.temperature, guidance=options.guidance
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None
    checkpoint = replace(checkpoint, world=checkpoint.world.drawn(sampling))
    config = checkpoint.model.config
    sizes = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in checkpoint.model.named_children()
    }
    card = CARD.format(
        env_id=checkpoint.world.env_id,
        name=options.out.name,
        parameters=sum(sizes.values()),
        num_starts=len(checkpoint.starts),
        actions=", ".join(config.actions.meanings),
        variables=", ".join(config.variable_names),
        numbers="Not measured yet." if options.report is None else options.report.read_text(),
        **sizes,
    )
    save_checkpoint(options.out, checkpoint, card=card, compact=True)
    num_bytes = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file())
    print(f"{options.out}: {num_bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
