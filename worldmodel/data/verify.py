"""Check a data set whole, say what is in it, and draw it."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from worldmodel.command import track
from worldmodel.data.episodes import (
    CLASS_VARIABLE,
    UNFINISHED,
    DatasetInfo,
    Episode,
    episode_problems,
    read_info,
)
from worldmodel.data.left_out import read_left_out
from worldmodel.data.reader import SPLITS, split_of
from worldmodel.data.shards import Shard, finished_shards, waiting_files
from worldmodel.errors import UserError
from worldmodel.interface.pose import PoseSpec
from worldmodel.media.film import save_png, sheet

SHEET_ROWS = 12
SHEET_COLUMNS = 10
MOST_POLICIES = 20  # are described one by one
PLAN_BINS = 160  # of the floor plan, along its longer side
PLAN_INCHES = 6.0


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        problems: a line for each thing that is wrong; empty for a sound set.
        lines: what is in the set.
        description: those of the lines that describe its sound episodes.
    """

    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    description: list[str] = field(default_factory=list)


@dataclass
class _Summary:
    """What is kept of the episodes read so far; all but `ids` of the sound ones."""

    ids: Counter[int] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    # Length and return of each episode, by policy.
    policies: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    contents: Counter[bytes] = field(default_factory=Counter)
    terminated: int = 0
    truncated: int = 0
    cut: int = 0
    actions: list[np.ndarray] = field(default_factory=list)
    variables: list[np.ndarray] = field(default_factory=list)  # (2, V): lowest and highest
    poses: list[np.ndarray] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)
    sheet: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, episode: Episode, info: DatasetInfo) -> None:
        if info.class_names:
            column = info.variable_names.index(CLASS_VARIABLE)
            self.classes[int(episode.variables[0, column])] += 1
        self.splits[split_of(episode.episode_id)] += 1
        self.policies[episode.policy].append((episode.length, float(episode.reward.sum())))
        self.contents[hashlib.blake2b(episode.frames.tobytes(), digest_size=16).digest()] += 1
        terminated, truncated = bool(episode.terminated[-1]), bool(episode.truncated[-1])
        self.terminated += terminated
        self.truncated += truncated and not terminated
        self.cut += not (terminated or truncated)
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
    """An order in which the few policies that are drawn come from all over the names."""
    return hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest()


def verify(folder: str | Path) -> Report:
    """Read every byte of the data set in `folder` and check it.

    Draws `contact-sheet.png` there, if the folder can be written to: a row an episode, frames
    spread evenly over its length; and for sets with a pose `floor-plan.png`: where players were.

    Raises:
        UserError: there is no data set at all.
    """
    folder = Path(folder)
    info = read_info(folder)
    report, summary = Report(), _Summary()
    shards = finished_shards(folder)
    if not shards:
        report.problems.append(f"{folder} has no finished shard: record it with the same command")
    if (folder / UNFINISHED).exists():
        report.problems.append(
            f"{folder} is not whole: its import still runs or was stopped; the same command resumes"
        )
    for path in track(shards, "checking shards"):
        _check_shard(path, info, summary, report)
    for episode_id, count in sorted(summary.ids.items()):
        if count > 1:
            report.problems.append(f"episode {episode_id} is stored {count} times")
    if waiting := waiting_files(folder):
        report.lines.append(
            f"unfinished   {len(waiting)} files were not read, the first {waiting[0].name}: "
            "recording still runs, or the same command finishes it"
        )
    try:
        report.lines += read_left_out(folder).lines()
    except UserError as error:
        report.problems.append(str(error))
    recording = info.policies.get("recording")
    if isinstance(recording, dict) and "streams" not in recording:
        report.lines.append(
            "note         recorded before version 0.2: random players' actions are correlated with "
            "how long they held them"
        )
    if summary.actions:
        report.description = _describe(info, summary)
        report.lines += report.description
        report.lines += _draw(folder, info, summary)
    return report


def _check_shard(path: Path, info: DatasetInfo, summary: _Summary, report: Report) -> None:
    try:
        shard = Shard(path, info)
    except UserError as error:
        report.problems.append(str(error))
        return
    steps_end = frames_end = 0  # the episodes lie in order and do not overlap
    for i, (row, problem) in enumerate(zip(shard.index, shard.problems, strict=True)):
        name = f"{path}: episode {row['episode_id']}"
        summary.ids[int(row["episode_id"])] += 1
        if problem is not None:
            report.problems.append(f"{name}: {problem}")
            continue
        if row["episode_start"] < steps_end or row["frame_start"] < frames_end:
            report.problems.append(f"{name} overlaps the one before it")
        steps_end = row["episode_start"] + row["episode_length"]
        frames_end = row["frame_start"] + row["episode_length"] + 1
        try:
            episode = shard.episode(i, is_checked=False)
        except UserError as error:
            report.problems.append(f"episode {row['episode_id']}: {error}")
            continue
        broken_rules = episode_problems(episode, info)
        report.problems += [f"{name}: {line}" for line in broken_rules]
        if not broken_rules:
            summary.add(episode, info)


