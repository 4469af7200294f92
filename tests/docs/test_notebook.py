"""The notebook tutorial: what is stored is fit to be shown, and it runs."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.docs.pages import ROOT

FILE = ROOT / "docs" / "tutorials" / "first_look.ipynb"


def stored() -> Any:
    return nbformat.read(FILE, as_version=4)  # type: ignore[no-untyped-call]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(notebook: Any) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def figures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def mean_of(name: str, text: str) -> float:
    """The mean of the Dice that the notebook prints behind a name: `attack   [0.1, 0.2]`."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
    values = [float(value) for value in line.partition("[")[2].rstrip("]").split(",")]
    return sum(values) / len(values)


def check_shows_what_it_says(notebook: Any) -> None:
    """Every code cell ran, in order; both figures are there; the attack does what the text says."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs(notebook))
    assert figures(notebook) == 2
    text = text_of(notebook)
    assert mean_of("clean", text) > 0.8 and mean_of("random", text) > mean_of("clean", text) - 0.1
    assert mean_of("attack", text) < mean_of("clean", text) - 0.3
    assert "breaks at" in text


def test_the_stored_notebook_is_complete_and_small() -> None:
    check_shows_what_it_says(stored())
    assert FILE.stat().st_size < 400_000
    assert str(Path.home()) not in FILE.read_text() and "site-packages" not in FILE.read_text()


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = stored()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FILE.parent)}}
    ).execute()
    check_shows_what_it_says(notebook)
