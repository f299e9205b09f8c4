"""Exact likelihood of recorded episodes under a dream: of their codes, not of pixels.

The sum over an episode's steps of log p(codes of frame t + 1 | frames and variables up to t, and
the actions taken there), as the prior's forward pass defines it; the first frame is given. The
pixels that the tokenizer loses don't count, so likelihoods of two tokenizers can't be compared.
"""

import csv
import math
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.command import say, track
from worldmodel.data import EpisodeReader
from worldmodel.data.reader import SPLITS, split_of
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation.predicting import predict_long, shown
from worldmodel.evaluation.tables import Blocks, Table, number
from worldmodel.storage.files import parse_json, read_bytes, write_json, written_whole
from worldmodel.storage.parsed import parsed

FORMAT_VERSION = 1
MOST_BYTES = 2**28  # of scores.json: half a million episodes
MAX_STEPS = 160  # of one pass: attention over all of them takes half a GB at 16 positions a frame
SAVE_EVERY_S = 20.0
NUM_SHOWN = 5  # of the least and of the most likely episodes


@dataclass(frozen=True)
class Score:
    """Of one episode: a row of scores.csv."""

    episode_id: int
    split: str
    policy: str
    steps: int
    tokens: int
    total_nats: float
    total_bits: float
    nats_a_token: float
    bits_a_token: float
    worst_step: int
    """The least likely, counted from 0: step t leads to frame t + 1."""
    worst_step_nats_a_token: float


def score_episodes(
    model: WorldModel,
    reader: EpisodeReader,
    out: Path,
    *,
    episodes: str,
    source: dict[str, Any],
    again: bool = False,
) -> dict[str, Any]:
    """Score the chosen episodes into out/scores.json and out/scores.csv.

    Written every SAVE_EVERY_S seconds; scores found there of the same weights and data are kept.

    Args:
        episodes: "all", a split, or ids as in "0,5-9".
        source: kept in the file; "weights_sha256" and "data" say what may be kept.
        again: score all of them again.

    Returns:
        `source`, and `episodes`, a list of the chosen episodes' scores.

    Raises:
        UserError: `episodes` is not understood, or the data hold none of them.
    """
    chosen = select_episodes(reader, episodes)
    known = _known(out / "scores.json", source)  # those not asked for stay in the file
    ids = reader.index["episode_id"][chosen].tolist()
    found = {} if again else {i: known[i] for i in ids if i in known}
    if found:
        say(f"kept: {len(found)} of {len(ids)} episodes, scored before")
    head = {**source, "format_version": FORMAT_VERSION}

    def write() -> None:
        rows = known | found
        _write(out, {**head, "episodes": [vars(rows[i]) for i in sorted(rows)]})

    saved_at = time.monotonic()
    pairs = zip(chosen.tolist(), ids, strict=True)
    missing = [(i, episode_id) for i, episode_id in pairs if episode_id not in found]
    for i, episode_id in track(missing, "scoring episodes"):
        found[episode_id] = score_episode(model, reader, i)
        if time.monotonic() - saved_at > SAVE_EVERY_S:
            write()
            saved_at = time.monotonic()
    write()
    return {**head, "episodes": [vars(found[i]) for i in ids]}


def score_episode(model: WorldModel, reader: EpisodeReader, i: int) -> Score:
    """Of the i-th episode."""
    row, steps = reader.index[i], reader.steps(i)
    told = (steps["action"], steps["variables"], steps["pose"])
    nats = step_nats(model, reader.frames(i), *told)
    worst = int(nats.argmax())
    tokens = model.prior.head.num_tokens
    total, mean = float(nats.sum()) * tokens, float(nats.mean())
    return Score(
        episode_id=int(row["episode_id"]),
        split=split_of(int(row["episode_id"])),
        policy=row["policy"].decode(errors="replace"),
        steps=len(nats),
        tokens=len(nats) * tokens,
        total_nats=total,
        total_bits=total / math.log(2),
        nats_a_token=mean,
        bits_a_token=mean / math.log(2),
        worst_step=worst,
        worst_step_nats_a_token=float(nats[worst]),
    )


