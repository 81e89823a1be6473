"""Every Arrow value comes back from its JSON with the bits it had."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.runs.row_json import rows_as_json, rows_from_json

unhurried = settings(deadline=None)
INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
FLOAT64 = st.floats(allow_nan=True)
LEAVES = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int64(): INT64,
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): FLOAT64,
    pa.float32(): st.floats(width=32),
    pa.float16(): st.floats(width=16),
    pa.string(): st.text(),
    pa.large_string(): st.text(),
    pa.string_view(): st.text(),
    pa.binary(): st.binary(),
    pa.large_binary(): st.binary(),
    pa.binary_view(): st.binary(),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal128(38, 10): st.decimals(-(10**27), 10**27, places=10),
    pa.decimal128(9, 0): st.decimals(-(10**8), 10**8, places=0),
    pa.decimal256(60, 5): st.decimals(-(10**50), 10**50, places=5),
    pa.date32(): INT32,
    pa.date64(): st.integers(-(10**8), 10**8).map(lambda days: days * 86_400_000),
    pa.time32("s"): st.integers(0, 86_399),
    pa.time64("ns"): st.integers(0, 86_400 * 10**9 - 1),
    pa.duration("us"): INT64,
    pa.timestamp("s"): st.integers(-(2**55), 2**55),
    pa.timestamp("ms", tz="UTC"): st.integers(-(2**62), 2**62),
    pa.timestamp("us", tz="UTC"): INT64,
    pa.timestamp("us", tz="Asia/Kathmandu"): INT64,
    pa.timestamp("us"): INT64,
    pa.timestamp("ns"): INT64,
    pa.null(): st.none(),
}


def arrays(type_, values):
    return st.lists(st.none() | values, max_size=8).map(lambda drawn: pa.array(drawn, type_))


def nested(type_, values):
    """Arrays of lists, structs and maps of a leaf type."""
    one = st.none() | values
    lists = st.lists(one, max_size=3)
    keys = st.lists(st.tuples(st.text(max_size=3), one), max_size=3, unique_by=lambda pair: pair[0])
    return st.one_of(
        arrays(pa.list_(type_), lists),
        arrays(pa.large_list(type_), lists),
        arrays(pa.list_(type_, 2), st.lists(one, min_size=2, max_size=2)),
        arrays(
            pa.struct([("a", type_), ("b", pa.list_(type_))]), st.fixed_dictionaries({"a": one, "b": lists})
        ),
        arrays(pa.map_(pa.string(), type_), keys),
    )


def bits(array):
    """What tells the array's values apart: floats by their bits (any NaN is one), times as integers."""
    if pa.types.is_floating(array.type):
        width = f"u{array.type.bit_width // 8}"
        return [
            None if not valid else ("NaN" if np.isnan(value) else int(value.view(width)))
            for valid, value in zip(
                array.is_valid().to_pylist(), array.to_numpy(zero_copy_only=False), strict=True
            )
        ]
    if pa.types.is_temporal(array.type):
        return array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64()).to_pylist()
    return [repr(one) for one in array.to_pylist()]


def there_and_back(array):
    rows = pa.RecordBatch.from_arrays([array], names=["x"])
    restored = rows_from_json(rows_as_json(rows), rows.schema)
    restored.validate(full=True)
    return restored.column(0)


@pytest.mark.parametrize("type_", LEAVES, ids=str)
def test_every_type_comes_back(type_):
    @settings(deadline=None, max_examples=40)
    @given(arrays(type_, LEAVES[type_]))
    def check(array):
        found = there_and_back(array)
        assert found.type == array.type
        assert bits(found) == bits(array)

    check()


NESTABLE = [
    t for t in LEAVES if not pa.types.is_temporal(t) and not pa.types.is_null(t) and t != pa.float16()
]


@pytest.mark.parametrize("type_", NESTABLE, ids=str)
def test_every_type_comes_back_from_lists_structs_and_maps(type_):
    @settings(deadline=None, max_examples=25)
    @given(nested(type_, LEAVES[type_]))
    def check(array):
        found = there_and_back(array)
        assert found.type == array.type
        assert bits(found) == bits(array)

    check()


def test_times_inside_lists_and_structs_come_back_beyond_what_python_can_hold():
    type_ = pa.struct([("at", pa.list_(pa.timestamp("us", tz="UTC"))), ("day", pa.date32())])
    array = pa.array(
        [{"at": [2**62, None, -(2**62)], "day": 2**30}, None, {"at": None, "day": -(2**30)}], type_
    )
    found = there_and_back(array)
    plain = pa.struct([("at", pa.list_(pa.int64())), ("day", pa.int32())])
    assert found.cast(plain).to_pylist() == array.cast(plain).to_pylist()


