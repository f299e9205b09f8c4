"""What a data set lacks, counted by reason: files and episodes that were left out of it.

The counts lie in left-out.json beside the shards, so that `worldmodel.data verify` says again what
the import or the recording said.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import read_json, write_json

LEFT_OUT = "left-out.json"
MOST_BYTES = 2**20
MOST_REASONS = 100
MOST_COUNT = 10**15  # hostile files claim anything
MOST_CHARACTERS = 200  # of a reason or a name


@dataclass
class Tally:
    """Counts in memory, for what is met before the data set is opened.

    Attributes:
        counts: how many by reason, and the first one's name.
    """

    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, name: str, *, count: int = 1) -> None:
        so_far, first = self.counts.get(reason, (0, name))
        self.counts[reason] = (so_far + count, first)


def note_left_out(folder: Path, reason: str, name: str, *, count: int = 1) -> None:
    """Count something that is left out of the data set in `folder`.

    The same name and reason twice in a row count once: a killed process that does its last item
    again does not count it again.

    Args:
        reason: why, in few words without the name: "not finite".
        name: which file or episode.
        count: how many there are, `name` the first of them.

    Raises:
        UserError: left-out.json is damaged.
        OSError: it can't be written.
    """
    reason, name = (one_line(text, most=MOST_CHARACTERS) for text in (reason, name))
    counts = _read(folder)
    if reason not in counts and len(counts) >= MOST_REASONS:
        reason = "other reasons"
    entry = counts.setdefault(reason, {"count": 0, "first": name, "last": None})
    if entry["last"] != name:
        entry["count"] = min(entry["count"] + count, MOST_COUNT)
        entry["last"] = name
        write_json(folder / LEFT_OUT, counts)


def begin_left_out(folder: Path, tally: Tally | None = None, *, but: Collection[str] = ()) -> None:
    """Begin the counts anew, where everything that is left out is about to be met again.

    Args:
        tally: what was met already.
        but: reasons whose counts stay.

    Raises:
        UserError: left-out.json is damaged.
        OSError: it can't be written.
    """
    kept = {reason: entry for reason, entry in _read(folder).items() if reason in but}
    if kept:
        write_json(folder / LEFT_OUT, kept)
    else:
        (folder / LEFT_OUT).unlink(missing_ok=True)
    for reason, (count, first) in (tally or Tally()).counts.items():
        note_left_out(folder, reason, first, count=count)


def read_left_out(folder: Path) -> list[str]:
    """A line for each reason, such as "left out     damaged: 2, the first clips/a.mp4".

    Raises:
        UserError: left-out.json is damaged.
    """
    lines = []
    for reason, entry in sorted(_read(folder).items()):
        count, first = entry["count"], entry["first"]
        what = one_line(f"{reason}: {count}, {'the first ' * (count > 1)}{first}")
        lines.append(f"left out     {what}")
    return lines


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / LEFT_OUT
    if not path.exists():
        return {}
    counts = read_json(path, most_bytes=MOST_BYTES)
    if not isinstance(counts, dict) or not all(map(_is_entry, counts.values())):
        raise UserError(f"{path} does not hold what was left out, by reason: delete it")
    return counts


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("count"), int)
        and isinstance(entry.get("first"), str)
        and isinstance(entry.get("last"), str)
    )
