"""What travels through the join comes back as it was, of every type, and a row that does not come back once is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Binary,
    Bool,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Timestamp,
    decimal,
)
from feature_pipelines.errors import VerificationError
from feature_pipelines.reasons import Reason
from feature_pipelines.schema import Field, build_column, to_wire
from jobs.proof.log_rows import LogRows
from jobs.proof.map_columns import MapColumn
from jobs.proof.requests import (
    JoinedRows,
    canonical_array,
    canonical_column,
    errors_of,
    key_types,
    log_ids,
)

VALUES: dict[str, tuple[Any, list[Any]]] = {
    "float64": (Float64, [0.1, -0.0, None, 5e-324, "Infinity"]),
    "float32": (Float32, [0.1, None, 3.4028234663852886e38]),
    "int64": (Int64, [2**63 - 1, -(2**63), 0]),
    "nullable int": (Nullable[Int64], [2**53 + 1, None]),
    "int32": (Nullable[Int32], [None, -5]),
    "bool": (Nullable[Bool], [True, None, False]),
    "timestamp": (Timestamp, ["1969-12-31T23:59:59.999999Z", 2**62]),
    "nullable timestamp": (Nullable[Timestamp], [None, "2013-11-03T06:30:00Z"]),
    "decimal": (Annotated[NDArray[np.int64], decimal(12, 2)], ["-12.34", "0.01"]),
    "string": (Nullable[String], ["caf\u00e9", "", None, "N1"]),
    "required string": (String, ["a", "b", "a"]),
    "binary": (Nullable[Binary], ["AP8=", None, ""]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_column_that_travelled_is_the_same_to_the_bit(kind: str) -> None:
    type_, wire = VALUES[kind]
    declared = Field("x", type_, infinite=kind.startswith("float"))
    column, errors = build_column(declared, wire)
    assert errors == []
    again = canonical_column(declared, canonical_array(declared, column))
    assert [repr(value) for value in to_wire(declared, again)] == [
        repr(value) for value in to_wire(declared, column)
    ]
    nothing = canonical_column(declared, pa.nulls(2, canonical_array(declared, column).type))
    assert len(to_wire(declared, nothing)) == 2


def test_errors_travel_as_text() -> None:
    found = errors_of(pa.array([None, "OUT_OF_RANGE area_m2", "UNREADABLE_ROW "]))
    assert [(e.row, e.code, e.field) for e in found] == [
        (1, Reason.OUT_OF_RANGE, "area_m2"),
        (2, Reason.UNREADABLE_ROW, ""),
    ]


def rows_with(*requests: dict[str, Any]) -> LogRows:
    entries = [[(name, json.dumps(value)) for name, value in request.items()] for request in requests]
    maps: Any = {"request": MapColumn.of(pa.array(entries, pa.map_(pa.string(), pa.string())))}
    return LogRows(pa.table({"sequence": np.arange(len(requests))}), maps, np.ones(len(requests), np.bool_))


def test_ids_are_those_that_a_batch_makes_of_the_same_fields() -> None:
    number, name = Field("house_id", Int64), Field("town", Nullable[String])
    rows = rows_with(
        {"house_id": "9007199254740993", "town": "a"}, {"town": "b"}, {"house_id": 1.5}, {"house_id": 7}
    )
    types = key_types((number,), pa.schema([("house_id", pa.int32())]).append(pa.field("town", pa.string())))
    assert log_ids(rows_with({"house_id": 7}), (number,), types, "?").to_pylist() == ["7"]
    types = key_types((number,), None)
    assert log_ids(rows, (number,), types, "?").to_pylist() == ["9007199254740993", "?#1", "?#2", "7"]
    types = key_types((number, name), None)
    assert log_ids(rows, (number, name), types, "?").to_pylist()[0] == '[9007199254740993, "a"]'
    assert log_ids(rows, (), pa.schema([]), "?").to_pylist() == ["?#0", "?#1", "?#2", "?#3"]


def test_key_that_the_tables_type_cannot_hold_is_of_no_row_in_the_table() -> None:
    number = Field("house_id", Int64)
    rows = rows_with(
        {"house_id": 7}, {"house_id": str(2**31)}, {"house_id": -(2**31)}, {"house_id": -(2**40)}
    )
    small = pa.schema([("house_id", pa.int32())])
    assert log_ids(rows, (number,), small, "?").to_pylist() == ["7", "?#1", "-2147483648", "?#3"]
    time = Field("asked_ts", Timestamp)
    rows = rows_with({"asked_ts": "2013-06-01T10:00:00.000001Z"}, {"asked_ts": "2013-06-01T10:00:00Z"})
    coarse = pa.schema([("asked_ts", pa.timestamp("ms", tz="UTC"))])
    first, second = log_ids(rows, (time,), coarse, "?").to_pylist()
    assert first == "?#0"
    assert "2013-06-01" in second


def joined(*rows: tuple[int, int]) -> Iterator[pa.RecordBatch]:
    """Batches of two rows of (unit, ordinal)."""
    for at in range(0, len(rows), 2):
        units, ordinals = zip(*rows[at : at + 2], strict=True)
        yield pa.record_batch(
            {"__unit": pa.array(units, pa.int32()), "__ordinal": pa.array(ordinals, pa.int32())}
        )


def test_rows_come_back_unit_by_unit_and_batch_by_batch() -> None:
    rows = JoinedRows(joined((3, -1), (3, 0), (3, 1), (3, 2), (5, -1), (7, -1), (7, 0)))
    assert rows.enter() == 3
    assert rows.next(3, 0, 2).num_rows == 2
    assert rows.next(3, 2, 1).column("__ordinal").to_pylist() == [2]
    assert rows.enter() == 5
    assert rows.enter() == 7
    assert rows.next(7, 0, 1).num_rows == 1
    assert rows.enter() is None


@pytest.mark.parametrize(
    "found",
    [
        [(3, -1), (3, 0), (3, 0), (3, 1)],
        [(3, -1), (3, 0)],
        [(3, -1), (3, 0), (5, -1), (5, 0)],
        [(3, -1), (3, 1), (3, 2)],
        [(3, -1)],
    ],
    ids=["doubled", "lost at the end", "another unit's", "lost at the front", "none"],
)
def test_row_that_does_not_come_back_once_is_seen(found: list[tuple[int, int]]) -> None:
    rows = JoinedRows(joined(*found))
    assert rows.enter() == 3
    with pytest.raises(VerificationError, match=r"occurs more than once .*input\.row_id"):
        rows.next(3, 0, 2)


def test_row_that_is_left_over_is_seen() -> None:
    rows = JoinedRows(joined((3, -1), (3, 0), (3, 1), (3, 1), (5, -1)))
    assert rows.enter() == 3
    rows.next(3, 0, 2)
    with pytest.raises(VerificationError, match="more than once"):
        rows.enter()
