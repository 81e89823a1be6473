"""The contract: declarations that hold together, columns from JSON rows, and an error for every row that breaks it."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
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
    values_and_valid,
)
from feature_pipelines.errors import DefinitionError
from feature_pipelines.schema import (
    Field,
    Reason,
    RowError,
    Schema,
    build_column,
    null_value,
    range_errors,
    to_wire,
)

Money = Annotated[NDArray[np.int64], decimal(6, 2)]


def reasons(errors: list[RowError]) -> list[tuple[int, str, str]]:
    return [(error.row, error.field, str(error.code)) for error in errors]


def test_field_knows_type_and_null_rule() -> None:
    assert Field("x", Float64).accepts_null
    assert not Field("x", Float64, required=True).accepts_null
    assert Field("x", Nullable[Int32]).accepts_null
    assert not Field("x", Int32).accepts_null
    assert (str(Field("x", Nullable[Money]).dtype), Field("x", Nullable[Money]).nullable) == (
        "decimal(6, 2)",
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"type": int},
            r"field 'x': <class 'int'> is not a column type; use one of feature_pipelines.columns",
        ),
        (
            {"type": Nullable[Float64]},
            "field 'x': do not declare it Nullable, null is NaN in a float already",
        ),
        (
            {"type": Nullable[Int32], "required": True},
            "field 'x': do not declare it Nullable, it is required as well",
        ),
        ({"type": String, "minimum": 0}, "field 'x': a string has no minimum or maximum"),
        ({"type": Bool, "maximum": 1}, "field 'x': a bool has no minimum or maximum"),
        (
            {"type": Float64, "minimum": 2, "maximum": 1},
            "minimum=2 and maximum=1 must be finite and in order",
        ),
        ({"type": Float64, "maximum": math.inf}, "minimum=None and maximum=inf must be finite"),
        ({"type": Float64, "minimum": math.nan}, "minimum=nan and maximum=None must be finite"),
    ],
)
def test_field_refuses_a_declaration_that_cannot_hold(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Field("x", **arguments)


def test_field_describes_all_but_its_documentation() -> None:
    first = Field("x", Int64, "one doc", minimum=0, tags=("pii",))
    assert first.describe() == Field("x", Int64, "another", minimum=0, tags=("pii",)).describe()
    others = [
        Field("y", Int64, minimum=0, tags=("pii",)),
        Field("x", Int32, minimum=0, tags=("pii",)),
        Field("x", Nullable[Int64], minimum=0, tags=("pii",)),
        Field("x", Int64, minimum=1, tags=("pii",)),
        Field("x", Int64, minimum=0, maximum=9, tags=("pii",)),
        Field("x", Int64, minimum=0),
        Field("x", Int64, minimum=0, tags=("pii",), required=True),
        Field("x", Int64, minimum=0, tags=("pii",), infinite=True),
    ]
    assert all(other.describe() != first.describe() for other in others)


def test_schema_finds_fields_by_name() -> None:
    schema = Schema((Field("plane_year", Float64), Field("origin", String)))
    assert schema.names == ("plane_year", "origin")
    assert "origin" in schema
    assert schema["origin"].dtype.kind == "string"
    with pytest.raises(
        DefinitionError,
        match=r"no field 'plane_yr'. Did you mean 'plane_year'\? Available: origin, plane_year.",
    ):
        schema["plane_yr"]


def test_schema_refuses_a_name_declared_twice() -> None:
    with pytest.raises(DefinitionError, match="schema declares more than once: a"):
        Schema((Field("a", Float64), Field("b", Float64), Field("a", Int64)))


def test_from_rows_gives_each_column_its_declared_form() -> None:
    schema = Schema(
        (
            Field("f", Float64),
            Field("i", Nullable[Int64]),
            Field("s", Nullable[String]),
            Field("t", Timestamp),
            Field("b", Bool),
            Field("m", Money),
            Field("x", Binary),
        )
    )
    row = {
        "f": 1.5,
        "i": "9007199254740993",
        "s": "",
        "t": "1970-01-01T00:00:01Z",
        "b": True,
        "m": "1.50",
        "x": "AA==",
    }
    sparse = {"t": 0, "b": False, "m": "0", "x": "", "f": None}
    columns, errors = schema.from_rows([row, sparse])
    assert errors == []
    assert columns["f"].dtype == np.float64
    assert columns["i"].values.tolist() == [9007199254740993, 0]
    assert columns["i"].valid.tolist() == [True, False]
    assert columns["s"].values.tolist() == ["", ""]
    assert columns["s"].valid.tolist() == [True, False]
    assert columns["t"].tolist() == [1_000_000, 0]
    assert columns["b"].tolist() == [True, False]
    assert columns["m"].tolist() == [150, 0]
    assert columns["x"].tolist() == [b"\x00", b""]
    with pytest.raises(ValueError, match="read-only"):
        columns["f"][0] = 0.0


def test_from_rows_of_nothing_gives_empty_columns_of_the_declared_types() -> None:
    schema = Schema((Field("f", Float32), Field("s", String), Field("x", Nullable[Binary])))
    columns, errors = schema.from_rows([])
    assert errors == []
    assert (columns["f"].dtype, len(columns["f"]), len(columns["s"])) == (np.float32, 0, 0)
    assert (columns["x"].values.dtype, columns["x"].valid.dtype) == (np.object_, np.bool_)


def test_from_rows_reports_every_broken_row_and_keeps_the_others() -> None:
    schema = Schema((Field("n", Int32, minimum=0), Field("f", Float64, required=True)))
    rows: list[Any] = [
        {"n": 1, "f": 1.0},
        {"n": -1, "f": None},
        "not a row",
        {"n": 2, "f": 2.0, "ff": 1},
        None,
        {"n": 2**31, "f": "NaN"},
        {"n": 3, "f": 3.0},
    ]
    columns, errors = schema.from_rows(rows)
    assert reasons(errors) == [
        (1, "n", "OUT_OF_RANGE"),
        (1, "f", "NULL_NOT_ALLOWED"),
        (2, "", "UNREADABLE_ROW"),
        (3, "ff", "UNKNOWN_FIELD"),
        (4, "", "UNREADABLE_ROW"),
        (5, "n", "INTEGER_OVERFLOW"),
        (5, "f", "NULL_NOT_ALLOWED"),
    ]
    assert "Did you mean 'f'? Available: f, n." in errors[3].message
    assert [columns["n"][i] for i in (0, 3, 6)] == [1, 2, 3]
    assert columns["n"][1] == 0
    assert len(columns["f"]) == len(rows)


@pytest.mark.parametrize(
    ("declared", "wire", "code"),
    [
        (Field("x", Int32), None, Reason.NULL_NOT_ALLOWED),
        (Field("x", String), None, Reason.NULL_NOT_ALLOWED),
        (Field("x", Float64, required=True), "NaN", Reason.NULL_NOT_ALLOWED),
        (Field("x", Float64), "Infinity", Reason.NOT_FINITE),
        (Field("x", Float64), 10**400, Reason.NOT_FINITE),
        (Field("x", Float32), 1e39, Reason.NOT_FINITE),
        (Field("x", Int64, minimum=2**53), 2**53 - 1, Reason.OUT_OF_RANGE),
        (Field("x", Int64, maximum=2**53), 2**53 + 1, Reason.OUT_OF_RANGE),
        (Field("x", Int32, minimum=0.5), 0, Reason.OUT_OF_RANGE),
        (Field("x", Float64, minimum=0), -5e-324, Reason.OUT_OF_RANGE),
        (Field("x", Float32, maximum=0.1), 0.1, Reason.OUT_OF_RANGE),
        (Field("x", Money, maximum=100), "1.01", Reason.OUT_OF_RANGE),
        (Field("x", Timestamp, minimum=0), "1969-12-31T23:59:59.999999Z", Reason.OUT_OF_RANGE),
    ],
)
def test_build_column_refuses_what_the_field_forbids(declared: Field, wire: Any, code: Reason) -> None:
    column, errors = build_column(declared, [wire])
    assert reasons(errors) == [(0, "x", str(code))]
    assert len(column) == 1


@pytest.mark.parametrize(
    ("declared", "wire"),
    [
        (Field("x", Int64, minimum=2**53, maximum=2**53), 2**53),
        (Field("x", Float64, minimum=0, maximum=0), -0.0),
        (Field("x", Float64, minimum=0), None),
        (Field("x", Float64, infinite=True), "-Infinity"),
        (Field("x", Nullable[Int32], minimum=5), None),
        (Field("x", Int32, minimum=0.5), 1),
        (Field("x", Int32, maximum=0.5), 0),
    ],
)
def test_bounds_are_inclusive_and_null_breaks_none(declared: Field, wire: Any) -> None:
    assert build_column(declared, [wire])[1] == []


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        (Field("x", Float32, maximum=0.1), np.array([0.1, 0.09], dtype=np.float32)),
        (Field("x", Float32, minimum=0.3), np.array([0.3, 0.31], dtype=np.float32)),
        (Field("x", Int64, maximum=2**53), np.array([2**53 + 1, 2**53])),
        (Field("x", Int64, minimum=-(2**53)), np.array([-(2**53) - 1, 0])),
        (Field("x", Int32, minimum=-(2**40), maximum=2**40), np.array([2**31 - 1, -(2**31)], dtype=np.int32)),
        (Field("x", Int32, minimum=-0.5, maximum=0.5), np.array([-1, 0, 1], dtype=np.int32)),
        (Field("x", Float64, minimum=0, maximum=1), np.array([np.nan, np.inf, -1.0, 2.0])),
    ],
)
def test_range_errors_of_a_column_are_those_of_its_values(declared: Field, values: NDArray[Any]) -> None:
    by_column = {error.row for error in range_errors(declared, values, None)}
    by_value = {error.row for error in build_column(declared, to_wire(declared, values))[1]}
    assert by_column == by_value


def test_range_errors_leave_nulls_alone() -> None:
    declared = Field("x", Nullable[Int32], minimum=5)
    errors = range_errors(declared, np.array([0, 0], dtype=np.int32), np.array([True, False]))
    assert [error.row for error in errors] == [0]


def test_null_value_is_fixed_per_type() -> None:
    kinds = {kind: null_value(Field("x", kind).dtype) for kind in (String, Binary, Bool, Int64, Timestamp)}
    assert list(kinds.values()) == ["", b"", False, 0, 0]
    assert math.isnan(null_value(Field("x", Float32).dtype))


def test_to_wire_writes_null_where_there_is_no_value() -> None:
    column = Nullable(Strings.of(["", "a"]), np.array([False, True]))
    assert to_wire(Field("x", Nullable[String]), column) == [None, "a"]
    assert to_wire(Field("x", Float64), np.array([np.nan, 1.0])) == [None, 1.0]
    assert to_wire(Field("x", Nullable[Int64]), Nullable(np.array([2**60, 0]), np.array([True, False]))) == [
        str(2**60),
        None,
    ]


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        (Field("n", Int64), [1, -(2**63), 2**63 - 1]),
        (Field("n", Int64), [1, 2**63]),
        (Field("n", Int64), [1, True]),
        (Field("n", Int64), [1, "2", 3]),
        (Field("n", Int32, minimum=0, maximum=10), [0, 10]),
        (Field("n", Int32, minimum=0, maximum=10), [-1, 5, 11]),
        (Field("n", Nullable[Int64]), [1, None]),
        (Field("t", Timestamp), [0, 1]),
        (Field("x", Float64), [1, 2**53 + 1]),
        (Field("x", Float64), ["NaN"]),
        (Field("b", Bool), [1, 0]),
        (Field("s", String), ["a", "", "a", "b"]),
        (Field("s", String), ["a", "\ud800", "\udc00"]),
        (Field("s", String), ["a", 1]),
        (Field("s", Nullable[String]), ["a", "b"]),
        (Field("d", Binary), ["YQ==", "!"]),
        (Field("n", Int64), []),
    ],
)
def test_column_judged_as_a_whole_is_that_of_its_values_one_by_one(
    declared: Field, values: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, errors = build_column(declared, values)
    monkeypatch.setattr("feature_pipelines.schema._built_whole", lambda *_: None)
    expected, broken = build_column(declared, values)
    assert errors == broken
    (held, valid), (each, flags) = values_and_valid(found), values_and_valid(expected)
    assert type(held) is type(each)
    assert repr(held.tolist()) == repr(each.tolist())
    for one, other in ((held, each), (valid, flags)):
        if isinstance(one, np.ndarray):
            assert isinstance(other, np.ndarray)
            assert one.dtype == other.dtype
            assert not one.flags.writeable
            assert one.tolist() == other.tolist() or declared.dtype.is_float
    assert (valid is None) == (flags is None)