def step_nats(
    model: WorldModel,
    frames: np.ndarray,
    actions: np.ndarray,
    variables: np.ndarray,
    poses: np.ndarray,
    *,
    max_steps: int = MAX_STEPS,
) -> np.ndarray:
    """Nats a token of each step of an episode, float64 (T,); the same whatever `max_steps`.

    Args:
        frames, actions, variables, poses: as in `Episode`.
        max_steps: of one pass of the prior.
    """
    codes = model.encode(torch.from_numpy(frames).to(next(model.parameters()).device))
    of = shown(model, codes[None], actions[None], variables[None], poses[None])
    return predict_long(model, of, max_steps=max_steps).nats[0]


def select_episodes(reader: EpisodeReader, text: str) -> np.ndarray:
    """Positions in the reader's index of "all" episodes, of a split, or of ids as in "0,5-9".

    Raises:
        UserError: it is none of these, or an id is not there.
    """
    if text == "all":
        return np.arange(len(reader))
    if text in SPLITS:
        chosen = reader.split(text)
        if not len(chosen):
            raise UserError(f"{reader.folder} has no episode in the {text} split")
        return chosen
    ids, chosen = reader.index["episode_id"], []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise UserError(
                f"--episodes {text!r}: {part.strip()!r} is no id; write all, a split "
                f"({', '.join(SPLITS)}) or ids as in 0,5-9"
            )
        inside = [n for n, i in enumerate(ids.tolist()) if int(first) <= i <= int(last or first)]
        if not inside:
            span = f"it holds {ids.min()} to {ids.max()}"
            raise UserError(f"{reader.folder} has no episode {part.strip()} ({span})")
        chosen += inside
    return np.unique(chosen)


def score_blocks(scores: dict[str, Any]) -> Blocks:
    """The least and the most likely episodes."""
    rows = [parsed(Score, row) for row in scores["episodes"]]
    rows.sort(key=lambda row: -row.nats_a_token)
    cells = [
        [
            str(row.episode_id),
            row.split,
            row.policy,
            str(row.steps),
            number(row.nats_a_token, 3),
            number(row.total_nats, 1),
            number(row.total_bits, 1),
            f"{row.worst_step} ({number(row.worst_step_nats_a_token)})",
        ]
        for row in rows
    ]
    if len(cells) > 2 * NUM_SHOWN:
        cells[NUM_SHOWN:-NUM_SHOWN] = [["...", *[""] * 7]]
    total = sum(row.total_nats for row in rows)
    header = ["episode", "split", "player", "steps", "nats a token", "nats", "bits"]
    return [
        Table([*header, "worst step (nats a token)"], cells),
        f"{len(rows)} episodes of {sum(row.steps for row in rows)} steps, the least likely first: "
        f"{total:.1f} nats, {total / sum(row.tokens for row in rows):.3f} a token. The exact "
        "likelihood of the frames' codes after each episode's first frame, given its actions; not "
        "of the exact pixels.",
    ]


def _known(path: Path, source: dict[str, Any]) -> dict[int, Score]:
    """The scores in a file of the same weights and data, by id; none of any other file."""
    if not os.path.lexists(path):
        if os.path.lexists(path.with_suffix(".csv")):
            raise UserError(
                f"{path.with_suffix('.csv')} is there without {path.name}, so another program "
                "wrote it: choose another --out, or move it away"
            )
        return {}
    content = read_bytes(path, most_bytes=MOST_BYTES)
    try:
        scores = parse_json(content)
        same = scores["format_version"] == FORMAT_VERSION and all(
            scores[name] == source[name] for name in ("weights_sha256", "data")
        )
        rows = [parsed(Score, row) for row in scores["episodes"]] if same else []
        return {row.episode_id: row for row in rows}
    except (UserError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged or no file of this command: remove it, or choose another --out"
        ) from None


def _write(out: Path, scores: dict[str, Any]) -> None:
    write_json(out / "scores.json", scores)
    with (
        written_whole(out / "scores.csv") as unfinished,
        unfinished.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(scores["episodes"])
