"""Rows in the wire form as Arrow tables, for paths that take columns: what is typed and in the input, checked by nobody yet.

The model's own contract is to refuse what it refuses on every path alike, so bounds and nulls pass here, and only what no Arrow
column of the declared type can hold (a text where a number is declared) is refused before it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, build_column
from feature_pipelines.schema_arrow import arrow_type, column_to_arrow
from jobs.proof.path_answers import Answer, Row
from jobs.runs.wire_rows import loosened

__all__ = ["ROW", "expressed", "placed"]

ROW = "onescore_proof_row"
"""The column by which a row is found again where a path keeps no order."""


def expressed(feature_set: FeatureSet, rows: Sequence[Row]) -> tuple[pa.Table, dict[int, Answer]]:
    """Return the rows as a table of the declared types, with their positions, and the answers to those that it cannot hold.

    Args:
        feature_set: declares the fields; a field that a row does not bring is null.
        rows: n rows in the wire form.
    """
    refused: dict[int, Answer] = {}
    arrays: list[pa.Array] = []
    for declared in feature_set.sources:
        loose = loosened(declared)
        column, errors = build_column(loose, [row.get(declared.name) for row in rows])
        for error in errors:
            refused.setdefault(error.row, Answer(code=str(error.code), field=error.field))
        arrays.append(_array(loose, column, [row.get(declared.name) is None for row in rows]))
    table = pa.table(dict(zip(feature_set.sources.names, arrays, strict=True)))
    table = table.append_column(ROW, pa.array(np.arange(len(rows))))
    return (table.take([i for i in range(len(rows)) if i not in refused]) if refused else table), refused


def placed(n_rows: int, *parts: dict[int, Answer]) -> list[Answer]:
    """Return the answers by their rows' positions, in order; a row that has none is an answer of that kind too.

    Args:
        n_rows: how many rows were asked.
        parts: by position; of two answers to one row the first counts.
    """
    nothing = Answer(code="NO_ANSWER")
    return [next((part[i] for part in parts if i in part), nothing) for i in range(n_rows)]


def _array(declared: Field, column: Any, null: Sequence[bool]) -> pa.Array:
    """Return the column as Arrow; a float's null is null and its NaN is NaN there, as in a table."""
    if declared.dtype.is_float:
        return pa.array(np.asarray(column), arrow_type(declared.dtype), mask=np.array(null, dtype=np.bool_))
    return column_to_arrow(declared, column)
