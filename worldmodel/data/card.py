"""A data set's README.md on the Hugging Face Hub, from meta.json, the index and a check."""

import json
import re
from pathlib import Path

from worldmodel.data.reader import EpisodeReader
from worldmodel.data.verify import Report
from worldmodel.errors import one_line, printable
from worldmodel.storage.hub import license_line

DOOM = "They show ViZDoom's scenarios (MIT) with the graphics of Freedoom (BSD-3-Clause)."
# By the environment's id: whose content its frames show.
CONTENT = {
    "DoomHealthGatheringSupreme-v0": DOOM,
    "DoomBattle2-v0": DOOM,
    "DoomTakeCover-v0": DOOM,
    "RobotPushing-v0": "They show a scene of this project, drawn by MuJoCo (MIT).",
}
UNKNOWN_CONTENT = (
    "The licence of what they show is not known here: find out before you pass them on."
)
# The Hub's categories of sizes; n is the number of frames.
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
TEXT = """---
{license}pretty_name: {quoted_title}
viewer: false
task_categories:
- reinforcement-learning
tags:
- world-model
- gymnasium
- video
- hdf5
size_categories:
- {size}
---
# {title}

{num_episodes:,} episodes, {num_frames:,} frames, recorded to learn a simulator with VideoGPT
Dream. {content}

{pictures}

```
{lines}
```

## How to read it

```
hf download {name} --repo-type dataset --local-dir {folder}
python -m worldmodel.data verify {folder}
python -m worldmodel.train --data {folder} --out runs/{short}
```

```python
from videogpt_dream import EpisodeReader

reader = EpisodeReader("{folder}")
train = reader.split("train")  # positions of its episodes; also "validation" and "test"
episode = reader.episode(train[0])
episode.frames, episode.action  # uint8 (T+1, H, W, C) and (T, ...)
episode.reward, episode.terminated, episode.truncated  # (T,)
episode.variables, episode.pose  # float32 (T+1, ...)
```

Frame t and action t give frame t+1, reward t and the end t. Each shard is an HDF5 file in which the
rows of all episodes lie one after another; `index` says where each begins.
"""


def data_card(folder: Path, report: Report, *, name: str, license: str | None = None) -> str:
    """The text of a README.md.

    Args:
        folder: of the data set.
        report: what `verify` found there.
        name: of the repository: user/name.
        license: by the Hub's name; None: MIT for this project's own worlds, none for others.

    Raises:
        UserError: a shard is damaged, or the license is not a valid name.
    """
    reader = EpisodeReader(folder)
    env_id = reader.info.env_id
    num_frames = int((reader.index["episode_length"] + 1).sum())
    short = name.partition("/")[2]
    pictures = [
        file for file in ("contact-sheet.png", "floor-plan.png") if (folder / file).exists()
    ]
    return TEXT.format(
        license=license_line(license or license_of(env_id)),
        title=f"Episodes of {plain(env_id)}",
        quoted_title=json.dumps(f"Episodes of {one_line(env_id)}"),
        size=size_category(num_frames),
        num_episodes=len(reader),
        num_frames=num_frames,
        content=content_of(env_id),
        pictures="\n".join(f"![{file}]({file})" for file in pictures),
        lines="\n".join(map(printable, report.description)),
        name=name,
        folder=f"data/{short}",
        short=short,
    )


def size_category(num_frames: int) -> str:
    """The Hub's category of a data set's size."""
    return SIZES[min(max(len(str(num_frames)) - 3, 0), len(SIZES) - 1)]


def content_of(env_id: str) -> str:
    """A sentence on the licence of what an environment's frames show."""
    return CONTENT.get(env_id, UNKNOWN_CONTENT)


def license_of(env_id: str) -> str | None:
    """The license, by the Hub's name, of what an environment's frames show; None: unknown."""
    return "mit" if env_id in CONTENT else None


def plain(text: str) -> str:
    """One line without HTML or Markdown: names may be a stranger's."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", " ".join(text.split()).replace("<", "&lt;"))
