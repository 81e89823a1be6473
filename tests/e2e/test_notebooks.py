"""Every notebook runs from the first cell to the last, in a directory of its own, where an earlier model was champion and scored."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
_CHAMPION = """
from jobs.runs.batch import score_table
from jobs.runs.train_run import train

earlier = load("local", "flights", [*settings, "train.max_rows=3000", "train.params.max_iter=5"])
champion = train(earlier).version.alias
score_table(spark, earlier)
champion
"""


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_compares_its_own_run_where_another_model_is_champion(
    path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1]))
    notebook = nbformat.read(path, as_version=4)
    views_are_built = next(i for i, cell in enumerate(notebook.cells) if "build_views(" in cell.source)
    earlier = nbformat.v4.new_code_cell(_CHAMPION)
    notebook.cells.insert(views_are_built + 1, earlier)

    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(home)}}).execute()

    def answer(source: str) -> object:
        cell = next(cell for cell in notebook.cells if source in cell.source and cell is not earlier)
        return eval(cell.outputs[-1]["data"]["text/plain"])

    assert eval(earlier.outputs[-1]["data"]["text/plain"]) == "champion"
    assert answer("trained = train(conf)")[0] == "challenger"  # type: ignore[index]
    rows, differing = answer("udf_scores")  # type: ignore[misc]
    assert rows > 5_000
    assert differing == 0
    scored = DeltaTable(home / ".onescore" / "tables" / "flights_scored").to_pyarrow_table()
    of_version = [
        scored.filter(pc.field("model_version") == v).sort_by("row_id").column("score") for v in ("1", "2")
    ]
    assert [len(scores) for scores in of_version] == [rows, rows] == [scored.num_rows / 2] * 2
    assert of_version[0] != of_version[1]


def test_notebooks_are_committed_without_output() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells), f"{path.name} has outputs; clear them"
