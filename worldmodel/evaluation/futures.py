"""Several futures of recorded starts as one picture or film: what `sample` commands share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from worldmodel.command import check_numbers, usable_device
from worldmodel.errors import UserError, printable
from worldmodel.media.film import SAVERS, enlarged, grid, save_gif, save_mp4, save_png, sheet
from worldmodel.storage.files import refuse_existing

MOST_BYTES = 2**32  # of all films together


@dataclass(frozen=True)
class FuturesOptions:
    """Options of the commands that draw futures."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A shipped name, a folder, or a Hugging Face Hub id."""
    out: Path
    """File to write; ends in .png, .gif or .mp4."""
    starts: tuple[int, ...] = (0,)
    """Numbers of the recorded moments to start from."""
    futures: int = 4
    """Futures of each start."""
    same_actions: bool = False
    """Use the same actions for all starts and futures: what differs is the start, and chance."""
    scale: int = 2
    """Pixels of the picture, along each side, for a pixel of a frame."""
    overwrite: bool = False
    """Replace the file at --out."""
    seed: int = 0
    """Seed of actions and draws."""
    device: str = "cpu"
    """cpu or cuda."""


def check_options(options: FuturesOptions) -> None:
    """Raises UserError for options that can't be used."""
    if options.out.suffix not in SAVERS:
        raise UserError(f"--out {options.out}: the name must end in {', '.join(SAVERS)}")
    check_numbers(options, futures=1, scale=1, seed=0)
    usable_device(options.device)


def check_size(options: FuturesOptions, num_frames: int, frame_shape: Sequence[int]) -> None:
    """Raises UserError where the films wouldn't fit into memory."""
    num_films = len(options.starts) * options.futures
    num_bytes = num_films * num_frames * math.prod(frame_shape[:2]) * 3 * options.scale**2
    if num_bytes > MOST_BYTES:
        raise UserError(
            f"{num_films} films of {num_frames} frames at --scale {options.scale} take "
            f"{num_bytes / 2**30:.3g} GiB, more than {MOST_BYTES // 2**30}: ask for fewer or "
            "smaller ones"
        )


def start_rows(num_starts: int, options: FuturesOptions) -> np.ndarray:
    """The chosen starts, each as often as it has futures; raises UserError where one is missing."""
    for start in options.starts:
        if not 0 <= start < num_starts:
            raise UserError(f"there is no start {start}: they go from 0 to {num_starts - 1}")
    return np.repeat(options.starts, options.futures)


def save_futures(films: np.ndarray, options: FuturesOptions, fps: float) -> None:
    """Write films (futures, T, H, W, 3), those of one start in a row."""
    refuse_existing(options.out, overwrite=options.overwrite)  # it may have come meanwhile
    if options.out.suffix == ".png":
        save_png(options.out, sheet(list(films), scale=options.scale))
    else:
        save = save_gif if options.out.suffix == ".gif" else save_mp4
        shown = grid(list(enlarged(films, options.scale)), columns=options.futures)
        save(options.out, shown, fps=fps)
    of = f"{options.futures} futures each of {len(options.starts)} recorded moments"
    print(printable(f"{options.out}: {of}"))
