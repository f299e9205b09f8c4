"""What a data set lacks: how many files and episodes were left out of it, by reason.

The counts are kept in left-out.json beside the shards, so that `worldmodel.data verify` repeats
what the import or the recording said.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Strict

from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import read_json, write_json
from worldmodel.storage.parsed import parsed

LEFT_OUT = "left-out.json"
MOST_BYTES = 2**20
MOST_REASONS = 100
MOST_COUNT = 10**15  # hostile files claim anything
MOST_CHARACTERS = 200  # of a reason or a name


@dataclass
class Count:
    """How many things were left out for one reason, and the names of the first and the last."""

    count: Annotated[int, Strict()]
    first: str
    last: str


@dataclass
class LeftOut:
    """Counts by reason."""

    counts: dict[str, Count] = field(default_factory=dict)

    def add(self, reason: str, name: str, *, count: int = 1) -> None:
        """Count something that is left out.

        The same name and reason twice in a row count once: a process that was killed does its last
        item again.

        Args:
            reason: why, in few words without the name: "not finite".
            name: which file or episode.
            count: how many there are, `name` the first of them.
        """
        reason, name = (one_line(text, most=MOST_CHARACTERS) for text in (reason, name))
        if reason not in self.counts and len(self.counts) >= MOST_REASONS:
            reason = "other reasons"
        so_far = self.counts.setdefault(reason, Count(0, name, ""))
        if so_far.last != name:
            so_far.count = min(so_far.count + count, MOST_COUNT)
            so_far.last = name

    def lines(self) -> list[str]:
        """A line for each reason, such as "left out     damaged: 2, the first clips/a.mp4"."""
        lines = []
        for reason, of in sorted(self.counts.items()):
            first = f"the first {of.first}" if of.count > 1 else of.first
            lines.append(f"left out     {one_line(f'{reason}: {of.count}, {first}')}")
        return lines

    def write(self, folder: Path) -> None:
        """Keep the counts with the data set in `folder`. Raises OSError where that can't be."""
        if self.counts:
            write_json(folder / LEFT_OUT, {name: asdict(c) for name, c in self.counts.items()})
        else:
            (folder / LEFT_OUT).unlink(missing_ok=True)


def read_left_out(folder: Path) -> LeftOut:
    """What was left out of the data set in `folder`. Raises UserError where that is damaged."""
    path = folder / LEFT_OUT
    if not path.exists():
        return LeftOut()
    data = read_json(path, most_bytes=MOST_BYTES)
    try:
        return parsed(LeftOut, {"counts": data})
    except UserError as error:
        raise UserError(
            f"{path} does not hold what was left out, by reason ({error}): delete it"
        ) from None
