"""A checkpoint's README.md: a model card that could go on the Hugging Face Hub as it is."""

import re
from pathlib import Path

from worldmodel.checkpoint.contents import AnyCheckpoint, Checkpoint
from worldmodel.data.card import content_of, license_of, plain
from worldmodel.storage.hub import license_line

NOT_MEASURED = "Not measured yet."
FRONT = """---
{license}library_name: videogpt-dream
pipeline_tag: reinforcement-learning
tags:
- world-model
- reinforcement-learning
- gymnasium
- vq-vae
- gpt
---
"""
DREAM = """
A learned simulator: a VQ-VAE tokenizer and a frame GPT prior. It is stepped like the environment
that it has learned:

```python
import gymnasium, videogpt_dream

env = gymnasium.make("VideoGPTDream-v0", checkpoint={name!r})
```

Play it: `python -m play --env {name}`
"""


def model_card(
    checkpoint: Checkpoint,
    *,
    name: str,
    made: str = "",
    numbers: str = NOT_MEASURED,
    license: str | None = None,
) -> str:
    """The text of a dream's README.md.

    Args:
        name: of the model, alone or as user/name on the Hugging Face Hub; never a path.
        made: a sentence on how it was made, if not by training.
        numbers: measurements of these weights, as Markdown.
        license: by the Hub's name; None: MIT for this project's own worlds, none for others.

    Raises:
        UserError: the license is not a valid name.
    """
    config = checkpoint.model.config
    variables = ", ".join(config.variable_names)
    return card_text(
        checkpoint,
        title="A dream",
        use=DREAM.format(name=name),
        facts=[f"- game variables: {plain(variables)}"] if variables else [],
        frames=("frames", config.tokenizer.frame_shape),
        moments="moments",
        made=made,
        numbers=numbers,
        license=license,
    )


def card_text(
    checkpoint: AnyCheckpoint,
    *,
    title: str,
    use: str,
    facts: list[str],
    frames: tuple[str, tuple[int, ...]],
    moments: str,
    made: str = "",
    numbers: str = NOT_MEASURED,
    license: str | None = None,
) -> str:
    """The text of a README.md, for any kind of model.

    Args:
        title: the kind of model, in front of the environment's id.
        use: how it is used.
        facts: additional lines in the list of facts.
        frames: what the model generates, and the shape of one.
        moments: the name of the recorded starts.
        made, numbers, license: see `model_card`.
    """
    model, world = checkpoint.model, checkpoint.world
    sizes = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in model.named_children()
    }
    front = FRONT.format(license=license_line(license or license_of(world.env_id)))
    what, shape = frames
    lines = [
        f"- {sum(sizes.values()):.1f}M parameters: "
        + ", ".join(f"{name} {size:.1f}M" for name, size in sizes.items()),
        f"- actions: {plain(str(model.config.actions))}",
        *facts,
        f"- {what}: {'x'.join(map(str, shape))}, {world.fps:g} frames/s",
        *_start(checkpoint),
    ]
    parts = [
        f"{front}# {title} of {plain(world.env_id)}",
        use.strip(),
        made,
        "\n".join(lines),
        "## The recorded moments inside",
        _moments(checkpoint, moments),
        "## Measured",
        numbers.strip(),
        "Made for research and play; what the model shows is no claim about the game.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def with_note(card: str, note: str) -> str:
    """The card with a paragraph between its front matter and its text; the same paragraph is not
    repeated."""
    card = card.replace(note + "\n\n", "")
    end = card.find("\n---\n", 3) + len("\n---\n") if card.startswith("---\n") else 0
    return f"{card[:end]}{note}\n\n{card[end:]}"


def numbers_of(report: Path) -> str:
    """The content of report.md without its title and commands, which contain local paths.

    Raises:
        OSError: it can't be read.
    """
    text = re.sub(r"\A# .*\n", "", report.read_text(encoding="utf-8"))
    text = re.sub(r"; `[^`]*`(?=, \d+ s)", "", text)
    return re.sub(r"^## ", "### ", text, flags=re.MULTILINE)


def _start(checkpoint: AnyCheckpoint) -> list[str]:
    """Whose weights the training started from, if any checkpoint's."""
    start = checkpoint.lineage.get("started_from")
    if not start:
        return []
    part = "the tokenizer of " * (start.get("part") == "tokenizer")
    return [f"- training started from: {part}{plain(start.get('name', 'another checkpoint'))}"]


def _moments(checkpoint: AnyCheckpoint, what: str) -> str:
    """Where the starts are from: recordings may be under a licence."""
    env_id, data = checkpoint.world.env_id, checkpoint.lineage.get("data", {})
    text = (
        f"starts.safetensors holds {len(checkpoint.starts)} {what} recorded from {plain(env_id)}, "
        "from the test split of the data that the model was trained on"
    )
    if "num_episodes" in data:
        by = ", ".join(data.get("recorded_by", []))
        text += f": {data['num_episodes']} episodes" + (f" by {plain(by)}" if by else "")
    return f"{text}. {content_of(env_id)}"
