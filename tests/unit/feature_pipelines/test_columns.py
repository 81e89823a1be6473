"""Columns: one in-memory form per declared type, read-only."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Bool,
    DType,
    Float32,
    Float64,
    Int32,
    Nullable,
    String,
    Strings,
    Timestamp,
    Vector,
    concat,
    decimal,
    declared_type,
    freeze,
    length,
    take,
    values_and_valid,
)
from feature_pipelines.errors import DefinitionError


def test_declared_type_reads_the_annotation() -> None:
    money = Annotated[NDArray[np.int64], decimal(12, 2)]
    assert declared_type(Float64) == (DType("float64"), False)
    assert declared_type(Nullable[Int32]) == (DType("int32"), True)
    assert declared_type(Nullable[money]) == (DType("decimal", 12, 2), True)
    assert declared_type(DType("bool")) == (DType("bool"), False)


@pytest.mark.parametrize(
    "annotation", [int, None, "Float64", NDArray[np.float64], Nullable[int], list[float]]
)
def test_declared_type_of_anything_else_is_none(annotation: object) -> None:
    assert declared_type(annotation) is None


def test_dtype_knows_its_memory_and_use() -> None:
    kinds = {
        kind: DType(kind) for kind in ("float64", "float32", "int64", "int32", "bool", "timestamp", "string")
    }
    assert kinds["timestamp"].numpy == np.int64
    assert kinds["string"].numpy == np.int32
    assert [kind for kind, dtype in kinds.items() if dtype.is_float] == ["float64", "float32"]
    assert [kind for kind, dtype in kinds.items() if not dtype.is_numeric] == ["timestamp", "string"]


def test_decimal_holds_up_to_18_digits() -> None:
    assert str(decimal(18, 18)) == "decimal(18, 18)"
    assert decimal(1, 0).numpy == np.int64
    for precision, scale in [(0, 0), (19, 2), (5, 6), (5, -1)]:
        with pytest.raises(
            DefinitionError, match=rf"decimal\({precision}, {scale}\): precision must be 1 to 18"
        ):
            decimal(precision, scale)


def test_strings_of_keeps_rows_and_their_exact_characters() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    rows = ["UA", "", composed, "UA", decomposed]
    column = Strings.of(rows)
    assert column.tolist() == rows
    assert len(column) == 5
    assert len(column.categories) == 4


def test_strings_of_nothing_is_empty() -> None:
    column = Strings.of([])
    assert (len(column), column.tolist(), column.encode(["a"]).tolist()) == (0, [], [])


def test_strings_encode_counts_unknown_as_one_more() -> None:
    column = Strings.of(["B6", "UA", "??", "B6"])
    assert column.encode(["UA", "B6"]).tolist() == [1, 0, 2, 1]
    assert column.encode([]).tolist() == [0, 0, 0, 0]
    assert column.encode(["UA"]).dtype == np.int64


def test_strings_encode_is_told_by_what_the_vocabulary_holds_now() -> None:
    column = Strings.of(["UA", "B6", "UA"])
    vocabulary = ["UA", "B6"]
    assert column.encode(vocabulary).tolist() == [0, 1, 0]
    vocabulary.reverse()  # positions are remembered by content, not by object
    assert column.encode(vocabulary).tolist() == [1, 0, 1]
    assert column.encode(("B6", "UA", "B6")).tolist() == [1, 2, 1]  # of a name that stands twice, the last


def test_strings_lookup_gives_the_default_where_the_table_has_none() -> None:
    found = Strings.of(["a", "b", "a"]).lookup({"a": 1.5}, default=-1.0)
    assert found.tolist() == [1.5, -1.0, 1.5]
    assert found.dtype == np.float64


def test_strings_with_repeated_and_unused_categories_mean_the_same() -> None:
    column = Strings(np.array([0, 2, 1], dtype=np.int32), ("a", "b", "a", "never"))
    assert column.tolist() == ["a", "a", "b"]
    assert column.encode(["b", "a"]).tolist() == [1, 1, 0]


def test_take_selects_rows_by_integers_and_by_mask() -> None:
    pairs = Nullable(np.array([1, 2, 3]), np.array([True, False, True]))
    taken = take(pairs, np.array([2, 0]))
    assert isinstance(taken, Nullable)
    assert (taken.values.tolist(), taken.valid.tolist()) == ([3, 1], [True, True])
    mask = np.array([False, True, True])
    names = take(Strings.of(["a", "b", "a"]), mask)
    assert isinstance(names, Strings)
    assert names.tolist() == ["b", "a"]


def test_take_and_concat_are_inverse_and_read_only() -> None:
    columns = [
        np.array([1.0, np.nan, -0.0]),
        Strings.of(["x", "y", "x"]),
        Nullable(Strings.of(["x", "", "y"]), np.array([True, False, True])),
        Nullable(np.array([5, 0, 7], dtype=np.int32), np.array([True, False, True])),
    ]
    for column in columns:
        again = concat([take(column, np.array([0])), take(column, np.array([1, 2]))])
        assert length(again) == 3
        values, valid = values_and_valid(again)
        expected, expected_valid = values_and_valid(column)
        if isinstance(expected, Strings):
            assert isinstance(values, Strings)
            assert values.tolist() == expected.tolist()
            assert not values.codes.flags.writeable
        else:
            assert isinstance(values, np.ndarray)
            assert values.tobytes() == expected.tobytes()
            assert not values.flags.writeable
        if expected_valid is not None:
            assert valid is not None
            assert valid.tolist() == expected_valid.tolist()
            assert not valid.flags.writeable


def test_freeze_makes_every_array_read_only() -> None:
    column = freeze(Nullable(Strings.of(["a"]), np.array([True])))
    assert isinstance(column, Nullable)
    with pytest.raises(ValueError, match="read-only"):
        column.valid[0] = False
    with pytest.raises(ValueError, match="read-only"):
        column.values.codes[0] = 0


def test_length_counts_rows_of_each_form() -> None:
    assert length(np.zeros(3)) == 3
    assert length(Strings.of(["a"])) == 1
    assert length(Nullable(np.zeros(2), np.ones(2, dtype=np.bool_))) == 2


def test_annotations_are_usable_as_types() -> None:
    def f(a: Float32, b: Bool, c: Timestamp, d: String) -> Float32:
        return a

    assert (
        f(np.zeros(1, np.float32), np.zeros(1, np.bool_), np.zeros(1, np.int64), Strings.of(["a"])).dtype
        == np.float32
    )


def test_a_vector_says_how_many_values_a_row_has() -> None:
    declared = declared_type(Vector[Float64, 64])
    assert declared == (DType("float64", size=64), False)
    dtype, _ = declared
    assert str(dtype) == "vector(float64, 64)"
    assert dtype.shape(3) == (64, 3)
    assert DType("float64").shape(3) == (3,)
    assert dtype != DType("float64", size=63)
    assert dtype.is_numeric


@pytest.mark.parametrize(
    "parameters", [Float64, (Float64, 0), (Float64, 2.0), (Float64, True), (Float32, 2), (Float64, 2, 2)]
)
def test_a_vector_of_anything_else_is_refused(parameters: Any) -> None:
    with pytest.raises(
        DefinitionError,
        match=r"expected Float64 and how many values a row has, such as Vector\[Float64, 64\]",
    ):
        Vector[parameters]
