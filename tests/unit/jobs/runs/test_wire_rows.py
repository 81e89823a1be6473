"""Text becomes columns as the wire form says: what a server would refuse is refused here, with the same code, and nothing is guessed."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from feature_pipelines.columns import Bool, Float64, Int64, Nullable, String, Timestamp
from feature_pipelines.schema import Field, Schema
from jobs.runs.wire_rows import cells_as_batch, lines_as_batch, type_of

DECLARED = Schema(
    (
        Field("n", Int64),
        Field("x", Float64, minimum=0, maximum=1),
        Field("t", Timestamp),
        Field("flag", Nullable[Bool]),
        Field("name", Nullable[String]),
    )
)


def read_line(line):
    batch, errors = lines_as_batch([line], DECLARED)
    return batch.to_pylist()[0], [(str(e.code), e.field) for e in errors]


def test_line_is_read_by_the_wire_form():
    row, errors = read_line(
        '{"n": "9007199254740993", "x": 0.1, "t": "2020-01-01T00:00:00+01:00", "name": "é"}'
    )
    assert errors == []
    assert (row["n"], row["x"], row["flag"], row["name"]) == (9007199254740993, 0.1, None, "é")
    assert row["t"].isoformat() == "2019-12-31T23:00:00+00:00"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"n": 1.0}', ("WRONG_TYPE", "n")),
        ('{"n": true}', ("WRONG_TYPE", "n")),
        ('{"t": "2020-01-01T00:00:00"}', ("BAD_TIMESTAMP", "t")),
        ('{"x": "one"}', ("WRONG_TYPE", "x")),
        ('{"m": 1}', ("UNKNOWN_FIELD", "m")),
        ('{"n": 1, "n": 2}', ("UNREADABLE_ROW", "")),
        ('{"x": NaN}', ("UNREADABLE_ROW", "")),
        ("{", ("UNREADABLE_ROW", "")),
        ("[]", ("UNREADABLE_ROW", "")),
        ("", ("UNREADABLE_ROW", "")),
        (b'{"name": "\xff"}', ("UNREADABLE_ROW", "")),
        (None, ("UNREADABLE_ROW", "")),
    ],
)
def test_line_that_says_no_row_is_refused_with_the_code_of_the_servers(line, expected):
    row, errors = read_line(line)
    assert expected in errors
    assert set(row) == set(DECLARED.names)


def test_bounds_and_nulls_are_left_to_the_kernel():
    row, errors = read_line('{"x": 7, "n": null}')
    assert (row["x"], row["n"], errors) == (7.0, None, [])


def test_null_and_nan_of_a_float_stay_apart():
    batch, errors = lines_as_batch(['{"x": "NaN"}', '{"x": null}', "{}"], DECLARED)
    assert errors == []
    assert batch.column("x").is_valid().to_pylist() == [True, False, False]
    assert math.isnan(batch.column("x")[0].as_py())


def test_errors_name_the_row_in_order():
    _, errors = lines_as_batch(['{"x": "a"}', "{}", "{", '{"n": 0.5}'], DECLARED)
    assert [error.row for error in errors] == [0, 2, 3]


def test_cells_are_read_by_the_declared_type():
    cells = pa.record_batch(
        {
            "n": ["12", "1.0", None],
            "x": ["1e-3", "abc", "0.1"],
            "t": ["2020-01-01T00:00:00Z", "1577836800000000", None],
            "flag": ["true", "yes", None],
            "name": ["a,b", "1", None],
            "other": ["x", "y", "z"],
        }
    )
    batch, errors = cells_as_batch(cells, DECLARED)
    rows = batch.to_pylist()
    assert rows[0]["n"] == 12
    assert (rows[0]["x"], rows[2]["x"]) == (0.001, 0.1)
    assert rows[0]["t"] == rows[1]["t"]
    assert (rows[0]["flag"], rows[2]["flag"], rows[0]["name"], rows[1]["name"]) == (True, None, "a,b", "1")
    assert [(e.row, str(e.code), e.field) for e in errors] == [
        (1, "WRONG_TYPE", "n"),
        (1, "WRONG_TYPE", "x"),
        (1, "WRONG_TYPE", "flag"),
    ]
    assert "other" not in batch.schema.names


def test_cell_is_read_as_in_an_upload_however_it_is_written():
    texts = ["True", "FALSE", "+5", "9" * 5_000]
    cells = pa.record_batch({"flag": texts, "t": texts})
    batch, errors = cells_as_batch(cells, DECLARED)
    assert batch.column("flag").to_pylist() == [True, False, None, None]
    assert [(e.row, str(e.code)) for e in errors if e.field == "t"] == [
        (i, "BAD_TIMESTAMP") for i in range(4)
    ]


@pytest.mark.parametrize(
    "type_",
    [
        *(pa.int64(), pa.int32(), pa.float64(), pa.float32(), pa.bool_(), pa.binary(), pa.string()),
        *(pa.timestamp("us", tz="UTC"), pa.decimal128(9, 2)),
    ],
)
def test_every_type_of_a_column_has_a_declared_type_of_that_form(type_):
    batch, _ = lines_as_batch(["{}"], Schema((Field("c", type_of(type_)),)))
    assert batch.schema.field("c").type == type_
