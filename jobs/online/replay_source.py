"""Both sides of a replay, read in the order in which they became visible: a view's rows, and requests by their as-of time.

Files may be in any order. A first pass reads times alone (8 bytes a row stay in memory), which cuts the window into intervals
of a bounded number of rows; then each interval is read, sorted and let go of. So a file is read once per interval that its row groups'
time bounds do not exclude. This module knows no store and no model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Timestamp
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS
from feature_pipelines.request_rows import AS_OF_TS
from feature_pipelines.schema import Field, Schema
from feature_pipelines.schema_arrow import column_from_arrow, columns_from_arrow, missing_columns
from feature_pipelines.stores.base import Key, StoredRow
from feature_pipelines.views import FeatureView
from jobs.online.view_batch import ViewRows, concat_rows, read_batch, stored, table_columns
from jobs.runs.row_json import rows_as_json
from jobs.tables.pinned import Snapshot
from jobs.tables.units import Unit, plan_units, read_unit

__all__ = ["Arrived", "Asked", "RequestSource", "ViewSource", "intervals"]

_BATCH_ROWS = 65_536
_Times = NDArray[np.int64]


class Arrived(NamedTuple):
    """A view's rows that became visible in an interval, in L1 order within (visible_ts); `visible_ts` ascends."""

    visible_ts: _Times
    keys: list[Key]
    rows: list[StoredRow]


class Asked(NamedTuple):
    """Requests of an interval in the wire form, each with its own `as_of_ts`; `as_of` ascends, equal times in table order."""

    as_of: _Times
    rows: list[dict[str, Any]]


class ViewSource:
    """A view's pinned table; `broken` counts the rows met that break the contract, `reasons` why."""

    def __init__(self, view: FeatureView, snapshot: Snapshot) -> None:
        self.view, self.snapshot = view, snapshot
        self.broken = 0
        self.reasons: Counter[str] = Counter()

    def times(self, after_ts: int, through_ts: int) -> _Times:
        """Return when the rows that became visible in (after_ts, through_ts] did, in no order."""
        times = Schema((Field(EVENT_TS, Timestamp), Field(CREATED_TS, Timestamp)))
        found = []
        for batch in self._batches(times.names, after_ts, through_ts):
            columns, _ = columns_from_arrow(times, batch)
            visible = np.maximum(np.asarray(columns[EVENT_TS]), np.asarray(columns[CREATED_TS]))
            found.append(visible[(visible > after_ts) & (visible <= through_ts)])
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def rows(self, after_ts: int, through_ts: int) -> Arrived:
        """Return the good rows that became visible in (after_ts, through_ts]."""
        parts: list[ViewRows] = []
        columns = table_columns(self.view, self.snapshot.schema.names)
        for batch in self._batches(columns, after_ts, through_ts):
            rows, broken, reasons = read_batch(self.view, batch, after_ts=after_ts, through_ts=through_ts)
            self.broken += broken
            self.reasons += reasons
            if len(rows):
                parts.append(rows)
        if not parts:
            return Arrived(np.empty(0, np.int64), [], [])
        together = concat_rows(parts)
        visible = np.maximum(together.event_ts, together.created_ts)
        order = np.lexsort((together.created_ts, together.event_ts, visible))
        return Arrived(visible[order], *stored(self.view, together.take(order)))

    def _batches(self, columns: Sequence[str], after_ts: int, through_ts: int) -> Any:
        # the later of the two times is in the interval, so one of them is
        found = [
            unit
            for name in (EVENT_TS, CREATED_TS)
            for unit in _units(self.snapshot, name, after_ts, through_ts)
        ]
        units = {(unit.file_uri, unit.row_groups): unit for unit in found}
        for unit in sorted(units.values(), key=lambda one: (one.file_uri, one.first_ordinal)):
            yield from read_unit(unit, columns, batch_rows=_BATCH_ROWS, schema=self.snapshot.schema)


