"""Rows of a view's table on their way to an online store: read by the contract, reduced to the newest of each key, encoded.

Pure functions over one Arrow batch or the columns of one. Rows that break the contract are told apart and counted; they are
never stored. This module knows no store and no Spark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Bool,
    Column,
    Int64,
    Nullable,
    String,
    Strings,
    Timestamp,
    concat,
    take,
    values_and_valid,
)
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS, IS_DELETED, view_columns
from feature_pipelines.packed import TOMBSTONE
from feature_pipelines.schema import Field, Schema
from feature_pipelines.schema_arrow import columns_from_arrow
from feature_pipelines.stores.base import Key, StoredRow
from feature_pipelines.stores.encoding import encode_rows, payload_digest
from feature_pipelines.views import FeatureView

__all__ = ["IS_DELETED", "ViewRows", "concat_rows", "newest", "read_batch", "stored", "table_columns"]


@dataclass(frozen=True)
class ViewRows:
    """Good rows of a view: columns of equal length.

    Args:
        keys: the key columns, in the order of `view.keys`; no null.
        event_ts, created_ts: int64 microseconds.
        is_deleted: which are tombstones.
        fields: by name.
    """

    keys: tuple[Column, ...]
    event_ts: NDArray[np.int64]
    created_ts: NDArray[np.int64]
    is_deleted: NDArray[np.bool_]
    fields: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.event_ts)

    def take(self, index: NDArray[Any]) -> ViewRows:
        """Return the rows that an index or a mask selects."""
        return ViewRows(
            tuple(take(key, index) for key in self.keys),
            self.event_ts[index],
            self.created_ts[index],
            self.is_deleted[index],
            {name: take(column, index) for name, column in self.fields.items()},
        )


def table_columns(view: FeatureView, available: Sequence[str]) -> list[str]:
    """Return the columns to read of a view's table."""
    return [*view_columns(view), *([IS_DELETED] if IS_DELETED in available else [])]


def read_batch(
    view: FeatureView, batch: pa.RecordBatch, *, after_ts: int | None, through_ts: int
) -> tuple[ViewRows, int, Counter[str]]:
    """Return the good rows that became visible in (after_ts, through_ts].

    A row whose key has a null is left out: no request ever finds it.

    Args:
        view: the declaration.
        batch: rows of its table.
        after_ts: microseconds, None = from the beginning.
        through_ts: microseconds.

    Returns:
        The rows; how many broke the contract; and per "CODE field" how often. A row without readable times counts only where
        `after_ts` is None: it was counted when its file was new.
    """
    keys = tuple(Field(name, _key_type(batch.schema.field(name).type)) for name in view.keys)
    times = (Field(EVENT_TS, Timestamp), Field(CREATED_TS, Timestamp))
    declared = Schema((*keys, *times, Field(IS_DELETED, Nullable[Bool]), *view.fields))
    columns, errors = columns_from_arrow(declared, batch)
    event_ts, created_ts = (np.asarray(columns[name]) for name in (EVENT_TS, CREATED_TS))
    tombstones = cast(Nullable[Any], columns[IS_DELETED])
    is_deleted = tombstones.values & tombstones.valid
    errors = [error for error in errors if not (is_deleted[error.row] and error.field in view.fields)]
    visible = np.maximum(event_ts, created_ts)
    inside = visible <= through_ts
    if after_ts is not None:
        inside &= visible > after_ts
    timeless = {error.row for error in errors if error.field in (EVENT_TS, CREATED_TS)}
    counted = [
        error for error in errors if (after_ts is None if error.row in timeless else bool(inside[error.row]))
    ]
    inside[[error.row for error in errors]] = False
    for name in view.keys:
        valid = values_and_valid(columns[name])[1]
        if valid is not None:
            inside &= valid
    rows = ViewRows(
        tuple(values_and_valid(columns[name])[0] for name in view.keys),
        event_ts,
        created_ts,
        is_deleted,
        {f.name: columns[f.name] for f in view.fields},
    )
    reasons = Counter(f"{error.code} {error.field}".strip() for error in counted)
    return rows.take(np.flatnonzero(inside)), len({error.row for error in counted}), reasons


def newest(rows: ViewRows) -> ViewRows:
    """Return of each key the rows with the greatest (event_ts, created_ts): several where these are equal."""
    if not len(rows):
        return rows
    codes = [_codes(key) for key in rows.keys]
    order = np.lexsort((rows.created_ts, rows.event_ts, *codes))
    by_key = [code[order] for code in codes]
    same_key = np.all([code[1:] == code[:-1] for code in by_key], axis=0)
    event_ts, created_ts = rows.event_ts[order], rows.created_ts[order]
    same_time = (event_ts[1:] == event_ts[:-1]) & (created_ts[1:] == created_ts[:-1])
    # from the last row of each key backwards, as long as the times are those of the last
    last = np.append(~same_key, True)
    group = np.cumsum(np.append(True, ~(same_key & same_time)))
    keep = np.isin(group, group[last])
    return rows.take(np.sort(order[keep]))


def concat_rows(parts: Sequence[ViewRows]) -> ViewRows:
    """Return the rows of all parts, at least one."""
    if len(parts) == 1:
        return parts[0]
    return ViewRows(
        tuple(concat(list(columns)) for columns in zip(*(part.keys for part in parts), strict=True)),
        np.concatenate([part.event_ts for part in parts]),
        np.concatenate([part.created_ts for part in parts]),
        np.concatenate([part.is_deleted for part in parts]),
        {name: concat([part.fields[name] for part in parts]) for name in parts[0].fields},
    )


def stored(view: FeatureView, rows: ViewRows) -> tuple[list[Key], list[StoredRow]]:
    """Return the rows as a store takes them: keys, and rows with digest and payload."""
    payloads = encode_rows(view, rows.fields, len(rows))
    digests = list(map(payload_digest, payloads))
    for i in np.flatnonzero(rows.is_deleted).tolist():
        payloads[i], digests[i] = b"", TOMBSTONE
    keys: list[Key] = list(zip(*(_values(key) for key in rows.keys), strict=True))
    times = (rows.event_ts.tolist(), rows.created_ts.tolist())
    return keys, list(map(StoredRow, *times, digests, rows.is_deleted.tolist(), payloads))


def _key_type(type_: pa.DataType) -> Any:
    return Nullable[Int64] if pa.types.is_integer(type_) else Nullable[String]


def _values(key: Column) -> list[Any]:
    values: list[Any] = key.tolist()  # type: ignore[union-attr]  # a key has no nulls left
    return values


def _codes(key: Column) -> NDArray[np.int64]:
    """Return integers that are equal where the key's values are."""
    if not isinstance(key, Strings):
        return np.asarray(key, dtype=np.int64)
    position: dict[str, int] = {}
    of_category = [position.setdefault(text, len(position)) for text in key.categories]
    return np.array(of_category, dtype=np.int64)[key.codes]
