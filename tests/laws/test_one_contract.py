"""L5: the in-memory form of a column depends on its declared type alone.

One table of nasty values, written down once in the wire form and once in every Arrow type and encoding that holds them. Each must
give the same raw bits: whole, one row at a time and seven at a time, sliced at an offset, through IPC and Parquet, in any time zone.
"""

from __future__ import annotations

import decimal as python_decimal
import io
import math
import time
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Binary,
    Bool,
    Column,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Strings,
    Timestamp,
    concat,
    decimal,
)
from feature_pipelines.schema import Field, build_column, to_wire
from feature_pipelines.schema_arrow import column_from_arrow, column_to_arrow

Money = Annotated[NDArray[np.int64], decimal(18, 4)]
UTC = "UTC"
BIG = 2**53 + 1
DAY = 86_400_000_000


def bits(column: Column) -> Any:
    """Return what must be equal: raw bytes, never values that == could call equal."""
    if isinstance(column, Nullable):
        return bits(column.values), column.valid.dtype, column.valid.tobytes()
    if isinstance(column, Strings):
        return [text.encode() for text in column.tolist()], column.codes.dtype
    if column.dtype == np.object_:
        return column.tolist()
    return column.dtype, column.view(f"u{column.dtype.itemsize}").tolist()


def nans() -> NDArray[np.float64]:
    """NaNs of every kind: quiet, signalling, negative, with payload."""
    return np.array(
        [0x7FF8000000000000, 0x7FF0000000000001, 0xFFF8000000000000, 0xFFFFFFFFFFFFFFFF, 0x7FF8DEADBEEF0001],
        dtype=np.uint64,
    ).view(np.float64)


