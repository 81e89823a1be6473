"""Columns from Arrow: what is converted, what is refused for which rows, and what the batch as a whole must have."""

from __future__ import annotations

import decimal as python_decimal
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
    Strings,
    Timestamp,
    decimal,
)
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Field, Reason, Schema
from feature_pipelines.schema_arrow import (
    arrow_type,
    column_from_arrow,
    column_to_arrow,
    columns_from_arrow,
    missing_columns,
)

Money = Annotated[NDArray[np.int64], decimal(6, 2)]
US = pa.timestamp("us", tz="UTC")


def refusals(declared: Field, array: pa.Array) -> list[tuple[int, str]]:
    column, errors = column_from_arrow(declared, array)
    assert len(column if not isinstance(column, Nullable) else column.valid) == len(array)
    assert all(error.field == declared.name for error in errors)
    return [(error.row, str(error.code)) for error in errors]


def test_arrow_type_is_the_declared_one() -> None:
    assert arrow_type(decimal(12, 2)) == pa.decimal128(12, 2)
    assert arrow_type(Field("t", Timestamp).dtype) == US
    assert arrow_type(Field("s", String).dtype) == pa.string()


@pytest.mark.parametrize(
    ("declared", "array", "expected"),
    [
        (
            Field("x", Int32),
            pa.array([2**31, -(2**31) - 1, 5]),
            [(0, "INTEGER_OVERFLOW"), (1, "INTEGER_OVERFLOW")],
        ),
        (Field("x", Int32), pa.array([2**32 - 1, 5], pa.uint32()), [(0, "INTEGER_OVERFLOW")]),
        (Field("x", Int64), pa.array([2**63, 2**63 - 1], pa.uint64()), [(0, "INTEGER_OVERFLOW")]),
        (
            Field("x", Float64),
            pa.array([2**53 + 1, 2**53, -(2**53) - 1]),
            [(0, "PRECISION_LOST"), (2, "PRECISION_LOST")],
        ),
        (Field("x", Float64), pa.array([2**64 - 1, 1], pa.uint64()), [(0, "PRECISION_LOST")]),
        (Field("x", Float32), pa.array([2**24 + 1, 2**24], pa.int32()), [(0, "PRECISION_LOST")]),
        (Field("x", Float32), pa.array([1e39, 1.0]), [(0, "NOT_FINITE")]),
        (
            Field("x", Float64, required=True),
            pa.array([1.0, None, np.nan]),
            [(1, "NULL_NOT_ALLOWED"), (2, "NULL_NOT_ALLOWED")],
        ),
        (
            Field("x", Float64, maximum=1),
            pa.array([np.inf, 2.0, None]),
            [(0, "NOT_FINITE"), (1, "OUT_OF_RANGE")],
        ),
        (Field("x", Int64), pa.array([1.0, None]), [(0, "WRONG_TYPE"), (1, "NULL_NOT_ALLOWED")]),
        (Field("x", Nullable[Int64]), pa.array([True, None]), [(0, "WRONG_TYPE")]),
        (Field("x", Bool), pa.array([1, 0]), [(0, "WRONG_TYPE"), (1, "WRONG_TYPE")]),
        (Field("x", String), pa.array([b"a"]), [(0, "WRONG_TYPE")]),
        (Field("x", String), pa.array([5]), [(0, "WRONG_TYPE")]),
        (Field("x", String), pa.array(["", None, "a"]), [(1, "NULL_NOT_ALLOWED")]),
        (Field("x", String), pa.array(["a", None]).dictionary_encode(), [(1, "NULL_NOT_ALLOWED")]),
        (Field("x", Binary), pa.array([b"", None]), [(1, "NULL_NOT_ALLOWED")]),
        (Field("x", Binary), pa.array(["AA==", "A"]), [(1, "BAD_VALUE")]),
        (
            Field("x", Timestamp),
            pa.array([1, 2], pa.timestamp("us")),
            [(0, "BAD_TIMESTAMP"), (1, "BAD_TIMESTAMP")],
        ),
        (
            Field("x", Timestamp),
            pa.array([1, 1000, -1], pa.timestamp("ns", "UTC")),
            [(0, "BAD_TIMESTAMP"), (2, "BAD_TIMESTAMP")],
        ),
        (
            Field("x", Timestamp),
            pa.array([2**62, -(2**62), 1], pa.timestamp("s", "UTC")),
            [(0, "BAD_TIMESTAMP"), (1, "BAD_TIMESTAMP")],
        ),
        (
            Field("x", Timestamp),
            pa.array(["1970-01-01T00:00:00", "1970-01-01T00:00:00Z"]),
            [(0, "BAD_TIMESTAMP")],
        ),
        (Field("x", Timestamp), pa.array([1.0]), [(0, "WRONG_TYPE")]),
        (Field("x", Timestamp), pa.array([0], pa.date32()), [(0, "WRONG_TYPE")]),
        (Field("x", Money), pa.array([1.5]), [(0, "WRONG_TYPE")]),
        (
            Field("x", Int32, minimum=0),
            pa.array([-(2**31) - 1, -1, 0]),
            [(0, "INTEGER_OVERFLOW"), (1, "OUT_OF_RANGE")],
        ),
        (Field("x", Int64), pa.array(["1", "1.0", None]), [(1, "WRONG_TYPE"), (2, "NULL_NOT_ALLOWED")]),
        (Field("x", Int64), pa.nulls(2), [(0, "NULL_NOT_ALLOWED"), (1, "NULL_NOT_ALLOWED")]),
        (Field("x", Nullable[Int64]), pa.nulls(2), []),
    ],
)
def test_refuses_the_rows_that_do_not_convert_exactly(
    declared: Field, array: pa.Array, expected: list[tuple[int, str]]
) -> None:
    assert refusals(declared, array) == expected


