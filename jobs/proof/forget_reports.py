"""Taking rows out of the reports of reconciliations: out of the file of differing rows, and out of the worst rows that a page shows.

Counts and charts stay: they name nobody. Each file is replaced by one that is whole, so what is done stays done if this dies. This
module does not know why rows must go, nor which.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.proof.skew import SkewReport
from jobs.reports.skew_report import render_report

__all__ = ["ForgottenReports", "RowMask", "forget_in_reports"]

RowMask = Callable[[pa.RecordBatch], NDArray[np.bool_]]
"""Which rows, told by "process", "sequence" and "row_id"."""
_TOLD_BY = ("process", "sequence", "row_id")


@dataclass
class ForgottenReports:
    """Rows removed, and in how many reports; reports that could not be read."""

    rows: int = 0
    reports: int = 0
    unreadable: list[str] = field(default_factory=list)


def forget_in_reports(directory: Path, is_gone: RowMask, *, dry_run: bool) -> ForgottenReports:
    """Remove rows from every report of a model.

    Args:
        directory: <skew.directory>/<model>; may be missing.
        is_gone: which rows.
        dry_run: count, and change nothing.
    """
    done = ForgottenReports()
    for report in sorted(directory.glob("[!.]*/report.json")):
        try:
            rows = _in_file(report.with_name("differing.parquet"), is_gone, dry_run)
            shown = _in_page(report, is_gone, dry_run)
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            done.unreadable.append(str(report.parent))
            continue
        done.rows += rows
        done.reports += bool(rows or shown)
    return done


def _in_file(path: Path, is_gone: RowMask, dry_run: bool) -> int:
    """Remove rows from a file of differing rows, a batch at a time; return how many."""
    removed = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(_TOLD_BY)):
            removed += int(is_gone(batch).sum())
    if not removed or dry_run:
        return removed
    whole = path.with_name(f".{path.name}.tmp")
    with pq.ParquetFile(path) as file, pq.ParquetWriter(whole, file.schema_arrow) as writer:
        for batch in file.iter_batches():  # with its own columns: an older version may have written it
            kept = batch.filter(pa.array(~is_gone(batch.select(_TOLD_BY))))
            writer.write_table(pa.Table.from_batches([kept]).cast(file.schema_arrow))
    _replace(whole, path)
    return removed


def _in_page(path: Path, is_gone: RowMask, dry_run: bool) -> int:
    """Remove rows from the worst rows of a report, the page first; return how many."""
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    worst = said["worst"]
    told = {
        "process": pa.array([row["process"] for row in worst], pa.string()),
        "sequence": pa.array([row["sequence"] for row in worst], pa.int64()),
        "row_id": pa.array([row["row_id"] for row in worst], pa.string()),
    }
    gone = is_gone(pa.RecordBatch.from_pydict(told)) if worst else np.zeros(0, np.bool_)
    if gone.any() and not dry_run:
        said["worst"] = [row for row, out in zip(worst, gone.tolist(), strict=True) if not out]
        _write(path.with_name("report.html"), render_report(SkewReport.from_json(said)))
        _write(path, json.dumps(said, indent=1, allow_nan=False) + "\n")
    return int(gone.sum())


def _write(path: Path, text: str) -> None:
    whole = path.with_name(f".{path.name}.tmp")
    whole.write_text(text, encoding="utf-8")
    _replace(whole, path)


def _replace(whole: Path, path: Path) -> None:
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(path)
