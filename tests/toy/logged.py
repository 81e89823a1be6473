"""A prediction log of the toy model, written by the log itself, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from udfs.answered import Answered, LoggedModel
from udfs.prediction_log import PredictionLog
from udfs.prediction_rows import PiiPolicy
from udfs.prediction_schema import SCHEMA

__all__ = ["logged_requests", "write_log"]

FIELDS = ("house_id", "asked_ts", "area_m2", "rooms", "town")


def write_log(
    directory: Path,
    files: Sequence[tuple[int, Sequence[dict[str, Any]]]],
    *,
    pii: PiiPolicy | None = None,
    pii_fields: frozenset[str] = frozenset(),
    is_closed: bool = True,
) -> PredictionLog:
    """Write a file for each (served_ts, rows); leave the log open if more is to be written."""
    model = LoggedModel("houses", "1", "d", "f", "p", "c", (), FIELDS, ("house_id",), pii_fields, frozenset())
    log = PredictionLog(directory, lambda: 1, flush_seconds=3_600.0, pii=pii)
    for served_ts, rows in files:
        n = len(rows)
        answers = [{"score": float(i)} for i in range(n)]
        log.write(
            Answered(
                model,
                served_ts,
                [served_ts] * n,
                rows,
                answers,
                np.zeros((0, n)),
                range(n),
                {},
                {},
                (0, 0, 0),
            )
        )
        log.flush()
    if is_closed:
        log.close()
    return log


def logged_requests(directory: Path) -> list[dict[str, str]]:
    """Return the request of every row of the toy model's log, by process and number."""
    files = sorted((directory / "houses").glob("date=*/part-*.parquet"))
    rows = ds.dataset(files, schema=SCHEMA).to_table().to_pylist() if files else []
    return [dict(row["request"]) for row in sorted(rows, key=lambda row: (row["process"], row["sequence"]))]