@unhurried
@given(st.lists(st.none() | st.text(max_size=3), max_size=8))
def test_dictionary_becomes_its_values(values):
    array = pa.array(values, pa.dictionary(pa.int32(), pa.string()))
    rows = pa.RecordBatch.from_arrays([array], names=["x"])
    plain = pa.schema([("x", pa.string())])
    assert rows_from_json(rows_as_json(rows), plain).column(0).to_pylist() == values
    assert there_and_back(array).to_pylist() == values


@unhurried
@given(st.lists(FLOAT64, min_size=1, max_size=8))
def test_text_is_json_that_any_reader_takes(values):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for text in rows_as_json(pa.RecordBatch.from_pydict({"x": pa.array(values)})):
        json.loads(text, parse_constant=refuse)


def test_the_written_form():
    rows = pa.RecordBatch.from_pydict(
        {
            "integer": pa.array([2**53]),
            "long": pa.array([2**53 + 1]),
            "float": pa.array([-0.0]),
            "nan": pa.array([math.nan]),
            "infinity": pa.array([-math.inf]),
            "binary": pa.array([b"\xff\x00"]),
            "decimal": pa.array([Decimal("1.50")]),
            "instant": pa.array(
                [datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)], pa.timestamp("us", tz="UTC")
            ),
            "local": pa.array([datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999)], pa.timestamp("us")),  # noqa: DTZ001
            "date": pa.array([datetime.date(2013, 1, 1)]),
            "time": pa.array([1], pa.time64("us")),
            "flag": pa.array([True]),
            "text": pa.array(['é"\n']),
            "none": pa.array([None], pa.float64()),
            "list": pa.array([[1, None]]),
            "struct": pa.array([{"a": b"x"}]),
            "map": pa.array([[("k", 2**60)]], pa.map_(pa.string(), pa.int64())),
        }
    )
    assert json.loads(rows_as_json(rows)[0]) == {
        "integer": 2**53,
        "long": "9007199254740993",
        "float": 0.0,
        "nan": "NaN",
        "infinity": "-Infinity",
        "binary": "/wA=",
        "decimal": "1.50",
        "instant": "2013-01-01T00:00:00.000000Z",
        "local": "1969-12-31T23:59:59.999999",
        "date": "2013-01-01",
        "time": 1,
        "flag": True,
        "text": 'é"\n',
        "none": None,
        "list": [1, None],
        "struct": {"a": "eA=="},
        "map": [["k", "1152921504606846976"]],
    }
    assert '"float": -0.0' in rows_as_json(rows)[0]
    ordinary = rows.drop_columns(["nan"])
    assert rows_from_json(rows_as_json(ordinary), ordinary.schema).equals(ordinary)


def test_rows_keep_their_order_and_a_column_that_a_row_lacks_is_null():
    rows = pa.RecordBatch.from_pydict({"a": [1, 2, 3], "b": ["x", None, "z"]})
    wider = pa.schema([("b", pa.string()), ("new", pa.list_(pa.int64())), ("a", pa.int64())])
    assert rows_from_json(rows_as_json(rows), wider).to_pylist() == [
        {"b": "x", "new": None, "a": 1},
        {"b": None, "new": None, "a": 2},
        {"b": "z", "new": None, "a": 3},
    ]


def test_no_rows_and_no_columns_are_no_special_case():
    schema = pa.schema([("a", pa.timestamp("us", tz="UTC")), ("b", pa.list_(pa.date32()))])
    assert rows_from_json([], schema).schema == schema
    assert rows_as_json(pa.RecordBatch.from_pylist([], schema)) == []


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_that_is_not_utf_8_comes_back_with_its_bytes(type_):
    raw = pa.array([b"a", b"\xff\xfe", None, "ä".encode()], pa.large_binary())
    text = raw.cast(options=pa.compute.CastOptions(pa.large_string(), allow_invalid_utf8=True))
    batch = pa.record_batch({"x": text.cast(options=pa.compute.CastOptions(type_, allow_invalid_utf8=True))})
    rows = rows_as_json(batch)
    assert [json.loads(row)["x"] for row in rows] == ["a", {"base64": "//4="}, None, "ä"]
    back = rows_from_json(rows, batch.schema).column("x")
    assert back.type == type_
    assert back.cast(pa.large_binary()).equals(raw)
