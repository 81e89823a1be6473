"""The wire form, value by value: what is read, to what, and what is refused with which reason."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_pipelines.columns import DType, decimal
from feature_pipelines.reasons import Reason, Refused
from feature_pipelines.wire import encode, parse, parse_timestamp

FLOAT64, FLOAT32, INT64, INT32 = DType("float64"), DType("float32"), DType("int64"), DType("int32")
BOOL, TIMESTAMP, STRING, BINARY = DType("bool"), DType("timestamp"), DType("string"), DType("binary")
MONEY = decimal(6, 2)
YEAR_1, YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000


def short(value: Any) -> str:
    return str(value)[:24] if isinstance(value, DType) else ascii(value)[:24]


READ: list[tuple[DType, Any, Any]] = [
    (INT64, 0, 0),
    (INT64, -(2**63), -(2**63)),
    (INT64, "9223372036854775807", 2**63 - 1),
    (INT64, "-9223372036854775808", -(2**63)),
    (INT64, "007", 7),
    (INT64, 9007199254740993, 9007199254740993),
    (INT32, "-2147483648", -(2**31)),
    (FLOAT64, 1, 1.0),
    (FLOAT64, 0.1, 0.1),
    (FLOAT64, -0.0, -0.0),
    (FLOAT64, 5e-324, 5e-324),
    (FLOAT64, 2**53 + 1, 9007199254740992.0),
    (FLOAT64, "Infinity", math.inf),
    (FLOAT64, "-Infinity", -math.inf),
    (FLOAT64, 10**400, math.inf),
    (FLOAT64, -(10**400), -math.inf),
    (FLOAT32, 0.1, 0.10000000149011612),
    (FLOAT32, 1e39, math.inf),
    (FLOAT32, 1e-46, 0.0),
    (FLOAT32, 16777217, 16777216.0),
    (BOOL, True, True),
    (BOOL, False, False),
    (STRING, "", ""),
    (STRING, "e\u0301", "e\u0301"),
    (BINARY, "", b""),
    (BINARY, "AP8=", b"\x00\xff"),
    (MONEY, "12.3", 1230),
    (MONEY, "-0.01", -1),
    (MONEY, "0001.500", 150),
    (MONEY, "-0", 0),
    (TIMESTAMP, -1, -1),
    (TIMESTAMP, "1970-01-01T00:00:00Z", 0),
    (TIMESTAMP, "1969-12-31T23:59:59.999999Z", -1),
    (TIMESTAMP, "2013-01-01 00:00:00.5+05:45", 1_356_998_400_500_000 - 345 * 60_000_000),
    (TIMESTAMP, "2013-01-01t00:00:00z", 1_356_998_400_000_000),
    (TIMESTAMP, "2013-01-01T00:00:00.1000000000-00:30", 1_356_998_400_100_000 + 30 * 60_000_000),
    (TIMESTAMP, "0001-01-01T00:00:00Z", YEAR_1),
    (TIMESTAMP, "2000-02-29T00:00:00Z", 951_782_400_000_000),
]


@pytest.mark.parametrize(("dtype", "value", "expected"), READ, ids=short)
def test_parse_reads_the_wire_form(dtype: DType, value: Any, expected: Any) -> None:
    result = parse(dtype, value)
    assert type(result) is type(expected)
    assert (result, math.copysign(1, result) if isinstance(result, float) else 0) == (
        expected,
        math.copysign(1, expected) if isinstance(expected, float) else 0,
    )


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32])
@pytest.mark.parametrize(
    "value", ["NaN", math.nan, -math.nan, struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf4\xff")[0]]
)
def test_parse_makes_every_nan_the_canonical_one(dtype: DType, value: Any) -> None:
    assert struct.pack("<d", parse(dtype, value)) == struct.pack("<d", math.nan)


REFUSED: list[tuple[DType, Any, Reason, str]] = [
    (INT64, 1.0, Reason.WRONG_TYPE, "expected int64: an integer or a string of decimal digits"),
    (INT64, "1e3", Reason.WRONG_TYPE, "expected int64"),
    (INT64, "1.0", Reason.WRONG_TYPE, "expected int64"),
    (INT64, "", Reason.WRONG_TYPE, "expected int64"),
    (INT64, "+1", Reason.WRONG_TYPE, "expected int64"),
    (INT64, " 1", Reason.WRONG_TYPE, "expected int64"),
    (INT64, "1\n", Reason.WRONG_TYPE, "expected int64"),
    (INT64, "\u0661", Reason.WRONG_TYPE, "expected int64"),
    (INT64, True, Reason.WRONG_TYPE, "expected int64"),
    (INT64, [1], Reason.WRONG_TYPE, "expected int64"),
    (INT64, 2**63, Reason.INTEGER_OVERFLOW, "beyond int64"),
    (INT64, "-9223372036854775809", Reason.INTEGER_OVERFLOW, "beyond int64"),
    (INT64, "9" * 5000, Reason.INTEGER_OVERFLOW, "beyond int64"),
    (INT32, 2**31, Reason.INTEGER_OVERFLOW, "beyond int32"),
    (FLOAT64, "1.5", Reason.WRONG_TYPE, "expected float64: a number, or 'NaN', 'Infinity', '-Infinity'"),
    (FLOAT64, "inf", Reason.WRONG_TYPE, "expected float64"),
    (FLOAT32, False, Reason.WRONG_TYPE, "expected float32"),
    (BOOL, 1, Reason.WRONG_TYPE, "expected bool: true or false"),
    (BOOL, "true", Reason.WRONG_TYPE, "expected bool"),
    (STRING, 5, Reason.WRONG_TYPE, "expected a string"),
    (STRING, "\ud800", Reason.BAD_VALUE, "not valid Unicode"),
    (BINARY, b"AA==", Reason.WRONG_TYPE, "expected a base64 string"),
    (BINARY, "A", Reason.BAD_VALUE, "not valid base64"),
    (BINARY, "AA==\n", Reason.BAD_VALUE, "not valid base64"),
    (BINARY, "\u00e9", Reason.BAD_VALUE, "not valid base64"),
    (MONEY, 12.3, Reason.WRONG_TYPE, r"expected decimal\(6, 2\): a string such as '12.34'"),
    (MONEY, "1e2", Reason.WRONG_TYPE, "expected decimal"),
    (MONEY, ".5", Reason.WRONG_TYPE, "expected decimal"),
    (MONEY, "0.001", Reason.PRECISION_LOST, "more than 2 digits behind the point"),
    (MONEY, "0." + "0" * 38 + "1", Reason.PRECISION_LOST, "more than 2 digits"),
    (MONEY, "10000", Reason.OUT_OF_RANGE, r"beyond decimal\(6, 2\)"),
    (
        TIMESTAMP,
        "2013-01-01T00:00:00",
        Reason.BAD_TIMESTAMP,
        "a time without an offset is refused; add 'Z' or an offset",
    ),
    (TIMESTAMP, "2013-01-01", Reason.BAD_TIMESTAMP, "expected RFC 3339 with an offset"),
    (TIMESTAMP, "1356998400000000", Reason.BAD_TIMESTAMP, "expected RFC 3339"),
    (TIMESTAMP, "2013-01-01T00:00:00.0000001Z", Reason.BAD_TIMESTAMP, "finer than a microsecond"),
    (TIMESTAMP, "2013-02-29T00:00:00Z", Reason.BAD_TIMESTAMP, "no such date"),
    (TIMESTAMP, "0000-01-01T00:00:00Z", Reason.BAD_TIMESTAMP, "no such date"),
    (TIMESTAMP, "2013-01-01T24:00:00Z", Reason.BAD_TIMESTAMP, "no such time of day"),
    (TIMESTAMP, "2016-12-31T23:59:60Z", Reason.BAD_TIMESTAMP, "no such time of day"),
    (TIMESTAMP, "2013-01-01T00:00:00+24:00", Reason.BAD_TIMESTAMP, "no such time of day"),
    (TIMESTAMP, "2013-01-01T00:00:00+0100", Reason.BAD_TIMESTAMP, "expected RFC 3339"),
    (TIMESTAMP, 1.0, Reason.WRONG_TYPE, "expected timestamp"),
    (TIMESTAMP, 2**63, Reason.INTEGER_OVERFLOW, "beyond timestamp"),
]


@pytest.mark.parametrize(("dtype", "value", "code", "message"), REFUSED, ids=short)
def test_parse_refuses_with_a_reason(dtype: DType, value: Any, code: Reason, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        parse(dtype, value)
    assert caught.value.code is code


@pytest.mark.parametrize("dtype", [FLOAT64, INT64, BOOL, BINARY, MONEY, TIMESTAMP], ids=str)
def test_refusals_never_repeat_the_value(dtype: DType) -> None:
    with pytest.raises(Refused) as caught:
        parse(dtype, "a secret")
    assert "secret" not in str(caught.value)


WRITTEN: list[tuple[DType, Any, Any]] = [
    (INT64, 2**53, 2**53),
    (INT64, 2**53 + 1, "9007199254740993"),
    (INT64, -(2**53) - 1, "-9007199254740993"),
    (FLOAT64, math.nan, None),
    (FLOAT64, math.inf, "Infinity"),
    (FLOAT64, -math.inf, "-Infinity"),
    (FLOAT64, 0.1, 0.1),
    (BOOL, True, True),
    (STRING, "", ""),
    (BINARY, b"\x00\xff", "AP8="),
    (MONEY, -1, "-0.01"),
    (MONEY, 0, "0.00"),
    (decimal(18, 0), 10**18 - 1, "999999999999999999"),
    (decimal(18, 18), -1, "-0.000000000000000001"),
    (TIMESTAMP, 0, "1970-01-01T00:00:00Z"),
    (TIMESTAMP, -1, "1969-12-31T23:59:59.999999Z"),
    (TIMESTAMP, YEAR_1, "0001-01-01T00:00:00Z"),
    (TIMESTAMP, YEAR_1 - 1, YEAR_1 - 1),
    (TIMESTAMP, YEAR_10000 - 1, "9999-12-31T23:59:59.999999Z"),
    (TIMESTAMP, YEAR_10000, YEAR_10000),
    (TIMESTAMP, 2**63 - 1, 2**63 - 1),
]


@pytest.mark.parametrize(("dtype", "value", "expected"), WRITTEN, ids=short)
def test_encode_writes_the_wire_form(dtype: DType, value: Any, expected: Any) -> None:
    (written,) = encode(dtype, [value])
    assert (type(written), written) == (type(expected), expected)


VALUES: dict[DType, st.SearchStrategy[Any]] = {
    INT64: st.integers(-(2**63), 2**63 - 1),
    INT32: st.integers(-(2**31), 2**31 - 1),
    FLOAT64: st.floats(allow_nan=False),
    FLOAT32: st.floats(allow_nan=False, width=32),
    BOOL: st.booleans(),
    STRING: st.text(st.characters(exclude_categories=["Cs"])),
    BINARY: st.binary(),
    TIMESTAMP: st.integers(-(2**63), 2**63 - 1),
    decimal(18, 7): st.integers(-(10**18) + 1, 10**18 - 1),
}


@given(data=st.data(), dtype=st.sampled_from(list(VALUES)))
def test_parse_of_encode_is_the_value_through_json_text(data: st.DataObject, dtype: DType) -> None:
    value = data.draw(VALUES[dtype])
    (again,) = json.loads(json.dumps(encode(dtype, [value])))
    result = parse(dtype, again)
    assert (type(result), repr(result)) == (type(value), repr(value))


@given(st.text(max_size=40))
def test_parse_timestamp_raises_nothing_but_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(parse_timestamp(text), int)
