"""Windowed history over Arrow tables: events of a source by the contract, rows of a view in the form of its table.

A source row that breaks the contract is left out here, and `refused_rows` says which and why: the same check, so that what is left
out is exactly what is put aside. This module knows nothing of Spark or of where tables are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from feature_pipelines.columns import Bool, Column, Columns, Int64, Nullable, String, Timestamp, take
from feature_pipelines.errors import ContractError, DefinitionError
from feature_pipelines.history import HistoryRows, windowed_history
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS, IS_DELETED
from feature_pipelines.packed import TOMBSTONE, row_digests
from feature_pipelines.schema import Field, RowError, Schema
from feature_pipelines.schema_arrow import arrow_type, column_to_arrow, columns_from_arrow
from feature_pipelines.views import FeatureView

__all__ = [
    "IS_DELETED",
    "correction",
    "history_from_arrow",
    "refused_rows",
    "source_columns",
    "view_table_schema",
]

_UTC_US = pa.timestamp("us", tz="UTC")


def source_columns(view: FeatureView) -> list[str]:
    """Return the columns of a view's source: keys, event_ts, created_ts, source fields."""
    return [*view.keys, EVENT_TS, CREATED_TS, *_source(view).names]


def view_table_schema(view: FeatureView, source: pa.Schema) -> pa.Schema:
    """Return the schema of the table of a view with history, its keys as in the source (integers as int64)."""
    fields = [pa.field(name, _key_type(source.field(name).type), nullable=False) for name in view.keys]
    fields += [pa.field(name, _UTC_US, nullable=False) for name in (EVENT_TS, CREATED_TS)]
    fields += [pa.field(f.name, arrow_type(f.dtype)) for f in view.fields]
    return pa.schema([*fields, pa.field(IS_DELETED, pa.bool_(), nullable=False)])


def history_from_arrow(
    view: FeatureView,
    source: pa.Table,
    *,
    created_after: int | None = None,
    created_through: int | None = None,
) -> pa.Table:
    """Return rows of the view's table: see `windowed_history`. Source rows that break the contract are left out.

    Raises:
        ContractError: a sum beyond its type, or more rows than one Arrow array holds.
    """
    rows = _computed(view, source, created_after, created_through)
    return _as_table(view, rows, view_table_schema(view, source.schema))


def refused_rows(view: FeatureView, batch: pa.RecordBatch) -> list[RowError]:
    """Return the first error of each source row that breaks the contract, in row order."""
    _, errors = columns_from_arrow(_contract(view, batch.schema), batch)
    return list({error.row: error for error in reversed(errors)}.values())[::-1]


def correction(
    view: FeatureView, source: pa.Table, stored: pa.Table, *, created_after: int, corrected_at: int
) -> pa.Table:
    """Return what makes stored rows of some keys right, given all source rows of these keys as they are now.

    - New versions, of a created_ts after `created_after`, as `history_from_arrow` gives them.
    - A row at `corrected_at` where the newest version that is not new is not stored, or not so.
    - A tombstone at `corrected_at` where a stored row has no source row any more.

    Args:
        view: the declaration.
        source: source rows; those known after `corrected_at` do not count.
        stored: rows of the view's table.
        created_after: what the stored rows were built through, microseconds.
        corrected_at: microseconds, later than every stored created_ts.
    """
    schema = view_table_schema(view, source.schema)
    now = _as_table(view, _computed(view, source, None, corrected_at), schema)
    newest_now, newest_stored = _newest(view, now), _newest(view, stored)
    created = now.column(CREATED_TS).cast(pa.int64()).to_numpy()
    is_new = created > created_after
    wrong = [
        row
        for key, (_, digest, row) in newest_now.items()
        if not is_new[row] and newest_stored.get(key, (0, b"", 0))[1] != digest
    ]
    gone = [
        row
        for key, (_, digest, row) in newest_stored.items()
        if key not in newest_now and digest != TOMBSTONE
    ]
    tombstones = pa.table(
        {
            **{f.name: pa.nulls(len(gone), f.type) for f in schema},
            **{name: stored.column(name).take(pa.array(gone, pa.int64())) for name in (*view.keys, EVENT_TS)},
            CREATED_TS: pa.array(np.full(len(gone), corrected_at)).cast(_UTC_US),
            IS_DELETED: pa.array(np.ones(len(gone), dtype=np.bool_)),
        }
    ).select(schema.names)
    corrected = now.take(pa.array(wrong, pa.int64()))
    at = pa.array(np.full(len(wrong), corrected_at)).cast(_UTC_US)
    corrected = corrected.set_column(schema.get_field_index(CREATED_TS), schema.field(CREATED_TS), at)
    return pa.concat_tables([now.filter(pa.array(is_new)), corrected, tombstones.cast(schema)])