class RequestSource:
    """A pinned table of requests; of its columns the declared request fields are sent, so every view is looked up.

    Raises:
        ContractError: the table lacks a field, or the table or the request has an `as_of_ts` that is not its as-of time.
    """

    def __init__(self, feature_set: FeatureSet, snapshot: Snapshot) -> None:
        self._as_of = feature_set.as_of or ""
        if AS_OF_TS in feature_set.request.names and self._as_of != AS_OF_TS:
            raise ContractError(
                f"feature set {feature_set.name!r}: its requests declare {AS_OF_TS!r}, its as-of field is {self._as_of!r}; online "
                "the former would be the as-of time, so history cannot be replayed"
            )
        if AS_OF_TS in snapshot.schema.names and self._as_of != AS_OF_TS:
            raise ContractError(
                f"the table of requests has a column {AS_OF_TS!r}, as of which the batch job scores its rows; a replay asks as of "
                f"{self._as_of!r}: leave the column out"
            )
        missing_columns(feature_set.request, snapshot.schema.names)
        self.snapshot = snapshot
        self._columns = [name for name in feature_set.request.names if name in snapshot.schema.names]
        self.timeless = 0

    def times(self, after_ts: int, through_ts: int) -> _Times:
        """Return the as-of times in (after_ts, through_ts], in no order; `timeless` = rows met that have none that can be read."""
        found = [np.empty(0, np.int64)]
        self.timeless = 0
        for unit in _units(self.snapshot, self._as_of, after_ts, through_ts):
            for batch in read_unit(unit, [self._as_of], batch_rows=_BATCH_ROWS, schema=self.snapshot.schema):
                times, is_readable = self._times(batch)
                self.timeless += int((~is_readable).sum())
                found.append(times[is_readable & (times > after_ts) & (times <= through_ts)])
        return np.concatenate(found)

    def rows(self, after_ts: int, through_ts: int) -> Asked:
        """Return the requests whose as-of is in (after_ts, through_ts]."""
        times, rows = [np.empty(0, np.int64)], []
        for unit in _units(self.snapshot, self._as_of, after_ts, through_ts):
            for batch in read_unit(unit, self._columns, batch_rows=_BATCH_ROWS, schema=self.snapshot.schema):
                as_of, is_readable = self._times(batch)
                index = np.flatnonzero(is_readable & (as_of > after_ts) & (as_of <= through_ts))
                if len(index):
                    times.append(as_of[index])
                    rows += [json.loads(text) for text in rows_as_json(batch.take(pa.array(index)))]
        as_of = np.concatenate(times)
        order = np.argsort(as_of, kind="stable")
        as_of = as_of[order]
        asked = [rows[i] for i in order.tolist()]
        for row, time in zip(asked, as_of.tolist(), strict=True):
            row[AS_OF_TS] = time
        return Asked(as_of, asked)

    def _times(self, batch: pa.RecordBatch) -> tuple[_Times, NDArray[np.bool_]]:
        column, errors = column_from_arrow(
            Field(self._as_of, Timestamp), batch.column(batch.schema.get_field_index(self._as_of))
        )
        times: _Times = np.asarray(column)
        is_readable = np.ones(len(times), np.bool_)
        is_readable[[error.row for error in errors]] = False
        return times, is_readable


def intervals(times: _Times, after_ts: int, through_ts: int, rows: int) -> list[tuple[int, int]]:
    """Cut (after_ts, through_ts] into intervals of at most so many of the times each, and what else is at the last of them.

    >>> intervals(np.array([5, 1, 3, 3, 9]), 0, 10, 2)
    [(0, 3), (3, 5), (5, 10)]
    """
    ends = np.unique(np.sort(times)[rows - 1 :: rows]).tolist()
    if not ends or ends[-1] < through_ts:
        ends.append(through_ts)
    return list(zip([after_ts, *ends[:-1]], ends, strict=True))


def _units(snapshot: Snapshot, column: str, after_ts: int, through_ts: int) -> list[Unit]:
    """Return the row groups that may hold a time in (after_ts, through_ts]."""
    return plan_units(
        snapshot, unit_rows=1, time_column=column, time_from_us=after_ts + 1, time_to_us=through_ts + 1
    )
