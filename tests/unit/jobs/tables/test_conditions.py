"""Conditions a person types: each value by the type of its column, and every mistake by name."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.tables.conditions import rows_where

NOON = datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.UTC)
ROWS = pa.table(
    {
        "text": pa.array(["a", "1", "a=b", None]),
        "code": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "number": pa.array([1, 2**53 + 1, -3, None], pa.int64()),
        "small": pa.array([0.1, 0.2, 0.1, None], pa.float32()),
        "real": pa.array([0.1, 1e300, -0.5, None]),
        "is_late": pa.array([True, False, True, None]),
        "at": pa.array([NOON, NOON, None, None], pa.timestamp("us", "UTC")),
        "day": pa.array([NOON.date(), None, None, None]),
        "money": pa.array([Decimal("1.50"), Decimal("2.00"), None, None], pa.decimal128(9, 2)),
        "bytes": pa.array([b"a", b"b", b"c", None]),
        "list": pa.array([[1], [2], [3], None]),
    }
)


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([], [0, 1, 2, 3]),
        (["text=1"], [1]),
        (["text=a=b"], [2]),
        (["text="], []),
        (["code=x"], [0, 2]),
        (["number=9007199254740993"], [1]),
        (["number=9007199254740992"], []),
        (["small=0.1"], [0, 2]),
        (["real=1e300"], [1]),
        (["is_late=true"], [0, 2]),
        (["at=2020-01-01T12:00:00Z"], [0, 1]),
        (["at=2020-01-01T13:00:00+01:00"], [0, 1]),
        (["day=2020-01-01"], [0]),
        (["money=1.50"], [0]),
        (["is_late=true", "number=-3"], [2]),
    ],
)
def test_rows_with_the_values_are_found(conditions: list[str], found: list[int]) -> None:
    rows = ROWS.append_column("i", pa.array(range(4)))
    filtered = ds.dataset(rows).to_table(filter=rows_where(rows.schema, conditions))
    assert filtered.column("i").to_pylist() == found


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("text", "--where text: expected column=value"),
        ("txt=a", r"no column 'txt'\. Did you mean 'text'\?.*It has: text, code"),
        ("number=1.5", "column 'number' is int64, and '1.5' is no value of it"),
        ("number=99999999999999999999", "is no value of it"),
        ("is_late=perhaps", "column 'is_late' is bool"),
        ("at=2020-01-01T12:00:00", r"timestamp\[us, tz=UTC\], and .* \(such as 2013-06-01T10:15:00Z\)"),
        ("bytes=a", "column 'bytes' is binary, which cannot be compared here"),
        ("list=1", r"column 'list' is list<.*>, which cannot be compared here"),
    ],
)
def test_mistakes_are_named(condition: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rows_where(ROWS.schema, ["text=a", condition])
