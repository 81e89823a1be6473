"""A view's rows from Arrow into the look-up index, by the same contract as requests."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Bool, Column, Int64, Nullable, String, Timestamp, values_and_valid
from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import AsOfIndex
from feature_pipelines.schema import Field, RowError, Schema
from feature_pipelines.schema_arrow import column_from_arrow, columns_from_arrow

__all__ = [
    "CREATED_TS",
    "EVENT_TS",
    "IS_DELETED",
    "ViewRows",
    "index_from_arrow",
    "key_type",
    "view_columns",
    "view_rows",
]

EVENT_TS, CREATED_TS, IS_DELETED = "event_ts", "created_ts", "is_deleted"


def view_columns(view: FeatureView) -> list[str]:
    """Return the columns that a view's table must have: keys, event_ts, created_ts, fields. It may have `is_deleted` too."""
    return [*view.keys, EVENT_TS, CREATED_TS, *view.fields.names]


def index_from_arrow(view: FeatureView, table: pa.Table) -> AsOfIndex:
    """Index the rows of a view's table; all of it is held in memory.

    Args:
        view: the declaration.
        table: the columns of `view_columns` and, where rows may be tombstones, `is_deleted`.

    Raises:
        ContractError: a column is missing, a row breaks the view's declaration (names the reasons and how many rows), or the
            table is too large.
    """
    _require_columns(view, table.schema, view_columns(view))
    wanted = [name for name in (*view_columns(view), IS_DELETED) if name in table.schema.names]
    whole = table.select(wanted).combine_chunks().to_batches()
    if len(whole) > 1:
        raise ContractError(
            f"view {view.name!r}: its table has a column too large for one Arrow array, so it fits no index"
        )
    batch = whole[0] if whole else pa.RecordBatch.from_pylist([], schema=table.select(wanted).schema)
    rows = view_rows(view, batch)
    return AsOfIndex.build(view, rows.keys, rows.event_ts, rows.created_ts, rows.fields, rows.is_deleted)


class ViewRows(NamedTuple):
    """Rows of a view's table in memory: keys String or Int64, times int64 microseconds; a tombstone's fields mean nothing."""

    keys: list[Column]
    event_ts: NDArray[np.int64]
    created_ts: NDArray[np.int64]
    fields: dict[str, Column]
    is_deleted: NDArray[np.bool_] | None


def view_rows(view: FeatureView, batch: pa.RecordBatch, *, times_only: bool = False) -> ViewRows:
    """Read rows of a view's table by the contract. A row whose `is_deleted` is true is a tombstone; null is false.

    Args:
        view: the declaration.
        batch: the columns of `view_columns`, and perhaps `is_deleted`.
        times_only: read keys and times alone; the batch may lack the others.

    Raises:
        ContractError: a column is missing, or a row breaks the view's declaration (names the reasons and how many rows). A
            tombstone's fields cannot break it.
    """
    times = Schema((Field(EVENT_TS, Timestamp), Field(CREATED_TS, Timestamp)))
    _require_columns(view, batch.schema, [*view.keys, *times.names] if times_only else view_columns(view))
    keys = [Field(name, key_type(batch.schema.field(name).type)) for name in view.keys]
    columns, errors = columns_from_arrow(Schema((*keys, *times)), batch)
    fields: dict[str, Column] = {}
    is_deleted = None
    if not times_only:
        is_deleted = _tombstones(view, batch)
        fields, broken = columns_from_arrow(view.fields, batch)
        errors += [error for error in broken if is_deleted is None or not is_deleted[error.row]]
    _refuse(view, errors)
    event_ts, created_ts = (np.asarray(columns[name]) for name in times.names)
    return ViewRows([columns[name] for name in view.keys], event_ts, created_ts, fields, is_deleted)


def _require_columns(view: FeatureView, schema: pa.Schema, names: list[str]) -> None:
    missing = sorted(set(names) - set(schema.names))
    if missing:
        raise ContractError(
            f"view {view.name!r}: its table lacks {', '.join(missing)}. It has: {', '.join(schema.names)}",
            missing=missing,
        )


def _tombstones(view: FeatureView, batch: pa.RecordBatch) -> NDArray[np.bool_] | None:
    """Return which rows are tombstones; None where none is."""
    if IS_DELETED not in batch.schema.names:
        return None
    column, errors = column_from_arrow(Field(IS_DELETED, Nullable[Bool]), batch.column(IS_DELETED))
    _refuse(view, errors)
    values: Any
    values, valid = values_and_valid(column)
    is_deleted: NDArray[np.bool_] = values & valid
    return is_deleted if is_deleted.any() else None


def key_type(type_: pa.DataType) -> Any:
    """Return the declared type of a key column: an integer of any width, else a string."""
    return Nullable[Int64] if pa.types.is_integer(type_) else Nullable[String]


def _refuse(view: FeatureView, errors: list[RowError]) -> None:
    if errors:
        reasons = sorted({f"{error.code} in {error.field} ({error.message})" for error in errors})
        raise ContractError(
            f"view {view.name!r}: {len({e.row for e in errors})} row(s) of its table break its declaration: "
            f"{'; '.join(reasons[:5])}",
            reasons=reasons,
        )