def floats32(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


FLOATS = [
    0.1,
    -0.0,
    0.0,
    5e-324,
    -2.5e-310,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    None,
    2.0**53,
    1 / 3,
]
FLOATS_WIRE = [
    *("Infinity" if v == math.inf else "-Infinity" if v == -math.inf else v for v in FLOATS),
    *["NaN"] * 5,
]
FLOATS_ARROW = pa.concat_arrays([pa.array(FLOATS, pa.float64()), pa.array(nans())])
NARROW = [0.1, -0.0, 1e-45, 3.4028234663852886e38, 16777216.0, None]
INTS = [BIG, None, -BIG, 0, 2**63 - 1, -(2**63), None, 1]
SMALL = [0, None, -128, 127]
BOOLS = [True, None, False, None, True]
TEXTS = ["", None, "\u00e9", "e\u0301", "NA", "\x00", " ", "\U0001f6eb", "", "null"]
BYTES = [b"", None, b"\x00", b"\xff\xfe", b"abc"]
TIMES = [
    0,
    -1,
    None,
    1_383_460_200_000_000,
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
    -(2**63),
    2**63 - 1,
]
MS_TIMES = [0, -1_000, None, 1_383_460_200_000_000, -62_135_596_800_000_000]
S_TIMES = [0, -1_000_000, None, 1_383_460_200_000_000]
AMOUNTS = ["0.0000", "-0.0001", None, "99999999999999.9999", "-99999999999999.9999", "1.5000"]
DECIMALS = [None if a is None else python_decimal.Decimal(a) for a in AMOUNTS]


def dictionary(values: list[Any], index: pa.DataType, type_: pa.DataType, extra: list[Any]) -> pa.Array:
    """A dictionary with entries that nobody uses, some twice, and nulls among its values."""
    entries = [*extra, *dict.fromkeys(values), *extra]
    places = [entries.index(value) if value is not None else None for value in values]
    nulls = [i for i, value in enumerate(entries) if value is None]
    if nulls and None in places:
        places[places.index(None)] = nulls[0]
    return pa.DictionaryArray.from_arrays(pa.array(places, index), pa.array(entries, type_))


CASES: dict[str, tuple[Field, list[Any], list[pa.Array]]] = {
    "float64": (Field("x", Float64, infinite=True), FLOATS_WIRE, [FLOATS_ARROW]),
    "float64 from narrower": (
        Field("x", Float64),
        [0.5, -0.0, 2.0, None],
        [
            pa.array([0.5, -0.0, 2.0, None], pa.float32()),
            pa.array([0.5, -0.0, 2.0, None], pa.float16()),
        ],
    ),
    "float64 from integers": (
        Field("x", Float64),
        [0, 1, None, 100, 127],
        [
            pa.array([0, 1, None, 100, 127], kind())
            for kind in (pa.int8, pa.uint8, pa.int16, pa.int32, pa.int64, pa.uint64)
        ],
    ),
    "float32": (
        Field("x", Float32, infinite=True),
        [*NARROW, "Infinity", "NaN"],
        [
            pa.array([*NARROW, math.inf, math.nan], pa.float32()),
            pa.array([*NARROW, math.inf, math.nan], pa.float64()),
            pa.array(floats32(0.1, -0.0, 1e-45, 3.4028234663852886e38, 16777216.0, np.nan, np.inf, -np.nan)),
        ],
    ),
    "int64": (
        Field("x", Nullable[Int64]),
        INTS,
        [pa.array(INTS), pa.array([None if i is None else str(i) for i in INTS])],
    ),
    "int64 from narrower": (
        Field("x", Nullable[Int64]),
        SMALL,
        [pa.array(SMALL, kind()) for kind in (pa.int8, pa.int16, pa.int32, pa.int64)],
    ),
    "int64 from unsigned": (
        Field("x", Nullable[Int64]),
        [0, 255, None],
        [pa.array([0, 255, None], kind()) for kind in (pa.uint8, pa.uint16, pa.uint32, pa.uint64)],
    ),
    "int64 never null": (Field("x", Int64), [BIG, -BIG, 0], [pa.array([BIG, -BIG, 0])]),
    "int32": (
        Field("x", Nullable[Int32]),
        [2**31 - 1, None, -(2**31)],
        [pa.array([2**31 - 1, None, -(2**31)], kind()) for kind in (pa.int32, pa.int64)],
    ),
    "bool": (Field("x", Nullable[Bool]), BOOLS, [pa.array(BOOLS)]),
    "string": (
        Field("x", Nullable[String]),
        TEXTS,
        [
            pa.array(TEXTS, pa.string()),
            pa.array(TEXTS, pa.large_string()),
            pa.array(TEXTS, pa.string_view()),
            dictionary(TEXTS, pa.int8(), pa.string(), ["unused", ""]),
            dictionary(TEXTS, pa.uint32(), pa.large_string(), []),
            dictionary(TEXTS, pa.int64(), pa.string_view(), ["unused"]),
        ],
    ),
    "string never null": (Field("x", String), ["", "a", ""], [pa.array(["", "a", ""])]),
    "binary": (
        Field("x", Nullable[Binary]),
        ["", None, "AA==", "//4=", "YWJj"],
        [
            pa.array(BYTES, pa.binary()),
            pa.array(BYTES, pa.large_binary()),
            pa.array(BYTES, pa.binary_view()),
            pa.array(["", None, "AA==", "//4=", "YWJj"]),
            dictionary(BYTES, pa.int16(), pa.binary(), [b"unused"]),
            dictionary(BYTES, pa.int16(), pa.binary_view(), []),
        ],
    ),
    "binary of fixed size": (
        Field("x", Nullable[Binary]),
        ["AAE=", None],
        [pa.array([b"\x00\x01", None], pa.binary(2))],
    ),
    "timestamp": (
        Field("x", Nullable[Timestamp]),
        [*TIMES[:6], -(2**63), 2**63 - 1],
        [pa.array(TIMES, pa.timestamp("us", zone)) for zone in (UTC, "America/New_York", "+05:45")]
        + [pa.array(TIMES)],
    ),
    "timestamp as text": (
        Field("x", Nullable[Timestamp]),
        TIMES[:6],
        [
            pa.array(
                [
                    "1970-01-01T00:00:00Z",
                    "1969-12-31T23:59:59.999999Z",
                    None,
                    "2013-11-03T01:30:00-05:00",
                    "0001-01-01T05:45:00+05:45",
                    "9999-12-31T23:59:59.999999000Z",
                ]
            ),
        ],
    ),
    "timestamp from milliseconds": (
        Field("x", Nullable[Timestamp]),
        MS_TIMES,
        [pa.array([None if t is None else t // 1000 for t in MS_TIMES], pa.timestamp("ms", UTC))],
    ),
    "timestamp from seconds and nanoseconds": (
        Field("x", Nullable[Timestamp]),
        S_TIMES,
        [
            pa.array([None if t is None else t // 10**6 for t in S_TIMES], pa.timestamp("s", UTC)),
            pa.array([None if t is None else t * 1000 for t in S_TIMES], pa.timestamp("ns", UTC)),
        ],
    ),
    "decimal": (
        Field("x", Nullable[Money]),
        AMOUNTS,
        [
            pa.array(DECIMALS, pa.decimal128(18, 4)),
            pa.array(DECIMALS, pa.decimal128(38, 10)),
            pa.array(DECIMALS, pa.decimal256(76, 20)),
            pa.array(AMOUNTS),
            dictionary(DECIMALS, pa.int8(), pa.decimal128(18, 4), []),
        ],
    ),
    "nothing but nulls": (
        Field("x", Nullable[Int64]),
        [None] * 3,
        [pa.nulls(3), pa.nulls(3, pa.int8()), pa.nulls(3, pa.string())],
    ),
    "no float at all": (
        Field("x", Float64),
        [None] * 3,
        [pa.nulls(3), pa.nulls(3, pa.int8()), pa.nulls(3, pa.float32())],
    ),
}


def encodings(array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Yield the array in the encodings that Arrow itself can make of it."""
    yield "plain", array
    if pa.types.is_dictionary(array.type):
        return
    if not (pa.types.is_null(array.type) or pa.types.is_float16(array.type)):
        yield "dictionary", array.dictionary_encode()
        runs = pa.array(range(1, len(array) + 1), pa.int32())
        yield "run-end", pa.RunEndEncodedArray.from_arrays(runs, array)


def slicings(array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Yield the array as a slice of longer ones, so that it has an offset in bytes and in bits."""
    for before, after in ((1, 0), (9, 3)):
        around = pa.concat_arrays([array] * (before // len(array) + 1))
        padded = pa.concat_arrays([around.slice(0, before), array, array.slice(0, after)])
        yield f"sliced at {before}", padded.slice(before, len(array))


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[Field, list[Any], dict[str, pa.Array]]:
    """A field, values in the wire form, and the same values in every Arrow type and encoding."""
    declared, wire, arrays = CASES[request.param]
    return declared, wire, {f"{a.type}, {how}": version for a in arrays for how, version in encodings(a)}


Case = tuple[Field, list[Any], dict[str, pa.Array]]


def test_every_arrow_form_has_the_bits_of_the_wire_form(case: Case) -> None:
    declared, wire, arrays = case
    expected, refused = build_column(declared, wire)
    assert refused == []
    for how, array in arrays.items():
        column, errors = column_from_arrow(declared, array)
        assert errors == [], how
        assert bits(column) == bits(expected), how


@pytest.mark.parametrize("size", [1, 7])
def test_batches_of_any_size_and_offset_have_the_same_bits(case: Case, size: int) -> None:
    declared, wire, arrays = case
    expected = bits(build_column(declared, wire)[0])
    starts = range(0, len(wire), size)
    assert bits(concat([build_column(declared, wire[i : i + size])[0] for i in starts])) == expected
    for how, array in arrays.items():
        for where, version in (("whole", array), *slicings(array)):
            batch = pa.RecordBatch.from_arrays([version], ["x"])
            parts = [column_from_arrow(declared, batch.slice(i, size).column(0))[0] for i in starts]
            assert bits(concat(parts)) == expected, (how, where)


def test_chunks_of_a_table_have_the_same_bits(case: Case) -> None:
    declared, wire, arrays = case
    expected = bits(build_column(declared, wire)[0])
    for how, array in arrays.items():
        table = pa.Table.from_arrays([pa.chunked_array([array.slice(0, 1), array.slice(1)])], ["x"])
        parts = [column_from_arrow(declared, b.column(0))[0] for b in table.to_batches(max_chunksize=2)]
        assert len(parts) > 1
        assert bits(concat(parts)) == expected, how


def test_files_and_streams_have_the_same_bits(case: Case) -> None:
    declared, wire, arrays = case
    expected = bits(build_column(declared, wire)[0])
    for how, array in arrays.items():
        table = pa.Table.from_arrays([array], ["x"])
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        (streamed,) = pa.ipc.open_stream(sink.getvalue()).read_all().to_batches()
        assert bits(column_from_arrow(declared, streamed.column(0))[0]) == expected, how
        if not parquet_can_hold(array):
            continue
        for as_dictionary in ([], ["x"]):
            sink = io.BytesIO()
            pq.write_table(table, sink)
            (read,) = pq.ParquetFile(sink, read_dictionary=as_dictionary).read().combine_chunks().to_batches()
            assert bits(column_from_arrow(declared, read.column(0))[0]) == expected, how


def parquet_can_hold(array: pa.Array) -> bool:
    """Whether pyarrow writes it: not runs, not dictionaries with views or nulls as values."""
    if pa.types.is_dictionary(array.type):
        is_view = array.type.value_type in (pa.string_view(), pa.binary_view())
        return not is_view and array.dictionary.null_count == 0
    return not pa.types.is_run_end_encoded(array.type)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
def test_the_time_zone_of_the_process_changes_nothing(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declared, wire, arrays = CASES["timestamp as text"]
    expected = bits(build_column(declared, wire)[0])
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for array in (*arrays, *(a.slice(0, 6) for a in CASES["timestamp"][2])):
            column, _ = column_from_arrow(declared, array)
            assert bits(column) == expected
            assert to_wire(declared, column)[3] == "2013-11-03T06:30:00Z"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_value_does_not_depend_on_a_null_beside_it() -> None:
    declared = Field("x", Nullable[Int64])
    alone = column_from_arrow(declared, pa.array([BIG]))[0]
    beside = column_from_arrow(declared, pa.array([BIG, None]))[0]
    assert isinstance(alone, Nullable)
    assert isinstance(beside, Nullable)
    assert alone.values.tolist() == beside.values.tolist()[:1] == [BIG]
    assert alone.values.dtype == beside.values.dtype == np.int64


def test_every_nan_is_the_canonical_one() -> None:
    column = column_from_arrow(Field("x", Float64), pa.array(nans()))[0]
    assert isinstance(column, np.ndarray)
    assert set(column.view(np.uint64).tolist()) == {0x7FF8000000000000}
    narrow = np.array([0x7FC00000, 0xFFC00001, 0x7F800001], dtype=np.uint32).view(np.float32)
    column = column_from_arrow(Field("x", Float32), pa.array(narrow))[0]
    assert isinstance(column, np.ndarray)
    assert set(column.view(np.uint32).tolist()) == {0x7FC00000}
    column = column_from_arrow(Field("x", Float64), pa.array(narrow))[0]
    assert isinstance(column, np.ndarray)
    assert set(column.view(np.uint64).tolist()) == {0x7FF8000000000000}


VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Float64, st.floats(allow_nan=False)),
    (Float32, st.floats(allow_nan=False, width=32)),
    (Int64, st.integers(-(2**63), 2**63 - 1)),
    (Int32, st.integers(-(2**31), 2**31 - 1)),
    (Bool, st.booleans()),
    (Timestamp, st.integers(-(2**63), 2**63 - 1)),
    (Money, st.integers(-(10**18) + 1, 10**18 - 1)),
    (String, st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    (Binary, st.binary(max_size=5)),
]


def column_of(declared: Field, values: list[Any]) -> Column:
    """Build the column by hand, not by any of the code under test."""
    filler = {"string": "", "binary": b"", "bool": False}.get(
        declared.dtype.kind, math.nan if declared.dtype.is_float else 0
    )
    filled = [filler if value is None else value for value in values]
    column: Any
    if declared.dtype.kind == "string":
        column = Strings.of(filled)
    elif declared.dtype.kind == "binary":
        column = np.empty(len(filled), dtype=np.object_)
        column[:] = filled
    else:
        column = np.array(filled, dtype=declared.dtype.numpy)
    valid = np.array([value is not None for value in values], dtype=np.bool_)
    return Nullable(column, valid) if declared.nullable else column


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), place=st.integers(0, len(VALUES) - 1), may_be_null=st.booleans())
def test_wire_and_arrow_round_trips_are_exact(data: st.DataObject, place: int, may_be_null: bool) -> None:
    type_, strategy = VALUES[place]
    is_float = type_ in (Float64, Float32)
    declared = Field("x", Nullable[type_] if may_be_null and not is_float else type_, infinite=is_float)
    values = data.draw(
        st.lists(st.one_of(st.none(), strategy) if declared.accepts_null else strategy, max_size=12)
    )
    column = column_of(declared, values)
    by_wire, refused = build_column(declared, to_wire(declared, column))
    assert refused == []
    assert bits(by_wire) == bits(column)
    start = data.draw(st.integers(0, len(values)))
    array = column_to_arrow(declared, column)
    for how, version in encodings(array):
        by_arrow, errors = column_from_arrow(declared, version.slice(start))
        assert errors == []
        assert bits(by_arrow) == bits(column_of(declared, values[start:])), how


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=12))
def test_narrowing_agrees_with_the_wire_form_on_what_overflows(values: list[int | None]) -> None:
    declared = Field("x", Nullable[Int32], minimum=-5, maximum=2**31 - 2)
    by_wire, refused = build_column(declared, values)
    by_arrow, errors = column_from_arrow(declared, pa.array(values, pa.int64()))
    assert [(e.row, e.code) for e in errors] == [(e.row, e.code) for e in refused]
    assert bits(by_arrow) == bits(by_wire)


def test_the_cases_hold_what_the_law_names() -> None:
    array = FLOATS_ARROW.to_numpy(zero_copy_only=False)
    assert np.signbit(array[1])
    assert 0 < array[3] < np.finfo(np.float64).tiny
    assert len({bits.item() for bits in nans().view(np.uint64)}) == 5
    assert pc.min(pa.array(TIMES)).as_py() == -(2**63)
    assert {str(array.type) for _, _, arrays in CASES.values() for array in arrays} >= {
        "string_view",
        "large_string",
        "timestamp[ns, tz=UTC]",
        "timestamp[ms, tz=UTC]",
        "timestamp[s, tz=UTC]",
        "decimal256(76, 20)",
    }