def test_the_message_names_the_types_and_no_value() -> None:
    _, errors = column_from_arrow(Field("x", Timestamp), pa.array([123456], pa.timestamp("us")))
    assert errors[0].message == "expected timestamp, the column is timestamp[us] without a time zone"
    _, errors = column_from_arrow(Field("x", Money), pa.array([123.456]))
    assert errors[0].message == "expected decimal(6, 2), the column is double"


def test_decimals_are_exact_whatever_the_thread_context() -> None:
    many_digits = python_decimal.Decimal("1234.00000000000000000000000000000001")
    with python_decimal.localcontext() as context:
        context.prec = 3
        array = pa.array([many_digits, python_decimal.Decimal("1234.56"), None], pa.decimal128(38, 32))
        declared = Field("x", Nullable[Money])
        column, errors = column_from_arrow(declared, array)
        assert [(error.row, error.code) for error in errors] == [(0, Reason.PRECISION_LOST)]
        assert isinstance(column, Nullable)
        assert (column.values.tolist(), column.valid.tolist()) == ([0, 123456, 0], [False, True, False])
        back = column_to_arrow(declared, column)
        assert back.to_pylist() == [None, python_decimal.Decimal("1234.56"), None]
    _, errors = column_from_arrow(declared, pa.array([python_decimal.Decimal("10000.00")]))
    assert [error.code for error in errors] == [Reason.OUT_OF_RANGE]


def test_a_refused_value_stands_as_null() -> None:
    declared = Field("x", Nullable[Int32], minimum=0)
    column, _ = column_from_arrow(declared, pa.array([-5, 7, 2**40, None]))
    assert isinstance(column, Nullable)
    assert (column.values.tolist(), column.valid.tolist()) == ([0, 7, 0, 0], [False, True, False, False])
    floats, _ = column_from_arrow(Field("x", Float64, minimum=0), pa.array([-5.0, 7.0, np.inf]))
    assert np.isnan(floats).tolist() == [True, False, True]


def test_text_that_is_not_utf8_refuses_its_rows_alone() -> None:
    raw = pa.array([b"ok", b"a\xff", None, b"ok", b"\xc3\xa9"], pa.binary())
    array = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), raw.null_count)
    column, errors = column_from_arrow(Field("x", Nullable[String]), array)
    assert [(error.row, error.code) for error in errors] == [(1, Reason.BAD_VALUE)]
    assert isinstance(column, Nullable)
    assert isinstance(column.values, Strings)
    assert column.values.tolist() == ["ok", "", "", "ok", "\u00e9"]
    assert column.valid.tolist() == [True, False, False, True, True]
    assert refusals(Field("x", Nullable[Int64]), array.slice(1, 1)) == [(0, "WRONG_TYPE")]


