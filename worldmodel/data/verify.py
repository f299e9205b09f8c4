"""Check a data set whole, say what is in it, and draw it."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from worldmodel.command import track
from worldmodel.data.episodes import (
    CLASS_VARIABLE,
    UNFINISHED,
    DatasetInfo,
    Episode,
    episode_problems,
    read_info,
)
from worldmodel.data.floor_plan import draw_floor_plan
from worldmodel.data.left_out import read_left_out
from worldmodel.data.reader import SPLITS, split_of
from worldmodel.data.shards import Shard, finished_shards, unfinished_shards
from worldmodel.errors import UserError

SHEET_ROWS = 12
SHEET_COLUMNS = 10
SHEET_GAP = 2  # pixels
MOST_POLICIES = 20  # are described one by one


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        problems: a line for each thing that is wrong; empty for a sound set.
        lines: what is in the set.
    """

    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass
class _Tally:
    """Counts over the episodes read so far; all but `ids` over the sound ones."""

    ids: Counter[int] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # by policy
    returns: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    contents: Counter[bytes] = field(default_factory=Counter)
    terminated: int = 0
    truncated: int = 0
    actions: list[np.ndarray] = field(default_factory=list)
    variables: list[np.ndarray] = field(default_factory=list)  # (2, V): lowest and highest
    poses: list[np.ndarray] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)
    sheet: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, episode: Episode, info: DatasetInfo) -> None:
        if info.class_names:
            self.classes[int(_class_values(episode, info)[0])] += 1
        self.splits[split_of(episode.episode_id)] += 1
        self.lengths[episode.policy].append(episode.length)
        self.returns[episode.policy].append(float(episode.reward.sum()))
        self.contents[hashlib.blake2b(episode.frames.tobytes(), digest_size=16).digest()] += 1
        self.terminated += bool(episode.terminated[-1])
        self.truncated += bool(episode.truncated[-1])
        self.actions.append(episode.action)
        self.variables.append(np.stack([episode.variables.min(0), episode.variables.max(0)]))
        if not np.isnan(episode.pose).any():
            self.poses.append(episode.pose)
        if len(self.sheet[episode.policy]) < SHEET_ROWS:
            columns = np.linspace(0, episode.length, SHEET_COLUMNS).round().astype(int)
            self.sheet[episode.policy].append(episode.frames[columns])
        if len(self.sheet) > SHEET_ROWS:  # imported sets name thousands of files as policies
            del self.sheet[max(self.sheet, key=_scattered)]


def _scattered(name: str) -> bytes:
    """By this the few that are drawn come from all over the names."""
    return hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest()


def verify(folder: str | Path) -> Report:
    """Read every byte of the data set in `folder` and check it.

    Writes `contact-sheet.png` there, if the folder allows it: a row an episode, frames spread
    evenly over its length; and where a pose is told `floor-plan.png`: where players were.

    Raises:
        UserError: there is no data set at all.
    """
    folder = Path(folder)
    info = read_info(folder)
    report, tally = Report(), _Tally()
    shards = finished_shards(folder)
    if not shards:
        report.problems.append(f"{folder} has no finished shard: record it with the same command")
    if (folder / UNFINISHED).exists():
        report.problems.append(
            f"{folder} is not whole: its import still runs or was stopped; the same command goes on"
        )
    for path in track(shards, "checking shards"):
        _check_shard(path, info, tally, report)
    for episode_id, count in sorted(tally.ids.items()):
        if count > 1:
            report.problems.append(f"episode {episode_id} is stored {count} times")
    for path in unfinished_shards(folder):
        report.lines.append(
            f"{path.name} is unfinished and was not read: recording is still going on, or the "
            "same command finishes it"
        )
    try:
        report.lines += read_left_out(folder)
    except UserError as error:
        report.problems.append(str(error))
    if _has_twin_streams(info):
        report.lines.append(
            "note         recorded before version 0.2: random players' actions are correlated with "
            "how long they held them"
        )
    if tally.actions:
        report.lines += _describe(info, tally)
        sheet = folder / "contact-sheet.png"
        try:
            draw_contact_sheet(tally.sheet).save(sheet)
            report.lines.append(f"drawn in     {sheet}")
            if info.pose and tally.poses:
                plan = folder / "floor-plan.png"
                draw_floor_plan(plan, info.pose, np.concatenate(tally.poses))
                report.lines.append(f"drawn in     {plan}")
        except OSError as error:  # data that may only be read
            report.lines.append(f"not drawn    {error}")
    return report


def _has_twin_streams(info: DatasetInfo) -> bool:
    """Whether actions and holds of random players came from twin generators (until 0.1)."""
    recording = info.policies.get("recording")
    return isinstance(recording, dict) and "streams" not in recording