def _newest(view: FeatureView, table: pa.Table) -> dict[tuple[Any, ...], tuple[int, bytes, int]]:
    """Return by (keys, event_ts) the newest version: its created_ts, digest and position."""
    columns, errors = columns_from_arrow(view.fields, _one_batch(view, table.select(view.fields.names)))
    deleted = table.column(IS_DELETED).to_pylist()
    errors = [error for error in errors if not deleted[error.row]]
    if errors:
        raise ContractError(
            f"view {view.name!r}: {len(errors)} stored value(s) break its declaration, such as {errors[0].field}: "
            f"{errors[0].message}; it must be rebuilt"
        )
    digests = row_digests(view.fields, columns, deleted)
    created = table.column(CREATED_TS).cast(pa.int64()).to_pylist()
    keys = zip(
        *(table.column(name).to_pylist() for name in view.keys),
        table.column(EVENT_TS).cast(pa.int64()).to_pylist(),
        strict=True,
    )
    newest: dict[tuple[Any, ...], tuple[int, bytes, int]] = {}
    for row, key in enumerate(keys):
        version = (created[row], digests[row], row)
        if key not in newest or version > newest[key]:
            newest[key] = version
    return newest


def _computed(view: FeatureView, source: pa.Table, after: int | None, through: int | None) -> HistoryRows:
    batch = _one_batch(view, source)
    declared = _contract(view, batch.schema)
    columns, errors = columns_from_arrow(declared, batch)
    if errors:
        keep = np.delete(np.arange(batch.num_rows), sorted({error.row for error in errors}))
        columns = {name: take(column, keep) for name, column in columns.items()}
    event_ts, created_ts = (np.asarray(columns[name]) for name in (EVENT_TS, CREATED_TS))
    fields: Columns = {f.name: columns[f.name] for f in _source(view)}
    keys: list[Column] = [columns[name] for name in view.keys]
    return windowed_history(
        view, keys, event_ts, created_ts, fields, created_after=after, created_through=through
    )


def _as_table(view: FeatureView, rows: HistoryRows, schema: pa.Schema) -> pa.Table:
    n = len(rows)
    columns: dict[str, pa.Array] = {}
    for name, key in zip(view.keys, rows.keys, strict=True):
        columns[name] = column_to_arrow(Field(name, _key_annotation(schema.field(name).type)), key)
    for name, time in ((EVENT_TS, rows.event_ts), (CREATED_TS, rows.created_ts)):
        columns[name] = column_to_arrow(Field(name, Timestamp), time)
    columns |= {f.name: column_to_arrow(f, rows.fields[f.name]) for f in view.fields}
    columns[IS_DELETED] = column_to_arrow(Field(IS_DELETED, Bool), np.zeros(n, dtype=np.bool_))
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _contract(view: FeatureView, found: pa.Schema) -> Schema:
    keys = tuple(Field(name, _key_annotation(found.field(name).type)) for name in view.keys)
    return Schema((*keys, Field(EVENT_TS, Timestamp), Field(CREATED_TS, Timestamp), *_source(view)))


def _source(view: FeatureView) -> Schema:
    if view.source is None:
        raise DefinitionError(f"view {view.name!r} declares no history")
    return view.source


def _key_type(type_: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_integer(type_) else pa.string()


def _key_annotation(type_: pa.DataType) -> Any:
    return Nullable[Int64] if pa.types.is_integer(type_) else Nullable[String]


def _one_batch(view: FeatureView, table: pa.Table) -> pa.RecordBatch:
    whole = table.combine_chunks().to_batches()
    if len(whole) > 1:
        raise ContractError(f"view {view.name!r}: {table.num_rows} rows at once do not fit one Arrow array")
    return whole[0] if whole else pa.RecordBatch.from_pylist([], schema=table.schema)
