"""How likely recorded episodes are under a dream: exact, and of their codes, not of pixels.

The sum over an episode's steps of log p(codes of frame t + 1 | frames and variables up to t, and
the actions taken there), as the prior's forward pass defines it; the first frame is given. What
the tokenizer loses of the pixels has no part in it, so likelihoods of two tokenizers can't be
compared.
"""

import csv
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.command import say, track
from worldmodel.data import EpisodeReader
from worldmodel.data.reader import SPLITS, split_of
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation.foretelling import foretell_long, joined
from worldmodel.evaluation.tables import Blocks, Table, number
from worldmodel.storage.files import (
    parse_json,
    read_bytes,
    write_json,
    written_whole,
)

FORMAT_VERSION = 1
MOST_BYTES = 2**28  # of scores.json: half a million episodes
MAX_STEPS = 160  # of one pass: attention over all of them takes half a GB at 16 positions a frame
SAVE_EVERY_S = 20.0
NUM_SHOWN = 5  # of the least and of the most likely episodes
COLUMNS = (
    "episode_id",
    "split",
    "policy",
    "steps",
    "tokens",
    "total_nats",
    "total_bits",
    "nats_a_token",
    "bits_a_token",
    "worst_step",
    "worst_step_nats_a_token",
)


def score_episodes(
    model: WorldModel,
    reader: EpisodeReader,
    out: Path,
    *,
    episodes: str,
    source: dict[str, Any],
    again: bool = False,
) -> dict[str, Any]:
    """The log-likelihood of each chosen episode, in out/scores.json and out/scores.csv.

    Written every SAVE_EVERY_S seconds; episodes found there of the same weights and data are not
    worked out again.

    Args:
        episodes: "all", a split, or ids as in "0,5-9".
        source: kept in the file; "weights_sha256" and "data" say what may be kept.
        again: work out all of them anew.

    Returns:
        `source`, and `episodes`, a list of one dict of COLUMNS for each that was chosen.

    Raises:
        UserError: `episodes` is not understood, or the data hold none of them.
    """
    chosen = select_episodes(reader, episodes)
    known = _known(out / "scores.json", source)  # those not asked for stay in the file
    ids = reader.index["episode_id"][chosen].tolist()
    found = {} if again else {i: known[i] for i in ids if i in known}
    if found:
        say(f"kept: {len(found)} of {len(ids)} episodes, scored before")

    def written() -> dict[str, Any]:
        rows = known | found
        scores = {**source, "format_version": FORMAT_VERSION}
        _write(out, {**scores, "episodes": [rows[i] for i in sorted(rows)]})
        return {**scores, "episodes": [found[i] for i in ids if i in found]}

    saved_at = time.monotonic()
    left = [(int(i), episode_id) for i, episode_id in zip(chosen, ids, strict=True)]
    left = [(i, episode_id) for i, episode_id in left if episode_id not in found]
    for i, episode_id in track(left, "scoring episodes"):
        found[episode_id] = score_episode(model, reader, i)
        if time.monotonic() - saved_at > SAVE_EVERY_S:
            written()
            saved_at = time.monotonic()
    return written()


def score_episode(model: WorldModel, reader: EpisodeReader, i: int) -> dict[str, Any]:
    """COLUMNS of the i-th episode. Steps are counted from 0: step t brings frame t + 1."""
    row, steps = reader.index[i], reader.steps(i)
    told = (steps["action"], steps["variables"], steps["pose"])
    nats = step_nats(model, reader.frames(i), *told)
    worst = int(nats.argmax())
    tokens = model.prior.head.num_tokens
    total, mean = float(nats.sum()) * tokens, float(nats.mean())
    return {
        "episode_id": int(row["episode_id"]),
        "split": split_of(int(row["episode_id"])),
        "policy": row["policy"].decode(errors="replace"),
        "steps": len(nats),
        "tokens": len(nats) * tokens,
        "total_nats": total,
        "total_bits": total / math.log(2),
        "nats_a_token": mean,
        "bits_a_token": mean / math.log(2),
        "worst_step": worst,
        "worst_step_nats_a_token": float(nats[worst]),
    }


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
    device = next(model.parameters()).device

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)[None]

    parts = torch.from_numpy(frames).split(64)
    codes = torch.cat([model.encode(part.to(device)) for part in parts])[None]
    given = (tensor(actions), tensor(variables), tensor(poses))
    stretches = foretell_long(model, codes, *given, max_steps=max_steps)
    return joined(list(stretches), 1).nats[0]


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
    at = {int(episode_id): i for i, episode_id in enumerate(reader.index["episode_id"])}
    chosen = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise UserError(
                f"--episodes {text!r}: {part.strip()!r} is no id; write all, a split "
                f"({', '.join(SPLITS)}) or ids as in 0,5-9"
            )
        begin, end = int(first), int(last or first)
        inside = [i for episode_id, i in at.items() if begin <= episode_id <= end]
        if not inside:
            raise UserError(f"{reader.folder} has no episode {part.strip()} (it holds {_span(at)})")
        chosen += inside
    return np.unique(chosen)


def score_blocks(scores: dict[str, Any]) -> Blocks:
    """The least and the most likely episodes."""
    rows = sorted(scores["episodes"], key=lambda row: -row["nats_a_token"])
    shown = rows if len(rows) <= 2 * NUM_SHOWN else [*rows[:NUM_SHOWN], *rows[-NUM_SHOWN:]]
    left_out = len(rows) - len(shown)
    cells = [
        [
            str(row["episode_id"]),
            row["split"],
            row["policy"],
            str(row["steps"]),
            number(row["nats_a_token"], 3),
            number(row["total_nats"], 1),
            number(row["total_bits"], 1),
            f"{row['worst_step']} ({number(row['worst_step_nats_a_token'])})",
        ]
        for row in shown
    ]
    if left_out:
        cells.insert(NUM_SHOWN, ["...", *[""] * 7])
    steps = sum(row["steps"] for row in rows)
    total = sum(row["total_nats"] for row in rows)
    tokens = sum(row["tokens"] for row in rows)
    header = ["episode", "split", "who acted", "steps", "nats a token", "nats", "bits"]
    return [
        Table([*header, "worst step (nats a token)"], cells),
        f"{len(rows)} episodes of {steps} steps, the least likely first: {total:.1f} nats, "
        f"{total / tokens:.3f} a token. The exact likelihood of the frames' codes after each "
        "episode's first frame, given its actions; not of the exact pixels.",
    ]


def _known(path: Path, source: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The rows of a file of the same weights and data, by id; none of any other file."""
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
        rows = {row["episode_id"]: row for row in scores["episodes"]} if same else {}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged or no file of this command: remove it, or choose another --out"
        ) from None
    return {i: row for i, row in rows.items() if set(row) == set(COLUMNS)}


def _write(out: Path, scores: dict[str, Any]) -> None:
    write_json(out / "scores.json", scores)
    with (
        written_whole(out / "scores.csv") as unfinished,
        unfinished.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(scores["episodes"])


def _span(ids: dict[int, int]) -> str:
    return f"{min(ids)} to {max(ids)}"