def _describe(info: DatasetInfo, summary: _Summary) -> list[str]:
    episodes = [one for of_policy in summary.policies.values() for one in of_policy]
    lengths = np.asarray([length for length, _ in episodes])
    lines = [
        f"environment  {info.env_id} {info.env_kwargs or ''}".rstrip(),
        f"frames       {lengths.sum() + len(lengths)} of {'x'.join(map(str, info.frame_shape))}, "
        f"{info.fps:g} a second",
        f"episodes     {len(lengths)}: "
        + ", ".join(f"{summary.splits[s]} {s}" for s in SPLITS)
        + ("" if all(summary.splits[s] for s in SPLITS) else "; all three are needed for training"),
        f"ends         {summary.terminated} terminated, {summary.truncated} truncated, "
        f"{summary.cut} cut by the recorder",
    ]
    if repeated := sum(count - 1 for count in summary.contents.values()):
        lines.append(f"repeated     {repeated} episodes show the same frames as another one")
    if info.class_names:
        counts = [summary.classes[i] for i in range(len(info.class_names))]
        lines.append(
            f"classes      {len(counts)}, from {info.class_names[0]} to {info.class_names[-1]}: "
            f"{min(counts)} to {max(counts)} episodes each"
        )
    policies = sorted(summary.policies)
    if len(policies) > MOST_POLICIES or 1 < len(policies) == len(lengths):
        lines.append(
            f"policies     {len(policies)}, from {policies[0]} to {policies[-1]}: {lengths.min()} "
            f"to {lengths.max()} steps (mean {lengths.mean():.1f})"
        )
    else:
        for policy in policies:
            steps, returns = np.asarray(summary.policies[policy]).T
            lines.append(
                f"policy       {policy}: {len(steps)} episodes of {steps.min():.0f} to "
                f"{steps.max():.0f} steps (mean {steps.mean():.1f}), returns {returns.min():g} to "
                f"{returns.max():g} (mean {returns.mean():.2f})"
            )
    spans = np.asarray(summary.variables)
    lows, highs = spans[:, 0].min(0), spans[:, 1].max(0)
    lines += _describe_actions(info, np.concatenate(summary.actions))
    for name, low, high in zip(info.variable_names, lows, highs, strict=True):
        lines.append(f"variable     {name}: {low:g} to {high:g}")
    if info.pose and summary.poses:
        poses = np.concatenate(summary.poses)
        for name, values in zip(info.pose.names, poses.T, strict=True):
            lines.append(f"pose         {name}: {values.min():g} to {values.max():g}")
    return lines


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


def _draw(folder: Path, info: DatasetInfo, summary: _Summary) -> list[str]:
    """Draw the pictures; returns a line for each."""
    contact_sheet, plan = folder / "contact-sheet.png", folder / "floor-plan.png"
    lines = []
    try:
        draw_contact_sheet(contact_sheet, summary.sheet)
        lines.append(f"drawn in     {contact_sheet}")
        if info.pose and summary.poses:
            draw_floor_plan(plan, info.pose, np.concatenate(summary.poses))
            lines.append(f"drawn in     {plan}")
    except OSError as error:  # data that may only be read
        lines.append(f"not drawn    {error}")
    return lines


def draw_contact_sheet(path: Path, frames_of_policy: dict[str, list[np.ndarray]]) -> None:
    """Draw episodes as rows, policies taking turns; each a uint8 (columns, H, W, C).

    Raises OSError where the picture can't be written.
    """
    turns = [
        frames
        for turn in range(SHEET_ROWS)
        for _, of_policy in sorted(frames_of_policy.items())
        for frames in of_policy[turn : turn + 1]
    ]
    picture = sheet(turns[:SHEET_ROWS])
    save_png(path, picture[..., : 3 if picture.shape[-1] >= 3 else 1])


def draw_floor_plan(path: Path, spec: PoseSpec, poses: np.ndarray) -> None:
    """Draw from above how often players were where, by their first two coordinates.

    Args:
        path: of a .png.
        poses: (N, P), N at least 1.

    Raises:
        OSError: the picture can't be written.
    """
    x, y = poses[:, 0], poses[:, min(1, poses.shape[1] - 1)]
    spans = max(float(np.ptp(x)), 1e-6), max(float(np.ptp(y)), 1e-6)
    bins = [max(1, round(PLAN_BINS * span / max(spans))) for span in spans]
    figure = Figure(figsize=(PLAN_INCHES, PLAN_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts, x_edges, y_edges = np.histogram2d(x, y, bins)
    shown = np.where(counts > 0, counts, np.nan).T
    mesh = axes.pcolormesh(x_edges, y_edges, shown, norm=LogNorm(), cmap="viridis")
    figure.colorbar(mesh, ax=axes, shrink=0.7, label="frames")
    axes.set_aspect("equal")
    axes.set_xlabel(spec.names[0])
    axes.set_ylabel(spec.names[min(1, len(spec) - 1)])
    axes.set_title(f"where players were, {len(poses):,} frames")
    figure.savefig(path, dpi=120)
