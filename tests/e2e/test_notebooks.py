"""Every notebook runs from the first cell to the last, in a directory of its own, and shows what its text says.

The walk-through runs where an earlier model was champion and scored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nbformat
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_CHAMPION = """
from jobs.runs.batch import score_table
from jobs.runs.train_run import train

earlier = load("local", "flights", [*settings, "train.max_rows=3000", "train.params.max_iter=5"])
champion = train(earlier).version.alias
score_table(spark, earlier)
champion
"""


def opened(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def run(notebook: Any, directory: Path) -> None:
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(directory)}}).execute()


def answer_of(cell: Any) -> Any:
    return eval(cell.outputs[-1]["data"]["text/plain"], {"nan": math.nan})


@pytest.mark.slow
@pytest.mark.e2e
def test_walkthrough_compares_its_own_run_where_another_model_is_champion(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = opened("walkthrough", monkeypatch)
    views_are_built = next(i for i, cell in enumerate(notebook.cells) if "build_views(" in cell.source)
    earlier = nbformat.v4.new_code_cell(_CHAMPION)
    notebook.cells.insert(views_are_built + 1, earlier)

    run(notebook, home)

    def answer(source: str) -> Any:
        return answer_of(
            next(cell for cell in notebook.cells if source in cell.source and cell is not earlier)
        )

    assert answer_of(earlier) == "champion"
    assert answer("trained = train(conf)")[0] == "challenger"
    rows, differing = answer("udf_scores")
    assert rows > 5_000
    assert differing == 0
    scored = DeltaTable(home / ".onescore" / "tables" / "flights_scored").to_pyarrow_table()
    of_version = [
        scored.filter(pc.field("model_version") == v).sort_by("row_id").column("score") for v in ("1", "2")
    ]
    assert [len(scores) for scores in of_version] == [rows, rows] == [scored.num_rows / 2] * 2
    assert of_version[0] != of_version[1]


@pytest.mark.e2e
def test_three_causes_shows_each_cause_and_that_it_is_ruled_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = opened("three_causes", monkeypatch)

    run(notebook, home)

    def answer(source: str) -> Any:
        return answer_of(next(cell for cell in notebook.cells if source in cell.source))

    account, rounded = 2**53 + 1, 2**53
    assert answer("def unchanged(") == [
        (account, account),
        (account, account),
        (account, rounded),
        (None, None),
    ]
    assert answer("def unchanged_amount(")[1][1] is None
    assert math.isnan(answer("def unchanged_amount(")[1][0])
    first, second = answer("def seen(")
    assert first == second == "2013-11-03 01:30:00"
    features, equal = zip(*answer("as_json ="), strict=True)
    assert equal == (True, True, True, True)
    assert [row["account_last_digit"] for row in features] == [3.0, 3.0, 3.0, None]
    assert [row["paid_minute"] for row in features] == [330.0, 390.0, 390.0, 390.0]
    assert answer("by_pandas =") == ["BAD_TIMESTAMP"] * 4
    sent, ulps, narrow_differs = answer("build_column(")
    assert (sent, narrow_differs) == (1085.0999755859375, False)
    assert ulps > 2**26
    assert answer("LibraryEvaluator(") == 0
    assert answer("index_from_arrow(") == (800.0, [500.0, 800.0])
    differing, exact, rewritten = answer("rewritten =")
    assert differing > 0
    assert (exact, rewritten != 0.0) == (0.0, True)
    assert answer("importlib.reload(") == (False, True, True)


def test_notebooks_are_committed_without_output() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells), f"{path.name} has outputs; clear them"
