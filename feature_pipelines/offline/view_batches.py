"""A view's rows on their way into a shuffle: checked by the contract and brought into the one form in which bits can be compared.

`ViewBatches` is a function for `mapInArrow`. Keys become long or string, times integer microseconds, values what the in-memory form
holds, so that what Spark sorts and compares is what an index would. A digest costs microseconds and is the last word on ties
alone, so only rows that the caller knows to be tied get one. This module knows Arrow, not Spark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Strings, take, values_and_valid
from feature_pipelines.lookup_arrow import ViewRows, view_rows
from feature_pipelines.packed import row_digests
from feature_pipelines.schema import Field
from feature_pipelines.schema_arrow import column_to_arrow
from feature_pipelines.views import FeatureView

__all__ = [
    "CREATED",
    "DELETED",
    "DIGEST",
    "EVENT",
    "Ties",
    "ViewBatches",
    "key_array",
    "key_names",
    "value_names",
]

EVENT, CREATED, DIGEST, DELETED = "__event", "__created", "__digest", "__deleted"

Ties = frozenset[tuple[Any, ...]]
"""Each the keys, event_ts and created_ts (microseconds) that several rows share."""


def key_names(view: FeatureView) -> list[str]:
    """Return what the columns of the view's keys are called on the way: names that no table has."""
    return [f"__key{i}" for i in range(len(view.keys))]


def value_names(view: FeatureView) -> list[str]:
    """Return what the columns of the view's fields are called on the way."""
    return [f"__value{i}" for i in range(len(view.fields.names))]


@dataclass(frozen=True)
class ViewBatches:
    """Turns batches of a view's table into canonical ones; rows with a null key, which are never found, are left out.

    Args:
        view: the declaration.
        ties: which rows get a digest; None = all.
        times_only: give keys, event_ts and created_ts alone.
    """

    view: FeatureView
    ties: Ties | None = frozenset()
    times_only: bool = False

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield one canonical batch for each.

        Raises:
            ContractError: a row breaks the view's declaration.
        """
        for batch in batches:
            yield self.canonical(batch)

    def canonical(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch's rows; see the class."""
        rows = _with_keys(view_rows(self.view, batch, times_only=self.times_only))
        columns: dict[str, pa.Array] = {
            **dict(zip(key_names(self.view), map(key_array, rows.keys), strict=True)),
            EVENT: pa.array(rows.event_ts),
            CREATED: pa.array(rows.created_ts),
        }
        if not self.times_only:
            n = len(rows.event_ts)
            is_deleted = np.zeros(n, dtype=np.bool_) if rows.is_deleted is None else rows.is_deleted
            columns[DIGEST] = self._digests(rows, columns)
            columns[DELETED] = pa.array(is_deleted)
            for name, declared in zip(value_names(self.view), self.view.fields, strict=True):
                columns[name] = _value_array(declared, rows.fields[declared.name], is_deleted)
        return pa.RecordBatch.from_pydict(columns)

    def _digests(self, rows: ViewRows, columns: dict[str, pa.Array]) -> pa.Array:
        """Return the digests of the tied rows as 32 bytes each, null for the others."""
        n = len(rows.event_ts)
        digests: list[bytes | None] = [None] * n
        tied = list(range(n)) if self.ties is None else _tied(self.ties, rows, columns)
        if tied:
            index = np.array(tied)
            fields = {name: take(column, index) for name, column in rows.fields.items()}
            deleted = None if rows.is_deleted is None else rows.is_deleted[index].tolist()
            for row, digest in zip(tied, row_digests(self.view.fields, fields, deleted), strict=True):
                digests[row] = digest
        return pa.array(digests, pa.binary())


def _tied(ties: Ties, rows: ViewRows, columns: dict[str, pa.Array]) -> list[int]:
    """Return which rows have the key and times of a tie; only rows at a tie's event_ts are looked at one by one."""
    if not ties:
        return []
    near = np.flatnonzero(np.isin(rows.event_ts, np.array(sorted({tie[-2] for tie in ties}), dtype=np.int64)))
    names = [name for name in columns if name.startswith("__key")]
    parts = [columns[name].take(pa.array(near)).to_pylist() for name in (*names, EVENT, CREATED)]
    return [int(row) for row, tie in zip(near, zip(*parts, strict=True), strict=True) if tie in ties]


def _with_keys(rows: ViewRows) -> ViewRows:
    """Return the rows whose key has no null part."""
    keep = np.ones(len(rows.event_ts), dtype=np.bool_)
    for key in rows.keys:
        valid = values_and_valid(key)[1]
        keep &= True if valid is None else valid
    if keep.all():
        return rows
    index = np.flatnonzero(keep)
    return ViewRows(
        [take(key, index) for key in rows.keys],
        rows.event_ts[index],
        rows.created_ts[index],
        {name: take(column, index) for name, column in rows.fields.items()},
        None if rows.is_deleted is None else rows.is_deleted[index],
    )


def key_array(key: Column) -> pa.Array:
    """Return a key column as Arrow: int64 or string, null where a part of the key is."""
    values: Any
    values, valid = values_and_valid(key)
    mask = None if valid is None else ~valid
    if not isinstance(values, Strings):
        return pa.array(values.astype(np.int64, copy=False), mask=mask)
    names = pa.array(values.categories, pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(values.codes, mask=mask), names).dictionary_decode()


def _value_array(declared: Field, column: Column, is_deleted: NDArray[np.bool_]) -> pa.Array:
    """Return a field's values, null where there is none: a float's NaN is none, as in memory, and so is all of a tombstone."""
    array = column_to_arrow(declared, column)
    none = is_deleted
    if declared.dtype.is_float:
        values: Any = values_and_valid(column)[0]
        none = none | np.isnan(values)
    return pc.if_else(pa.array(none), pa.scalar(None, array.type), array) if none.any() else array
