"""Scored and quarantined rows in the form of the two tables, whichever job scored them.

This module knows the tables' columns and what they are made of; it neither scores nor writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from feature_pipelines.schema import RowError
from jobs.runs.row_json import rows_as_json
from jobs.runs.score_tables import QUARANTINE_SCHEMA, STAMPS
from jobs.tables.delta_types import as_stored
from udfs.platform import platform_id
from udfs.rows import ScoredRows

__all__ = ["constant", "count_positives", "quarantined_rows", "scored_rows"]


def scored_rows(
    batch: pa.RecordBatch,
    ids: pa.Array,
    rows: ScoredRows,
    stamps: Mapping[str, str],
    repeated: Sequence[str],
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Return the scored rows of a batch as the scored table holds them.

    Args:
        batch: n rows of the input.
        ids: of all n rows.
        rows: what became of them.
        stamps: the values of `STAMPS` but platform_id, which is this process's.
        repeated: input columns that the table repeats.
        schema: the table's.
    """
    n = len(rows.index)
    columns: dict[str, pa.Array] = {
        "row_id": ids,
        **{name: as_stored(name, batch.column(name)) for name in repeated},
    }
    if n < batch.num_rows:
        index = pa.array(rows.index)
        columns = {name: column.take(index) for name, column in columns.items()}
    if rows.as_of is not None:
        columns["as_of_ts"] = pa.array(rows.as_of, pa.timestamp("us", tz="UTC"))
    columns |= {name: pa.array(values, schema.field(name).type) for name, values in rows.outputs.items()}
    known = {**stamps, "platform_id": platform_id()}
    columns |= {name: constant(known[name], n) for name in STAMPS}
    columns["scored_at"] = _now(n)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], names=schema.names)


def quarantined_rows(
    originals: pa.RecordBatch,
    ids: pa.Array,
    errors: Sequence[RowError],
    files: pa.Array,
    ordinals: pa.Array,
    stamps: Mapping[str, str],
) -> pa.RecordBatch:
    """Return refused rows as the quarantine table holds them.

    Args:
        originals: the n refused rows as the input has them, with every column.
        ids: theirs.
        errors: theirs, in the same order; where they lie in a batch does not matter here.
        files, ordinals: where each is in the input.
        stamps: at least model_name, model_version and run_id.
    """
    n = len(errors)
    columns = {
        "row_id": ids,
        "code": pa.array([str(error.code) for error in errors], pa.string()),
        "field": pa.array([error.field for error in errors], pa.string()),
        "message": pa.array([error.message for error in errors], pa.string()),
        "row": pa.array(rows_as_json(originals), pa.string()),
        "source_file": files,
        "source_ordinal": ordinals,
        **{name: constant(stamps[name], n) for name in ("model_name", "model_version", "run_id")},
        "quarantined_at": _now(n),
    }
    return pa.RecordBatch.from_arrays(
        [columns[name] for name in QUARANTINE_SCHEMA.names], names=QUARANTINE_SCHEMA.names
    )


def count_positives(rows: ScoredRows) -> int:
    """Return how many rows have the label of the positive one of two classes."""
    label = rows.outputs.get("label")
    return int(np.count_nonzero(label)) if label is not None and label.dtype == np.bool_ else 0


def constant(value: str, n: int) -> pa.Array:
    """Return one text n times, dictionary-encoded."""
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(n, dtype=np.int32)), pa.array([value], pa.string())
    )


def _now(n: int) -> pa.Array:
    return pa.array(np.full(n, time.time_ns() // 1000), pa.timestamp("us", tz="UTC"))
