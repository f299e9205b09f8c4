"""The checkpoints that come with the project, found without torch: that takes seconds to import."""

from pathlib import Path

PRETRAINED = Path(__file__).parent


def shipped_names() -> list[str]:
    """Their names, in order."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))
