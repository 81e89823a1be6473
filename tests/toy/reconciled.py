"""A prediction log of the toy model as a replay leaves it, altered here and there, and what a reconciliation said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.proof.skew import SkewReport
from tests.toy.workspace import Workspace
from udfs.prediction_schema import SCHEMA

__all__ = ["alter", "comparable", "log_of", "logged_files", "newest_report"]


def log_of(place: Workspace) -> Path:
    """Return the directory of its one log."""
    (log,) = (place.root / ".onescore" / "replays").iterdir()
    return log


def logged_files(place: Workspace, model: str = "houses") -> list[Path]:
    """Return the log's files of a model."""
    return sorted((log_of(place) / model).glob("date=*/part-*.parquet"))


def alter(
    place: Workspace, change: Callable[[dict[str, Any]], bool], model: str = "houses"
) -> list[dict[str, Any]]:
    """Change rows of the log in place; return those for which `change` said so."""
    changed = []
    for file in logged_files(place, model):
        rows = pq.read_table(file, partitioning=None).to_pylist()
        changed += [row for row in rows if change(row)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)
    return changed


def newest_report(place: Workspace, model: str = "houses") -> tuple[SkewReport, Path]:
    """Return what the newest reconciliation found, and the directory of its files."""
    directory = max((place.root / ".onescore" / "skew" / model).iterdir())
    return SkewReport.from_json(json.loads((directory / "report.json").read_text())), directory


def comparable(report: SkewReport) -> dict[str, Any]:
    """What two reports of the same log have in common: not when and how fast they were made, nor the commands."""
    said = report.to_json()
    return {name: said[name] for name in said.keys() - {"created_ts", "rates", "repair", "worst"}} | {
        "decisions of the repair": said["repair"]["decisions"],
        "worst": sorted(said["worst"], key=repr),
    }
