"""A view's rows from Arrow into the look-up index, by the same contract as requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from feature_pipelines.columns import Int64, Nullable, String, Timestamp
from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import AsOfIndex
from feature_pipelines.schema import Field, RowError, Schema
from feature_pipelines.schema_arrow import columns_from_arrow, missing_columns

__all__ = ["CREATED_TS", "EVENT_TS", "index_from_arrow", "view_columns"]

EVENT_TS, CREATED_TS = "event_ts", "created_ts"


def view_columns(view: FeatureView) -> list[str]:
    """Return the columns that a view's table must have: keys, event_ts, created_ts, fields."""
    return [*view.keys, EVENT_TS, CREATED_TS, *view.fields.names]


def index_from_arrow(view: FeatureView, table: pa.Table) -> AsOfIndex:
    """Index the rows of a view's table; all of it is held in memory.

    Raises:
        ContractError: a column is missing, a row breaks the view's declaration (names the reasons and how many rows), or the
            table is too large.
    """
    missing = sorted(set(view_columns(view)) - set(table.schema.names))
    if missing:
        raise ContractError(
            f"view {view.name!r}: its table lacks {', '.join(missing)}. It has: {', '.join(table.schema.names)}",
            missing=missing,
        )
    keys = tuple(Field(name, _key_type(table.schema.field(name).type)) for name in view.keys)
    declared = Schema((*keys, Field(EVENT_TS, Timestamp), Field(CREATED_TS, Timestamp), *view.fields))
    missing_columns(declared, table.schema.names)
    whole = table.select(declared.names).combine_chunks().to_batches()
    if len(whole) > 1:
        raise ContractError(
            f"view {view.name!r}: its table has a column too large for one Arrow array, so it fits no index"
        )
    batch = whole[0] if whole else pa.RecordBatch.from_pylist([], schema=table.select(declared.names).schema)
    columns, errors = columns_from_arrow(declared, batch)
    _refuse(view, errors)
    event_ts, created_ts = (np.asarray(columns[name]) for name in (EVENT_TS, CREATED_TS))
    fields = {f.name: columns[f.name] for f in view.fields}
    return AsOfIndex.build(view, [columns[name] for name in view.keys], event_ts, created_ts, fields)


def _key_type(type_: pa.DataType) -> Any:
    return Nullable[Int64] if pa.types.is_integer(type_) else Nullable[String]


def _refuse(view: FeatureView, errors: list[RowError]) -> None:
    if errors:
        reasons = sorted({f"{error.code} in {error.field} ({error.message})" for error in errors})
        raise ContractError(
            f"view {view.name!r}: {len({e.row for e in errors})} row(s) of its table break its declaration: "
            f"{'; '.join(reasons[:5])}",
            reasons=reasons,
        )
