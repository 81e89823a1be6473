"""As of when a row of a batch is scored: its own `as_of_ts`, whatever Arrow type it has, else the as-of field."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.columns import Int64, Nullable, Timestamp
from feature_pipelines.schema import Field, Schema
from tests.toy.houses import FEATURES
from udfs.as_of import as_of_times, own_as_of

ASKED = np.array([10, 20, 30])
OWN = Field("as_of_ts", Nullable[Timestamp])
UTC = pa.timestamp("us", tz="UTC")


def test_own_time_is_one_that_the_request_need_not_declare() -> None:
    assert own_as_of(FEATURES) == OWN


@pytest.mark.parametrize(
    ("declared", "own"),
    [(Field("as_of_ts", Timestamp), Field("as_of_ts", Timestamp)), (Field("as_of_ts", Int64), None)],
)
def test_field_that_the_request_declares_is_the_own_time_if_it_is_a_time(
    declared: Field, own: Field | None
) -> None:
    request = Schema((*FEATURES.request.fields, declared))
    assert own_as_of(dataclasses.replace(FEATURES, request=request)) == own


def test_as_of_field_of_that_name_is_no_second_one_and_without_views_nothing_is_asked() -> None:
    request = Schema((*FEATURES.request.fields, Field("as_of_ts", Timestamp)))
    assert own_as_of(dataclasses.replace(FEATURES, request=request, as_of="as_of_ts")) is None
    request = Schema((*FEATURES.request.fields, *FEATURES.views[0].fields.fields))
    assert own_as_of(dataclasses.replace(FEATURES, request=request, views=(), as_of=None)) is None


@pytest.mark.parametrize(
    "array",
    [
        pa.array([7, None, 9], UTC),
        pa.array([7, None, 9], pa.int64()),
        pa.array(["1970-01-01T00:00:00.000007Z", None, "1970-01-01T00:00:00.000009Z"]),
        pa.array([7, None, 9], pa.timestamp("us", tz="Asia/Kathmandu")),
    ],
    ids=str,
)
def test_null_leaves_the_as_of_field_in_force(array: pa.Array) -> None:
    times, errors = as_of_times(OWN, ASKED, pa.RecordBatch.from_pydict({"as_of_ts": array}))
    assert (times.tolist(), errors) == ([7, 20, 9], [])


@pytest.mark.parametrize("array", [pa.nulls(3), pa.nulls(3, UTC)], ids=str)
def test_column_of_nulls_changes_nothing(array: pa.Array) -> None:
    times, errors = as_of_times(OWN, ASKED, pa.RecordBatch.from_pydict({"as_of_ts": array}))
    assert (times.tolist(), errors) == ([10, 20, 30], [])


def test_batch_without_the_column_changes_nothing() -> None:
    batch = pa.RecordBatch.from_pydict({"x": pa.nulls(3)})
    assert as_of_times(OWN, ASKED, batch) == (ASKED, [])
    batch = pa.RecordBatch.from_pydict({"as_of_ts": pa.array([1, 2, 3])})
    assert as_of_times(None, ASKED, batch) == (ASKED, [])


@pytest.mark.parametrize(
    ("array", "rows"),
    [(pa.array(["soon", None, "later"]), [0, 2]), (pa.array([1, None, 3], pa.timestamp("us")), [0, 2])],
    ids=["text", "naive"],
)
def test_time_that_cannot_be_read_is_the_rows_error(array: pa.Array, rows: list[int]) -> None:
    _, errors = as_of_times(OWN, ASKED, pa.RecordBatch.from_pydict({"as_of_ts": array}))
    found: list[Any] = [(error.row, error.code, error.field) for error in errors]
    assert found == [(row, "BAD_TIMESTAMP", "as_of_ts") for row in rows]