def test_a_dictionary_may_be_full_for_its_index_type() -> None:
    words = [f"w{i}" for i in range(127)] + ["last"]
    indices = pa.array([127, None, 0], pa.int8())
    array = pa.DictionaryArray.from_arrays(indices, pa.array(words))
    column, errors = column_from_arrow(Field("x", Nullable[String]), array)
    assert errors == []
    assert isinstance(column, Nullable)
    assert column.values.tolist() == ["last", "", "w0"]
    assert column.valid.tolist() == [True, False, True]


def test_columns_from_arrow_reads_what_is_declared() -> None:
    schema = Schema((Field("a", Float64), Field("b", Nullable[String]), Field("c", Int32)))
    batch = pa.RecordBatch.from_pydict(
        {"c": pa.array([1, None], pa.int16()), "z": ["ignored"] * 2, "a": [None, 2.0]}
    )
    columns, errors = columns_from_arrow(schema, batch)
    assert list(columns) == ["a", "b", "c"]
    assert columns["a"].tolist()[1] == 2.0
    assert columns["b"].valid.tolist() == [False, False]
    assert [(error.row, error.field) for error in errors] == [(1, "c")]


def test_columns_from_arrow_gives_errors_in_row_order() -> None:
    schema = Schema((Field("a", Int32), Field("b", Int32)))
    batch = pa.RecordBatch.from_pydict(
        {"a": pa.array([None, 1, None], pa.int32()), "b": pa.array([None, None, 1], pa.int32())}
    )
    _, errors = columns_from_arrow(schema, batch)
    assert [(error.row, error.field) for error in errors] == [(0, "a"), (0, "b"), (1, "b"), (2, "a")]


def test_skipped_values_are_still_checked_for_null() -> None:
    schema = Schema((Field("id", String), Field("x", Float64)))
    batch = pa.RecordBatch.from_pydict({"id": ["a", None], "x": [1.0, 2.0]})
    columns, errors = columns_from_arrow(schema, batch, skip_values={"id"})
    assert list(columns) == ["x"]
    assert [(error.row, error.field, error.code) for error in errors] == [(1, "id", Reason.NULL_NOT_ALLOWED)]


def test_missing_columns_names_all_and_what_there_is() -> None:
    schema = Schema(
        (
            Field("plane_year", Int32),
            Field("origin", String),
            Field("gust", Float64),
            Field("tail", Nullable[String]),
        )
    )
    missing_columns(schema, ["origin", "plane_year"])
    message = r"lacks 2 required column\(s\): plane_year, origin. 'plane_year': Did you mean 'plane_yr'\? Available: dest, plane_yr."
    with pytest.raises(ContractError, match=message) as caught:
        missing_columns(schema, ["plane_yr", "dest"])
    assert caught.value.evidence == {"missing": ["plane_year", "origin"], "available": ["dest", "plane_yr"]}


def test_column_to_arrow_keeps_null_apart_and_nan_as_it_is() -> None:
    floats = column_to_arrow(Field("x", Float64), np.array([np.nan, -0.0]))
    assert (floats.null_count, str(floats.to_pylist())) == (0, "[nan, -0.0]")
    names = column_to_arrow(
        Field("x", Nullable[String]), Nullable(Strings.of(["", "a"]), np.array([False, True]))
    )
    assert names.to_pylist() == [None, "a"]
    times = column_to_arrow(Field("x", Timestamp), np.array([-1, 0]))
    assert (times.type, times.cast(pa.int64()).to_pylist()) == (US, [-1, 0])


def test_results_are_read_only() -> None:
    columns: list[Any] = [
        column_from_arrow(Field("x", Float64), pa.array([1.0]))[0],
        column_from_arrow(Field("x", Float64), pa.array([1], pa.int8()))[0],
        column_from_arrow(Field("x", Int64), pa.array([1]))[0],
        column_from_arrow(Field("x", Timestamp), pa.array([1], pa.timestamp("ms", "UTC")))[0],
        column_from_arrow(Field("x", String), pa.array(["a"]))[0].codes,
    ]
    assert not any(column.flags.writeable for column in columns)
    assert column_from_arrow(Field("x", Float32), pa.array([0.1]))[0].tolist() == [np.float32(0.1)]
