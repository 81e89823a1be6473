"""JSON rows of an online request into columns: the request's fields, the as-of time, and which stored fields a row sends itself.

Beside what `Schema.from_rows` reads, a row may carry `as_of_ts` and any field of a view. This module knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from feature_pipelines.columns import Column, DType, Nullable, Timestamp, values_and_valid
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import did_you_mean
from feature_pipelines.reasons import Reason, Refused, RowError
from feature_pipelines.schema import Field, build_column
from feature_pipelines.wire import parse

__all__ = ["AS_OF_TS", "RequestReader", "Requests", "as_of_field", "fields_of_row"]

AS_OF_TS = "as_of_ts"
_TIMESTAMP = DType("timestamp")
_NOTHING: Mapping[str, Any] = {}


class Requests(NamedTuple):
    """The rows of one request.

    Args:
        rows: as they came; an empty one for what is no object.
        columns: the request's fields, a row each; a broken value stands as the null value.
        as_of: the time each row asks for, microseconds; None = it does not say.
        errors: in row order, none for a good row.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: dict[str, Column]
    as_of: Sequence[int | None]
    errors: list[RowError]


def as_of_field(feature_set: FeatureSet) -> Field | None:
    """Return the field by which a row names its own as-of time; None where the request declares `as_of_ts` as something else."""
    if AS_OF_TS not in feature_set.request:
        return Field(AS_OF_TS, Nullable[Timestamp])
    declared = feature_set.request[AS_OF_TS]
    return declared if declared.dtype.kind == "timestamp" else None


def fields_of_row(feature_set: FeatureSet) -> dict[str, Field]:
    """Return by name all that a row may bring: the request's fields, those of views, and its own as-of time."""
    return {AS_OF_TS: Field(AS_OF_TS, Nullable[Timestamp]), **{f.name: f for f in feature_set.sources}}


class RequestReader:
    """Reads the rows of one feature set's requests; holds no state between calls, any number of threads may use it.

    Args:
        feature_set: the model's features. Where its request declares an as_of_ts of its own, that one is the as-of time.
    """

    def __init__(self, feature_set: FeatureSet) -> None:
        self._request = feature_set.request
        self._as_of = as_of_field(feature_set)
        self._known = frozenset((*feature_set.sources.names, AS_OF_TS))

    def read(self, rows: Sequence[Any]) -> Requests:
        """Return the rows as columns, and what is wrong with each; never raises on data."""
        errors: list[RowError] = []
        readable: list[Mapping[str, Any]] = []
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                errors.append(RowError(i, Reason.UNREADABLE_ROW, "", "the row is not an object"))
                readable.append(_NOTHING)
                continue
            readable.append(row)
            if not row.keys() <= self._known:
                errors.extend(self._unknown(i, row))
        columns: dict[str, Column] = {}
        for declared in self._request:
            name = declared.name
            columns[name], broken = build_column(declared, [row.get(name) for row in readable])
            if broken:
                errors.extend(error for error in broken if readable[error.row] is not _NOTHING)
        as_of = self._times(readable, columns, errors)
        if len(errors) > 1:
            errors.sort(key=lambda error: error.row)
        return Requests(readable, columns, as_of, errors)

    def _unknown(self, i: int, row: Mapping[Any, Any]) -> list[RowError]:
        unknown = [name for name in row if name not in self._known]
        return [
            RowError(i, Reason.UNKNOWN_FIELD, str(n), f"unknown field.{did_you_mean(str(n), self._known)}")
            for n in unknown
        ]

    def _times(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column], errors: list[RowError]
    ) -> list[int | None]:
        if self._as_of is None or not (AS_OF_TS in columns or any(AS_OF_TS in row for row in rows)):
            return [None] * len(rows)
        if AS_OF_TS not in columns:
            return [self._time(i, row.get(AS_OF_TS), errors) for i, row in enumerate(rows)]
        values, valid = values_and_valid(columns[AS_OF_TS])
        times: list[int | None] = np.asarray(values).tolist()
        return (
            times if valid is None else [time if ok else None for time, ok in zip(times, valid, strict=True)]
        )

    def _time(self, i: int, value: Any, errors: list[RowError]) -> int | None:
        try:
            return None if value is None else int(parse(_TIMESTAMP, value))
        except Refused as refused:
            errors.append(RowError(i, refused.code, AS_OF_TS, str(refused)))
            return None
