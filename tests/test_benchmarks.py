"""The benchmarks run, and their tables show what was measured."""

from pathlib import Path

from benchmarks.dream_step import BATCH_SIZES, measure, tables
from worldmodel.checkpoint import load_checkpoint
from worldmodel.evaluation.report import machine


def test_dream_step_measures_every_variant(tiny_run: Path) -> None:
    results = measure(load_checkpoint(str(tiny_run)), 2)
    assert len(results["variants"]) == 3
    assert all(row["p50_ms"] > 0 for row in results["variants"].values())
    assert set(results["parts_ms"]) == set(results["floor"]["parts"])
    assert results["floor"]["ms"] > 0
    assert set(results["batched"]) == {str(size) for size in BATCH_SIZES}
    about = {"checkpoint": "tiny", "commit": None, "machine": machine(), "load_average": 0.0}
    text = tables({**about, **results})
    for name in results["variants"]:
        assert name in text
