"""Rows of a prediction log, made without a server: what a dashboard reads, with every field as a test wants it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from udfs.prediction_files import write_file

__all__ = ["MINUTE", "NOW", "answered", "log_table", "mixed_rows", "write_rows"]

MINUTE = 60_000_000
NOW = 1_795_786_205_000_000
"""2026-11-27T13:30:05Z, in the middle of a cell of ten seconds."""

_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    [
        *(("process", _TEXT), ("sequence", pa.int64()), ("served_ts", _TIME), ("as_of_ts", _TIME)),
        *(("model", _TEXT), ("model_version", _TEXT), ("request", pa.map_(_TEXT, _TEXT))),
        *(("statuses", pa.map_(_TEXT, _TEXT)), ("event_ts", pa.map_(_TEXT, _TIME))),
        *(("overrides", pa.list_(_TEXT)), ("score", pa.float64()), ("label", pa.bool_())),
        *(("class_label", _TEXT), ("class_scores", pa.map_(_TEXT, pa.float64()))),
        *(("error_code", _TEXT), ("error_field", _TEXT), ("request_rows", pa.int32())),
        *(("lookup_us", pa.int64()), ("features_us", pa.int64()), ("model_us", pa.int64())),
    ]
)


def answered(sequence: int, served_ts: int, **fields: Any) -> dict[str, Any]:
    """Return one logged row; what is not given is of an answer without stored features."""
    row: dict[str, Any] = {
        "process": "1-1-aa",
        "sequence": sequence,
        "served_ts": served_ts,
        "as_of_ts": served_ts,
        "model": "toy",
        "model_version": "1",
        "request": {"id": json.dumps(f"row-{sequence}")},
        "statuses": {},
        "event_ts": {},
        "overrides": [],
        "score": 0.5,
        "label": None,
        "class_label": None,
        "class_scores": None,
        "error_code": None,
        "error_field": None,
        "request_rows": 1,
        "lookup_us": 100 + sequence,
        "features_us": 20,
        "model_us": 7,
    }
    return row | fields


def log_table(rows: Sequence[Mapping[str, Any]], *, without: Iterable[str] = ()) -> pa.Table:
    """Return rows as a file of the log has them.

    Args:
        rows: see `answered`.
        without: columns that an older log did not have.
    """
    maps = {f.name for f in _SCHEMA if pa.types.is_map(f.type)}
    columns = {
        f.name: [
            list(row[f.name].items()) if f.name in maps and row[f.name] is not None else row[f.name]
            for row in rows
        ]
        for f in _SCHEMA
    }
    kept = [f for f in _SCHEMA if f.name not in without]
    return pa.table([pa.array(columns[f.name], f.type) for f in kept], schema=pa.schema(kept))


def write_rows(directory: Path, rows: Sequence[Mapping[str, Any]], model: str = "toy") -> Path:
    """Write a file of a log, named as its process and numbers say; return its path."""
    first, last = rows[0], rows[-1]
    date = datetime.datetime.fromtimestamp(first["served_ts"] / 1e6, datetime.UTC).date()
    name = f"part-{first['process']}-{first['sequence']:012d}-{last['sequence']:012d}.parquet"
    path = directory / model / f"date={date}" / name
    write_file(path, log_table(rows))
    return path


def mixed_rows(n: int, kind: str, seed: int = 1, now: int = NOW) -> list[dict[str, Any]]:
    """Return answers of the last 70 minutes, ascending: of a model of two classes, of several, or of a regression.

    Some are refused; of the others some find no stored row; several are scored together.
    """
    rng = np.random.default_rng(seed)
    served = np.sort(rng.integers(now - 70 * MINUTE, now, n)).tolist()
    rows = []
    for i, at in enumerate(served):
        together = i // 2 if kind == "several" else i
        at = served[together * 2] if kind == "several" else at
        refused = bool(rng.random() < 0.1)
        status = "PRESENT" if rng.random() < 0.7 else ("NOT_FOUND" if rng.random() < 0.5 else "EXPIRED")
        score = float(rng.normal(500, 100) if kind == "regression" else rng.random())
        fields: dict[str, Any] = {
            "process": "1-1-aa" if i % 3 else "2-2-bb",
            "model_version": "2" if i > n // 2 else "1",
            "statuses": {"rates": "PRESENT" if refused else status},
            "event_ts": {}
            if refused or status == "NOT_FOUND"
            else {"rates": at - int(rng.integers(1, 10**11))},
            "score": None if refused else score,
            "error_code": str(rng.choice(["OUT_OF_RANGE", "NULL_NOT_ALLOWED"])) if refused else None,
            "request_rows": 2 if kind == "several" else 1,
            "lookup_us": int(rng.integers(1, 10_000)) if kind != "several" else 1_000 + together,
            "model_us": int(rng.integers(1, 1_000)) if kind != "several" else 10,
        }
        if not refused and kind == "two":
            fields["label"] = score >= 0.5
        if not refused and kind == "several":
            fields["class_label"] = str(rng.integers(0, 10))
            fields["process"] = "1-1-aa" if together % 3 else "2-2-bb"
        rows.append(answered(i + 1, at, **fields))
    return rows
