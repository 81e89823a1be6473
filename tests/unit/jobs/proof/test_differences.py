"""Each rule claims what the conversion gives, in both directions, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_pipelines.columns import DType, Nullable, Strings
from jobs.proof.differences import UTC_OFFSETS_MINUTES, How, differences, is_data_type, utc_offset

FLOAT, INT, TIME, TEXT = DType("float64"), DType("int64"), DType("timestamp"), DType("string")
INSTANT = 1_371_037_500_123_457


def how(dtype: DType, online: Any, offline: Any) -> How:
    """How values differ of which all rows are alike; the same whichever side is the converted one."""
    if dtype == TEXT:
        columns: Any = Strings.of([online] * 3), Strings.of([offline] * 3)
    else:
        columns = np.array([online] * 3, dtype=dtype.numpy), np.array([offline] * 3, dtype=dtype.numpy)
    there, back = differences(dtype, *columns), differences(dtype, *columns[::-1])
    assert there.tolist() == back.tolist()
    assert len(set(there.tolist())) == 1
    return How(there[0])


@pytest.mark.parametrize(
    ("dtype", "online", "offline", "expected"),
    [
        (FLOAT, 1.5, 1.5, How.SAME),
        (FLOAT, np.nan, np.nan, How.SAME),
        (FLOAT, float(np.float32(0.1)), 0.1, How.FLOAT32),
        (FLOAT, np.inf, 1e300, How.FLOAT32),
        (FLOAT, -0.0, 0.0, How.ZERO_SIGN),
        (FLOAT, 0.333333333333333, 1 / 3, How.TEXT_DIGITS),
        (FLOAT, np.nextafter(1e9 / 3, 1e10), 1e9 / 3, How.LAST_BIT),
        (FLOAT, -7.0, -7.25, How.TRUNCATED),
        (FLOAT, np.nan, 0.0, How.NULL),
        (FLOAT, 7.5, 7.25, How.OTHER),
        (FLOAT, 7.5, np.inf, How.OTHER),
        (INT, 2**53, 2**53 + 1, How.INT_AS_FLOAT64),
        (INT, int(np.float32(2**24 + 1)), 2**24 + 1, How.INT_AS_FLOAT32),
        (INT, 2**33 + 5, 5, How.INT32_WRAP),
        (INT, 2**53, 2**53 + 2, How.INT_AS_FLOAT32),
        (INT, 2**63 - 1, 2**62, How.OTHER),
        (INT, 8, 7, How.OTHER),
        (DType("int32"), 2**24, 2**24 + 1, How.INT_AS_FLOAT32),
        (DType("decimal", 18, 2), 2**53, 2**53 + 1, How.INT_AS_FLOAT64),
        (DType("bool"), True, False, How.OTHER),
        (DType("float32"), 2.0, 2.5, How.TRUNCATED),
        (TIME, INSTANT - 4 * 3_600_000_000, INSTANT, How.UTC_OFFSET),
        (TIME, INSTANT + 345 * 60_000_000, INSTANT, How.UTC_OFFSET),
        (TIME, INSTANT + 15 * 60_000_000, INSTANT, How.OTHER),
        (TIME, INSTANT + 15 * 3_600_000_000, INSTANT, How.OTHER),
        (TIME, INSTANT // 1_000 * 1_000, INSTANT, How.TIME_UNIT),
        (TIME, INSTANT // 86_400_000_000 * 86_400_000_000, INSTANT, How.TIME_UNIT),
        (TIME, INSTANT + 1, INSTANT, How.FLOAT_SECONDS),
        (TEXT, "Mu\u0308nchen", "M\u00fcnchen", How.NORMALISATION),
        (TEXT, "M\u00c3\u00bcnchen", "M\u00fcnchen", How.ENCODING),
        (TEXT, "1545.0", "1545", How.NUMBER_TEXT),
        (TEXT, "7", "007", How.NUMBER_TEXT),
        (TEXT, "ua", "UA", How.OTHER),
        (TEXT, "UA ", "UA", How.OTHER),
        (TEXT, "", "UA", How.OTHER),
        (TEXT, "1.5", "1", How.OTHER),
    ],
)
def test_difference_is_named_by_the_conversion_that_gives_it(
    dtype: DType, online: Any, offline: Any, expected: How
) -> None:
    assert how(dtype, online, offline) is expected


@pytest.mark.parametrize(
    ("dtype", "changed", "other", "kind"),
    [
        (FLOAT, (12.0, 12.9), (7.5, 7.25), How.TRUNCATED),
        (DType("float32"), (0.0, 0.5), (7.5, 7.25), How.TRUNCATED),
        (
            TIME,
            (INSTANT // 1_000_000 * 1_000_000, INSTANT),
            (INSTANT + 7 * 60_000_000, INSTANT),
            How.TIME_UNIT,
        ),
        (TIME, (INSTANT + 3_600_000_000, INSTANT), (INSTANT + 7 * 60_000_000, INSTANT), How.UTC_OFFSET),
    ],
)
@pytest.mark.parametrize(
    ("n_like", "n_other", "is_pattern"),
    [(2, 0, False), (3, 0, True), (9, 1, True), (8, 1, False), (89, 11, False), (90, 10, True)],
)
def test_what_ordinary_changes_look_like_too_is_claimed_where_nearly_all_rows_do(
    dtype: DType, changed: Any, other: Any, kind: How, n_like: int, n_other: int, is_pattern: bool
) -> None:
    rows = [changed] * n_like + [other] * n_other + [(other[0], other[0])] * 200
    online, offline = (np.array(side, dtype=dtype.numpy) for side in zip(*rows, strict=True))
    nothing = Nullable(np.concatenate([online, online]), np.repeat([True, False], len(rows)))
    there = Nullable(np.concatenate([offline, offline]), np.ones(2 * len(rows), dtype=np.bool_))
    found = differences(dtype, online, offline)
    assert set(found[:n_like].tolist()) == {kind if is_pattern else How.OTHER}
    assert set(found[n_like : n_like + n_other].tolist()) <= {How.OTHER}
    assert differences(dtype, nothing, there)[: len(rows)].tolist() == found.tolist()


def test_row_that_is_no_pattern_may_still_be_a_conversion() -> None:
    exact = np.array([2.00000001, 0.1, 0.3, 0.7])
    through = exact.astype(np.float32).astype(np.float64)
    assert differences(FLOAT, through, exact).tolist() == [How.FLOAT32] * 4


def test_null_on_one_side_is_a_null_whatever_stands_in_its_place() -> None:
    valid = np.array([True, False, True, False])
    online = Nullable(np.array([1, 0, 3, 0]), valid)
    offline = Nullable(np.array([1, 0, 4, 9]), valid[::-1])
    assert differences(INT, online, offline).tolist() == [How.NULL] * 4
    assert differences(INT, online, Nullable(np.array([1, 7, 4, 9]), valid)).tolist() == [
        How.SAME,
        How.SAME,
        How.OTHER,
        How.SAME,
    ]


def test_bytes_are_equal_or_other() -> None:
    online = np.array([b"a", b"b"], dtype=np.object_)
    assert differences(DType("binary"), online, online[[0, 0]]).tolist() == [How.SAME, How.OTHER]


def test_strings_are_compared_by_text_and_not_by_code() -> None:
    one, other = Strings.of(["a", "b", "c"]), Strings.of(["c", "b", "a"])
    assert differences(TEXT, one, other).tolist() == [How.OTHER, How.SAME, How.OTHER]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_equal_bits_alone_are_the_same(one: float, other: float) -> None:
    is_same = np.float64(one).tobytes() == np.float64(other).tobytes()
    assert (how(FLOAT, one, other) is How.SAME) == is_same


@given(st.integers(-(2**63), 2**63 - 1))
def test_integer_through_float64_is_always_found(value: int) -> None:
    rounded = int(float(value))
    if rounded != value and rounded < 2**63:
        assert how(INT, rounded, value) is How.INT_AS_FLOAT64


@given(st.sampled_from(sorted(UTC_OFFSETS_MINUTES - {0})), st.integers(0, 2**52))
def test_offset_of_a_zone_is_found_and_given(minutes: int, instant: int) -> None:
    local = instant + minutes * 60_000_000
    assert how(TIME, local, instant) is How.UTC_OFFSET
    assert utc_offset(np.array([local]), np.array([instant])).tolist() == [minutes]


def test_every_difference_is_said_and_only_some_are_of_types() -> None:
    assert all(one.said for one in How)
    of_types = {one for one in How if is_data_type(np.array([one], dtype=np.int8))[0]}
    assert of_types == set(How) - {How.SAME, How.NULL, How.OTHER}
