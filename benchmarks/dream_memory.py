"""Memory that dreams take: python -m benchmarks.dream_memory

By their number, by the prior's window, and by the older frames that it recalls: the state that each
dream keeps between steps, and the highest total while a batch of them starts and steps. Models with
another window or more older frames have random weights: memory doesn't depend on them.
With --publish, docs/dream-memory.png shows the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.dream_step import Dreamer
from benchmarks.measuring import (
    MEBIBYTE,
    Output,
    Results,
    in_own_process,
    measured_on,
    memory_now,
    memory_peak,
    run_benchmark,
    use_device,
)
from worldmodel.checkpoint import load_checkpoint
from worldmodel.command import check_numbers
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluation import plots
from worldmodel.evaluation.tables import Blocks, Table

STEPS = 2
PICTURE = Path(__file__).parents[1] / "docs/dream-memory.png"
KINDS = ("dreams", "window", "older frames")


@dataclass(frozen=True)
class Options(Output):
    """Measure the memory of batches of dreams, on one CPU thread."""

    checkpoint: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    dreams: tuple[int, ...] = (1, 16, 64, 256)
    """Numbers of dreams, with the checkpoint's window and older frames."""
    windows: tuple[int, ...] = (4, 8, 12, 24)
    """Frames of the window, for --batch dreams."""
    recalled: tuple[int, ...] = (0, 4, 8, 16)
    """Older frames, for --batch dreams; only for models that recall any."""
    batch: int = 64
    """Dreams while the window or the older frames change."""
    publish: bool = False
    """Draw the result for the documentation."""

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        return dict(zip(KINDS, (self.dreams, self.windows, self.recalled), strict=True))


def measure(options: Options) -> Results:
    check_numbers(options, batch=1)
    if min(*options.dreams, *options.windows) < 1 or min(options.recalled) < 0:
        raise UserError("--dreams and --windows must be at least 1, --recalled at least 0")
    use_device("cpu")
    prior = load_checkpoint(options.checkpoint).model.config.prior
    kinds = KINDS if prior.recalled else KINDS[:2]
    variants = [f"{kind} {size}" for kind in kinds for size in options.sizes[kind]]
    results = {
        "checkpoint": options.checkpoint,
        "batch": options.batch,
        "window": prior.window,
        "recalled": prior.recalled,
        "variants": in_own_process(_variant, options, variants),
    }
    if options.publish:
        _draw(results)
    return results


def _variant(options: Options, variant: str) -> dict[str, float]:
    """Mebibytes of one batch of dreams."""
    torch.set_num_threads(1)
    kind, size = variant.rsplit(" ", 1)
    checkpoint = load_checkpoint(options.checkpoint)
    model, num_dreams = checkpoint.model, options.batch
    if kind == "dreams":
        num_dreams = int(size)
    else:
        changed = {"window" if kind == "window" else "recalled": int(size)}
        config = replace(model.config, prior=replace(model.config.prior, **changed))
        model = WorldModel(config).eval()
    Dreamer(model, checkpoint, 1)()  # compiles
    before = memory_now("cpu")
    dreamer = Dreamer(model, checkpoint, num_dreams)
    for _ in range(STEPS):
        dreamer()
    kept = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(dreamer.dream))
    return {
        "size": int(size),
        "dreams": num_dreams,
        "state_a_dream": kept / num_dreams / MEBIBYTE,
        "peak_a_dream": max(0, memory_peak("cpu") - before) / num_dreams / MEBIBYTE,
        "process": memory_peak("cpu") / MEBIBYTE,
    }


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors of a dataclass and of those inside it."""
    for field in fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            yield value
        elif hasattr(value, "__dataclass_fields__"):
            yield from _tensors(value)


def _rows(results: Results, kind: str) -> list[dict[str, float]]:
    return [row for name, row in results["variants"].items() if name.startswith(kind)]


def _draw(results: Results) -> None:
    kinds = [kind for kind in KINDS if _rows(results, kind)]
    figure = Figure(figsize=(3.6 * len(kinds), 3.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        rows = _rows(results, kind)
        sizes = [row["size"] for row in rows]
        if kind == "dreams":
            axes.plot(sizes, [row["process"] for row in rows], "o-", label="the process")
            kept = [row["dreams"] * row["state_a_dream"] for row in rows]
            axes.plot(sizes, kept, "o-", label="state of all dreams")
            axes.set(ylabel="MiB")
        else:
            axes.plot(sizes, [row["peak_a_dream"] for row in rows], "o-", label="highest")
            axes.plot(sizes, [row["state_a_dream"] for row in rows], "o-", label="between steps")
            axes.set(ylabel="MiB a dream", title=f"{results['batch']} dreams")
        axes.set(xlabel=kind, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    plots.save(figure, PICTURE)


def tables(results: Results) -> Blocks:
    of = f"a window of {results['window']} frames, {results['recalled']} older frames"
    rows = [
        [
            name,
            f"{row['state_a_dream']:.2f}",
            f"{row['peak_a_dream']:.1f}",
            f"{row['process']:.0f}",
        ]
        for name, row in results["variants"].items()
    ]
    header = ["", "MiB a dream, between steps", "highest, MiB a dream", "the process, MiB"]
    return [
        f"{results['checkpoint']}, {of}; where these change, {results['batch']} dreams; "
        f"{measured_on(results)}",
        Table(header, rows),
    ]


if __name__ == "__main__":
    run_benchmark("dream_memory", Options, measure, tables)
