"""Stored feature views of a run: pinned as they are now, and read into the index for the look-up in the kernel."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import AsOfIndex
from feature_pipelines.lookup_arrow import IS_DELETED, index_from_arrow, view_columns
from jobs.runs.settings import ScoreSettings
from jobs.tables.snapshot import Snapshot, pin_snapshot, plan_units, read_unit

__all__ = ["fits_index", "index_view", "pin_view"]

_ROWS = 1_000_000


def pin_view(view: FeatureView, table: str, spark: Any = None, *, version: int | None = None) -> Snapshot:
    """Return the snapshot of a view's table as it is now, or as it was at a version.

    Raises:
        TableError: there is no such table. ContractError: it lacks columns of the view.
    """
    snapshot = pin_snapshot(table, version=version, spark=spark)
    missing = sorted(set(view_columns(view)) - set(snapshot.schema.names))
    if missing:
        raise ContractError(
            f"view {view.name!r}: table {table} lacks {', '.join(missing)}. It has: {', '.join(snapshot.schema.names)}",
            missing=missing,
        )
    return snapshot


def fits_index(snapshot: Snapshot, settings: ScoreSettings) -> bool:
    """Return whether a view's table may be held in memory by every worker's machine, as the settings say."""
    if sum(file.size for file in snapshot.files) > settings.max_index_bytes:
        return False
    return sum(unit.rows for unit in plan_units(snapshot, unit_rows=_ROWS)) <= settings.max_index_rows


def index_view(view: FeatureView, snapshot: Snapshot) -> AsOfIndex:
    """Read a view's pinned table and index it for look-ups; all of it is held in memory."""
    names = [name for name in (*view_columns(view), IS_DELETED) if name in snapshot.schema.names]
    batches = [
        pa.RecordBatch.from_arrays([_decoded(batch.column(name)) for name in names], names=names)
        for unit in plan_units(snapshot, unit_rows=_ROWS)
        for batch in read_unit(unit, names, batch_rows=_ROWS, schema=snapshot.schema)
    ]
    empty = pa.schema([snapshot.schema.field(name) for name in names]).empty_table()
    return index_from_arrow(view, pa.Table.from_batches(batches) if batches else empty)


def _decoded(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
