"""A view's rows in canonical form: keys and times plain, floats without NaN, digests of tied rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.columns import Float64, Nullable, String, Strings
from feature_pipelines.errors import ContractError
from feature_pipelines.offline.view_batches import ViewBatches
from feature_pipelines.packed import row_digests
from feature_pipelines.schema import Field, Schema
from feature_pipelines.views import FeatureView

US = pa.timestamp("us", "UTC")
VIEW = FeatureView(
    "v", {"k": "key", "m": "number"}, Schema((Field("f", Float64), Field("s", Nullable[String])))
)


def batch(**changes: Any) -> pa.RecordBatch:
    columns = {
        "k": pa.array(["a", "a", None, "b"]).dictionary_encode(),
        "m": pa.array([1, 1, 2, 3], pa.int16()),
        "event_ts": pa.array([5, 5, 5, 7], US),
        "created_ts": pa.array([6, 6, 6, 8], US),
        "f": [-0.0, float("nan"), 1.0, 2.0],
        "s": ["x", None, "y", "z"],
    }
    return pa.RecordBatch.from_pydict({**columns, **changes})


def digests(*rows: tuple[float, str | None], deleted: list[bool] | None = None) -> list[bytes]:
    floats = np.array([number for number, _ in rows])
    texts = Nullable(
        Strings.of(text or "" for _, text in rows), np.array([text is not None for _, text in rows])
    )
    return row_digests(VIEW.fields, {"f": floats, "s": texts}, deleted)


def test_rows_are_canonical_and_those_without_a_whole_key_left_out() -> None:
    rows = ViewBatches(VIEW).canonical(batch())
    assert rows.to_pydict() == {
        "__key0": ["a", "a", "b"],
        "__key1": [1, 1, 3],
        "__event": [5, 5, 7],
        "__created": [6, 6, 8],
        "__digest": [None] * 3,
        "__deleted": [False] * 3,
        "__value0": [-0.0, None, 2.0],
        "__value1": ["x", None, "z"],
    }
    assert [str(rows.schema.field(i).type) for i in range(4)] == ["string", "int64", "int64", "int64"]
    assert str(rows["__value0"][0].as_py()) == "-0.0"


def test_digests_are_made_for_ties_alone_or_for_all() -> None:
    tied = ViewBatches(VIEW, frozenset([("a", 1, 5, 6)])).canonical(batch())["__digest"].to_pylist()
    assert tied == [*digests((-0.0, "x"), (float("nan"), None)), None]
    near = ViewBatches(VIEW, frozenset([("c", 1, 5, 6), ("a", 1, 5, 7)])).canonical(batch())["__digest"]
    assert near.null_count == 3
    assert ViewBatches(VIEW, None).canonical(batch())["__digest"].null_count == 0


def test_a_tombstone_has_no_values_and_its_own_digest() -> None:
    deleted = pa.array([True, None, False, True])
    rows = ViewBatches(VIEW, None).canonical(batch(is_deleted=deleted, f=[float("inf"), 1.0, 1.0, 2.0]))
    assert rows["__deleted"].to_pylist() == [True, False, True]
    assert rows["__value0"].to_pylist() == [None, 1.0, None]
    assert rows["__digest"].to_pylist() == digests(
        (0.0, "x"), (1.0, None), (2.0, "z"), deleted=[True, False, True]
    )


def test_times_alone_need_no_values() -> None:
    given = batch().select(["k", "m", "event_ts", "created_ts"])
    assert ViewBatches(VIEW, times_only=True).canonical(given).schema.names == [
        "__key0",
        "__key1",
        "__event",
        "__created",
    ]
    with pytest.raises(ContractError, match="view 'v': its table lacks f, s"):
        ViewBatches(VIEW).canonical(given)


def test_no_rows_are_no_error() -> None:
    assert ViewBatches(VIEW, None).canonical(batch().slice(0, 0)).num_rows == 0
