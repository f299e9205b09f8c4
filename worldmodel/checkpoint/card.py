"""A checkpoint's README.md: a model card that could go on the Hugging Face Hub as it is."""

import re
from pathlib import Path

from worldmodel.checkpoint.contents import Checkpoint, VideoGPTCheckpoint

NOT_MEASURED = "Not measured yet."
FRONT = """---
license: mit
library_name: videogpt-dream
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
import envs, gymnasium

env = gymnasium.make("VideoGPTDream-v0", checkpoint={name!r})
```

Play it: `python -m play --env {name}`
"""
CLIPS = """
VideoGPT as published: a VQ-VAE of clips and a GPT over their codes. It draws whole clips:
`python -m worldmodel.sample {name} --out clips.png`
"""
# By the beginning of an environment's id: whose content its frames show.
CONTENT = {
    "Doom": "They show ViZDoom's scenarios (MIT) with the graphics of Freedoom (BSD-3-Clause).",
    "RobotPushing": "They show a scene of this project, drawn by MuJoCo (MIT).",
}
UNKNOWN_CONTENT = (
    "The licence of what they show is not known here: find out before you pass them on."
)


def model_card(
    checkpoint: Checkpoint | VideoGPTCheckpoint,
    *,
    name: str,
    made: str = "",
    numbers: str = NOT_MEASURED,
) -> str:
    """The text of README.md.

    Args:
        name: of the model; never a path.
        made: how it was made, where that is not by training; a sentence.
        numbers: Markdown, what was measured on these weights.
    """
    is_dream = isinstance(checkpoint, Checkpoint)
    title = f"# {'A dream' if is_dream else 'VideoGPT'} of {_plain(checkpoint.world.env_id)}"
    use = (DREAM if is_dream else CLIPS).format(name=name)
    parts = [
        FRONT + title,
        use.strip(),
        made,
        "\n".join(_facts(checkpoint)),
        "## The recorded moments inside",
        _moments(checkpoint),
        "## Measured",
        numbers.strip(),
        "Made for research and play; what the model shows is no claim about the game.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def with_note(card: str, note: str) -> str:
    """The card with a paragraph in front of its text, behind the front matter; in place of the same
    paragraph if it is there."""
    card = card.replace(note + "\n\n", "")
    end = card.find("\n---\n", 3) + len("\n---\n") if card.startswith("---\n") else 0
    return f"{card[:end]}{note}\n\n{card[end:]}"


def numbers_of(report: Path) -> str:
    """What report.md says, without its title and the commands, which name folders of a machine.

    Raises:
        OSError: it can't be read.
    """
    text = re.sub(r"\A# .*\n", "", report.read_text(encoding="utf-8"))
    text = re.sub(r"; `python -m worldmodel[^`]*`", "", text)
    return re.sub(r"^## ", "### ", text, flags=re.MULTILINE)


def _facts(checkpoint: Checkpoint | VideoGPTCheckpoint) -> list[str]:
    model, config = checkpoint.model, checkpoint.model.config
    sizes = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in model.named_children()
    }
    lines = [
        f"- {sum(sizes.values()):.1f}M parameters: "
        + ", ".join(f"{name} {size:.1f}M" for name, size in sizes.items()),
        f"- actions: {_plain(str(config.actions))}",
    ]
    if isinstance(checkpoint, Checkpoint):
        names = checkpoint.model.config.variable_names
        shape = checkpoint.model.config.tokenizer.frame_shape
    else:
        names = ()
        shape = checkpoint.model.config.tokenizer.clip_shape
        if classes := checkpoint.model.config.class_names:
            lines.append(f"- classes: {len(classes)}")
    if names:
        lines.append(f"- game variables: {_plain(', '.join(names))}")
    what = "frames" if isinstance(checkpoint, Checkpoint) else "clips"
    return [*lines, f"- {what}: {'x'.join(map(str, shape))}, {checkpoint.world.fps:g} frames/s"]


def _moments(checkpoint: Checkpoint | VideoGPTCheckpoint) -> str:
    """Where the starts are from: they are recordings, and somebody's."""
    is_dream = isinstance(checkpoint, Checkpoint)
    count = len(checkpoint.starts if is_dream else checkpoint.clips)
    env_id, data = checkpoint.world.env_id, checkpoint.lineage.get("data", {})
    what = "moments" if is_dream else "clips"
    text = (
        f"starts.safetensors holds {count} {what} recorded from {_plain(env_id)}, of the test "
        "split of the data that the model was trained on"
    )
    if "num_episodes" in data:
        by = ", ".join(data.get("recorded_by", []))
        text += f": {data['num_episodes']} episodes" + (f" by {_plain(by)}" if by else "")
    content = [said for begin, said in CONTENT.items() if env_id.startswith(begin)]
    return f"{text}. {content[0] if content else UNKNOWN_CONTENT}"


def _plain(text: str) -> str:
    """One line without HTML or Markdown's own signs: names may be a stranger's."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", " ".join(text.split()).replace("<", "&lt;"))
