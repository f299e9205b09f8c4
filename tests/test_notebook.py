"""The quickstart notebook runs from top to bottom."""

import re
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs(notebook: nbformat.NotebookNode):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert NOTEBOOK.stat().st_size < 20_000


def test_it_runs(notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a kernel of its own, with a shorter training than a reader's minute."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for folder in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(folder, str(tmp_path / folder))
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    # 64 steps of each dream, so that their episodes of 50 end once.
    settings.source += "\nnum_dreams, train_steps, num_games = 2, 128, 1"
    client = NotebookClient(
        notebook,
        timeout=250,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Warning" not in said.replace("TqdmWarning: IProgress not found", "")  # no widgets here
    assert "actions: ('noop', 'left', 'right', 'forward')" in said
    assert "ep_rew_mean" in said
    scores = re.search(r"random: ([\d.]+)\ntrained in dreams: ([\d.]+)\n", said)
    assert scores is not None
    assert all(0 < float(score) <= 2100 for score in scores.groups())
    assert (tmp_path / "agent.zip").exists()
