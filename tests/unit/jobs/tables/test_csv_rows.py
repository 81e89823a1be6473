import io
import json

import pyarrow as pa
import pytest

from feature_pipelines.errors import ContractError
from jobs.tables.csv_rows import REJECTED_SCHEMA, CsvRows


def rows_of(text, *columns):
    return CsvRows("x.csv", io.BytesIO(text.encode()), columns)


def refusals(rows):
    return [(r["line"], r["code"], r["field"]) for r in rows.rejected().to_pylist()]


def test_integers_refuses_what_is_none_and_keeps_the_rest():
    rows = rows_of('n\n1\n-2\nNA\n1.0\n" 1"\n9\n1e3\n', "n")

    values = rows.integers("n", -5, 5)

    assert values[rows.ok].tolist() == [1, -2]
    assert refusals(rows) == [
        (4, "NULL_NOT_ALLOWED", "n"),
        (5, "WRONG_TYPE", "n"),
        (6, "WRONG_TYPE", "n"),
        (7, "OUT_OF_RANGE", "n"),
        (8, "WRONG_TYPE", "n"),
    ]


def test_nullable_integers_take_na_as_missing():
    rows = rows_of("n\n1\nNA\n", "n")

    values, valid = rows.nullable_integers("n", 0, 9)

    assert (values.tolist(), valid.tolist(), rows.ok.tolist()) == ([1, 0], [True, False], [True, True])


def test_nullable_floats_are_exact_and_finite():
    rows = rows_of("x\n0.1\nNA\n-1.5e-3\n.5\n10.357019999999999\nnan\ninf\n1e999\n", "x")

    values = rows.nullable_floats("x").to_pylist()

    assert values[:5] == [0.1, None, -0.0015, 0.5, 10.357019999999999]
    assert refusals(rows) == [(7, "WRONG_TYPE", "x"), (8, "WRONG_TYPE", "x"), (9, "NOT_FINITE", "x")]


def test_text_keeps_na_and_refuses_nothing_at_all():
    rows = rows_of("s,t\nNA,a\n,b\n", "s")

    assert rows.text("s").to_pylist()[0] == "NA"
    assert refusals(rows) == [(3, "NULL_NOT_ALLOWED", "s")]


def test_clock_times_are_minutes_of_the_day():
    rows = rows_of("t\n5\n1745\n0\n2400\n1260\n2401\nNA\n", "t")

    minutes = rows.clock_times("t")

    assert minutes[rows.ok].tolist() == [5, 1065, 0, 1440]
    assert refusals(rows) == [
        (6, "BAD_TIMESTAMP", "t"),
        (7, "OUT_OF_RANGE", "t"),
        (8, "NULL_NOT_ALLOWED", "t"),
    ]


def test_instants_refuses_days_that_do_not_exist():
    rows = rows_of(
        "t\n2013-01-01T10:00:00Z\n2013-02-31T10:00:00Z\n2013-01-01T10:00:00\n1066-01-01T00:00:00Z\nNA\n", "t"
    )

    assert rows.instants("t", 1990, 2100)[rows.ok].tolist() == [1_357_034_400_000_000]
    assert refusals(rows) == [
        (3, "BAD_TIMESTAMP", "t"),
        (4, "BAD_TIMESTAMP", "t"),
        (5, "OUT_OF_RANGE", "t"),
        (6, "BAD_TIMESTAMP", "t"),
    ]


def test_rejected_has_the_original_row_and_malformed_lines_in_file_order():
    rows = rows_of("a,b\n1,é\n2\n3,4,5\nx,y\n7,z\n", "a")

    rows.integers("a", 0, 9)
    rejected = rows.rejected()

    assert rejected.schema == REJECTED_SCHEMA
    assert [(r["line"], r["code"], json.loads(r["row_json"])) for r in rejected.to_pylist()] == [
        (3, "UNREADABLE_ROW", {"text": "2"}),
        (4, "UNREADABLE_ROW", {"text": "3,4,5"}),
        (5, "WRONG_TYPE", {"a": "x", "b": "y"}),
    ]
    assert rejected.column("message").to_pylist()[0] == "expected 2 cells, got 1"
    assert rows.n_lines == 5


def test_the_first_reason_counts():
    rows = rows_of("a,b\nx,y\n", "a", "b")

    rows.integers("a", 0, 9)
    rows.integers("b", 0, 9)

    assert refusals(rows) == [(2, "WRONG_TYPE", "a")]


def test_accepted_leaves_out_the_refused_and_casts():
    rows = rows_of("n\n1\nx\n3\n", "n")
    schema = pa.schema([pa.field("n", pa.int32(), nullable=False)])

    table = rows.accepted(schema, [pa.array(rows.integers("n", 0, 9))])

    assert table.schema == schema
    assert table.to_pylist() == [{"n": 1}, {"n": 3}]


def test_a_file_without_rows_is_empty():
    rows = rows_of("a,b\n", "a")

    assert rows.integers("a", 0, 1).tolist() == []
    assert rows.rejected().num_rows == rows.n_lines == 0


def test_a_header_without_the_columns_is_refused_as_a_whole():
    with pytest.raises(ContractError, match=r"x\.csv: the header lacks c; it has a, b"):
        rows_of("a,b\n1,2\n", "a", "c")