def _check_shard(path: Path, info: DatasetInfo, tally: _Tally, report: Report) -> None:
    try:
        shard = Shard(path, info)
    except UserError as error:
        report.problems.append(str(error))
        return
    steps_end = frames_end = 0  # the episodes lie in order and do not overlap
    for i, (row, problem) in enumerate(zip(shard.index, shard.problems, strict=True)):
        name = f"{path}: episode {row['episode_id']}"
        tally.ids[int(row["episode_id"])] += 1
        if problem is not None:
            report.problems.append(f"{name}: {problem}")
            continue
        if row["episode_start"] < steps_end or row["frame_start"] < frames_end:
            report.problems.append(f"{name} overlaps the one before it")
        steps_end = row["episode_start"] + row["episode_length"]
        frames_end = row["frame_start"] + row["episode_length"] + 1
        try:
            episode = shard.unchecked_episode(i)
        except UserError as error:
            report.problems.append(f"episode {row['episode_id']}: {error}")
            continue
        broken_rules = episode_problems(episode, info)
        report.problems += [f"{name}: {line}" for line in broken_rules]
        if not broken_rules:
            tally.add(episode, info)


def _class_values(episode: Episode, info: DatasetInfo) -> np.ndarray:
    return episode.variables[:, info.variable_names.index(CLASS_VARIABLE)]


def _describe(info: DatasetInfo, tally: _Tally) -> list[str]:
    lengths = [n for of_policy in tally.lengths.values() for n in of_policy]
    num_steps = sum(lengths)
    lines = [
        f"environment  {info.env_id} {info.env_kwargs or ''}".rstrip(),
        f"frames       {num_steps + len(lengths)} of {'x'.join(map(str, info.frame_shape))}, "
        f"{info.fps:g} a second",
        f"episodes     {len(lengths)}: " + ", ".join(f"{tally.splits[s]} {s}" for s in SPLITS),
        f"ends         {tally.terminated} terminated, {tally.truncated} truncated, "
        f"{len(lengths) - tally.terminated - tally.truncated} cut by the recorder",
    ]
    repeated = sum(count - 1 for count in tally.contents.values())
    if repeated:
        lines.append(f"repeated     {repeated} episodes show the same frames as another one")
    if info.class_names:
        counts = [tally.classes[i] for i in range(len(info.class_names))]
        lines.append(
            f"classes      {len(counts)}, from {info.class_names[0]} to {info.class_names[-1]}: "
            f"{min(counts)} to {max(counts)} episodes each"
        )
    if len(tally.lengths) > MOST_POLICIES or 1 < len(tally.lengths) == len(lengths):
        names = sorted(tally.lengths)
        lines.append(
            f"policies     {len(names)}, from {names[0]} to {names[-1]}: {min(lengths)} to "
            f"{max(lengths)} steps (mean {np.mean(lengths):.1f})"
        )
    else:
        lines += [_describe_policy(tally, policy) for policy in sorted(tally.lengths)]
    return (
        lines
        + _describe_actions(info, np.concatenate(tally.actions))
        + [
            f"variable     {name}: {low:g} to {high:g}"
            for name, low, high in zip(
                info.variable_names,
                np.min([span[0] for span in tally.variables], axis=0),
                np.max([span[1] for span in tally.variables], axis=0),
                strict=True,
            )
        ]
        + [
            f"pose         {name}: {values.min():g} to {values.max():g}"
            for name, values in zip(info.pose.names, np.concatenate(tally.poses).T, strict=True)
        ]
    )


def _describe_policy(tally: _Tally, policy: str) -> str:
    lengths, returns = tally.lengths[policy], np.asarray(tally.returns[policy])
    return (
        f"policy       {policy}: {len(lengths)} episodes of {min(lengths)} to "
        f"{max(lengths)} steps (mean {np.mean(lengths):.1f}), returns "
        f"{returns.min():g} to {returns.max():g} (mean {returns.mean():.2f})"
    )


def _describe_actions(info: DatasetInfo, actions: np.ndarray) -> list[str]:
    """How often each choice was made, or the range of each real number."""
    lines = []
    columns = actions.reshape(len(actions), -1).T
    for component, numbers in zip(info.actions.components, columns, strict=True):
        shown = f"{numbers.min():g} to {numbers.max():g}"
        if component.is_integer:
            counts = np.bincount(numbers, minlength=int(component.high) + 1)
            names = component.names or map(str, range(len(counts)))
            shares = zip(names, counts / len(numbers), strict=True)
            shown = ", ".join(f"{name} {share:.1%}" for name, share in shares)
        name = "" if info.actions.kind == "discrete" else f"{component.name}: "
        lines.append(f"action       {name}{shown}")
    return lines


def draw_contact_sheet(frames_of_policy: dict[str, list[np.ndarray]]) -> Image.Image:
    """Episodes as rows, policies taking turns; each a uint8 (columns, H, W, C), C 1 or 3."""
    turns = [
        frames
        for turn in range(SHEET_ROWS)
        for _, of_policy in sorted(frames_of_policy.items())
        for frames in of_policy[turn : turn + 1]
    ]
    gap = [(0, 0), (0, SHEET_GAP), (0, SHEET_GAP), (0, 0)]  # below and right of each frame
    rows = [np.concatenate(list(np.pad(frames, gap)), axis=1) for frames in turns[:SHEET_ROWS]]
    sheet = np.concatenate(rows, axis=0)
    channels = sheet.shape[-1]
    return Image.fromarray(sheet[..., :3] if channels >= 3 else sheet[..., 0])
