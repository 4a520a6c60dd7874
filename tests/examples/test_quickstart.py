"""The notebook, run from its first cell to its last in a kernel of this Python."""

from __future__ import annotations

import csv
import gzip
from html import unescape
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import python_path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"


def shown(cell: nbformat.NotebookNode) -> str:
    """Return what a cell's last line shows."""
    results = [output for output in cell.outputs if output.output_type == "execute_result"]
    return unescape(results[-1].data.get("text/html", results[-1].data["text/plain"])) if results else ""


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell.id for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.slow
def test_it_runs_and_shows_titles_of_books(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": EXAMPLES}})
    client.execute()
    cells = {cell.source: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}

    def of(*words: str) -> str:
        (found,) = [output for source, output in cells.items() if all(word in source for word in words)]
        return found

    with gzip.open(EXAMPLES / "goodbooks" / "books.csv.gz", "rt", encoding="utf-8") as file:
        # As long as a cell of a table shows them for certain.
        titles = {row["title"][:40] for row in csv.DictReader(file)}

    assert of("ratings.count()") == "36755"
    assert "rank=32, 2,000 users" in of("model = als.fit")
    assert of('main(["pipeline"') == "0"
    for listed, least in ((of("recommendForUserSubset"), 10), (of("read_current_table", "recommendations"), 5)):
        assert sum(title in listed for title in titles) >= least
