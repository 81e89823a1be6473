"""Rows that come as text, JSON objects a line or cells of CSV, as Arrow columns of the declared types.

A value is read as the wire form is read online (see `feature_pipelines.schema`), by the same parser, so an integer, a time or a
decimal means the same on every path, and what a server would refuse is refused here with the same code. Bounds and nulls are left
to the kernel. This module does not know where lines come from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines import columns as c
from feature_pipelines.columns import Nullable
from feature_pipelines.errors import did_you_mean
from feature_pipelines.schema import Field, Reason, RowError, Schema, build_column
from feature_pipelines.schema_arrow import arrow_type, column_to_arrow
from jobs.online.csv_text import cell_value

__all__ = ["cells_as_batch", "lines_as_batch", "loosened", "type_of"]


class _Repeated(dict[str, Any]):
    """A JSON object that has a key twice."""


def lines_as_batch(
    lines: Sequence[str | bytes | None], declared: Schema
) -> tuple[pa.RecordBatch, list[RowError]]:
    """Return lines of JSON, an object each, as columns of the declared types, and the errors of rows that cannot be read.

    Args:
        lines: n of them.
        declared: every field that a row may bring; one that it does not bring is null.
    """
    rows: list[Mapping[str, Any]] = []
    errors: list[RowError] = []
    known = set(declared.names)
    for i, line in enumerate(lines):
        row, error = _parsed(i, line, known)
        rows.append(row)
        if error is not None:
            errors.append(error)
    return _as_batch(rows, declared, errors)


def cells_as_batch(cells: pa.RecordBatch, declared: Schema) -> tuple[pa.RecordBatch, list[RowError]]:
    """Return columns of text as columns of the declared types, and the errors of rows that cannot be read.

    Args:
        cells: n rows, of strings; null where nothing stood between two commas. Columns that are not declared are left out.
        declared: the fields; one that is not among the cells is null.
    """
    present = [f for f in declared if f.name in cells.schema.names]
    columns = [_values(f, cells.column(f.name)) for f in present]
    names = [f.name for f in present]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return _as_batch(rows if names else [{}] * cells.num_rows, declared, [])


def loosened(declared: Field) -> Field:
    """Return the field as one that takes every value of its type, null included, in or out of bounds."""
    nullable: Any = Nullable
    as_is = declared.nullable or declared.dtype.is_float
    return dataclasses.replace(
        declared,
        type=declared.type if as_is else nullable[declared.type],
        required=False,
        minimum=None,
        maximum=None,
        infinite=declared.dtype.is_float,
    )


def type_of(type_: pa.DataType) -> Any:
    """Return the declared type by which text becomes a column of an Arrow type; text stays text where there is none."""
    nullable: Any = Nullable
    if pa.types.is_decimal(type_) and type_.precision <= 18:
        return nullable[Annotated[NDArray[np.int64], c.decimal(type_.precision, type_.scale)]]
    if pa.types.is_timestamp(type_):
        return nullable[c.Timestamp]
    return _TYPES.get(type_, nullable[c.String])


_ANY: Any = Nullable
_TYPES: dict[pa.DataType, Any] = {
    pa.int64(): _ANY[c.Int64],
    pa.int32(): _ANY[c.Int32],
    pa.float64(): c.Float64,
    pa.float32(): c.Float32,
    pa.bool_(): _ANY[c.Bool],
    pa.binary(): _ANY[c.Binary],
}


def _parsed(i: int, line: str | bytes | None, known: set[str]) -> tuple[Mapping[str, Any], RowError | None]:
    if line is None:
        return {}, RowError(i, Reason.UNREADABLE_ROW, "", "the row is null")
    try:
        text = line.decode() if isinstance(line, bytes) else line
        row = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {}, RowError(i, Reason.UNREADABLE_ROW, "", "the row is not valid UTF-8 JSON")
    if not isinstance(row, dict):
        return {}, RowError(i, Reason.UNREADABLE_ROW, "", "the row is not an object")
    if isinstance(row, _Repeated):
        return {}, RowError(i, Reason.UNREADABLE_ROW, "", "the row has a field more than once")
    unknown = next((name for name in row if name not in known), None)
    if unknown is None:
        return row, None
    message = f"unknown field.{did_you_mean(unknown, known)}"
    return row, RowError(i, Reason.UNKNOWN_FIELD, unknown, message)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else _Repeated(members)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _values(declared: Field, cells: pa.Array) -> list[Any]:
    """Return cells in the wire form; what is no text (somebody made it a number) is taken as it is."""
    values = cells.to_pylist()
    return [cell_value(declared.dtype.kind, v) if isinstance(v, str) else v for v in values]


def _as_batch(
    rows: Sequence[Mapping[str, Any]], declared: Schema, errors: list[RowError]
) -> tuple[pa.RecordBatch, list[RowError]]:
    arrays = []
    for known in declared:
        field = loosened(known)
        values = [row.get(field.name) for row in rows]
        column, broken = build_column(field, values)
        errors.extend(broken)
        arrays.append(_array(field, column, values))
    batch = pa.RecordBatch.from_arrays(arrays, names=list(declared.names)) if arrays else pa.record_batch([])
    return batch, sorted(errors, key=lambda error: error.row)


def _array(declared: Field, column: Any, values: Sequence[Any]) -> pa.Array:
    """Return the column as Arrow; a float's null is null and its NaN is NaN there, as in a table."""
    if declared.dtype.is_float:
        mask = np.array([value is None for value in values], dtype=np.bool_)
        return pa.array(np.asarray(column), arrow_type(declared.dtype), mask=mask)
    return column_to_arrow(declared, column)
