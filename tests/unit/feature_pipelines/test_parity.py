"""Comparison by raw bits and by the number of floats in between."""

from __future__ import annotations

import math

import numpy as np
import pytest

from feature_pipelines.parity import differing_bits, differing_rows, row_ulps, ulp_distance

LARGEST = np.iinfo(np.uint64).max


def test_differing_bits_sees_what_equality_does_not() -> None:
    payload = np.array([0x7FF8000000000001], dtype=np.uint64).view(np.float64)[0]
    left = np.array([0.0, math.nan, math.nan, 1.0])
    right = np.array([-0.0, math.nan, payload, 1.0])
    assert differing_bits(left, right).tolist() == [True, False, True, False]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32, np.bool_])
def test_differing_bits_compares_any_fixed_width_dtype(dtype: type) -> None:
    assert differing_bits(np.array([0, 1], dtype=dtype), np.array([0, 0], dtype=dtype)).tolist() == [
        False,
        True,
    ]


def test_differing_bits_reads_strided_arrays() -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    assert not differing_bits(matrix.T, np.ascontiguousarray(matrix.T)).any()


def test_differing_bits_refuses_arrays_that_do_not_correspond() -> None:
    with pytest.raises(ValueError, match=r"cannot compare float64\(1,\) with float32\(1,\)"):
        differing_bits(np.zeros(1), np.zeros(1, dtype=np.float32))
    with pytest.raises(ValueError, match=r"float64\(1,\) with float64\(2,\)"):
        differing_bits(np.zeros(1), np.zeros(2))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (1.0, 1.0, 0),
        (1.0, math.nextafter(1.0, 2.0), 1),
        (0.0, -0.0, 0),
        (0.0, 5e-324, 1),
        (-5e-324, 5e-324, 2),
        (-1.0, math.nextafter(-1.0, -2.0), 1),
        (1.0, 2.0, 2**52),
        (math.nan, math.nan, 0),
        (math.nan, 1.0, LARGEST),
        (1.7976931348623157e308, math.inf, 1),
    ],
)
def test_ulp_distance_counts_floats_in_between(left: float, right: float, expected: int) -> None:
    assert ulp_distance(np.array([left]), np.array([right])).tolist() == [expected]
    assert ulp_distance(np.array([right]), np.array([left])).tolist() == [expected]


def test_rows_of_several_values_differ_where_any_does_by_the_largest_distance() -> None:
    left = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, math.nan]])
    right = left.copy()
    right[1] = [-0.0, np.nextafter(1.0, 2.0)]
    assert differing_rows(left, right).tolist() == [False, True, False]
    assert row_ulps(left, right).tolist() == [0, 1, 0]
    assert differing_rows(left[:, 0], right[:, 0]).tolist() == [False, True, False]
    assert row_ulps(left[:, 1], right[:, 1]).tolist() == [0, 1, 0]
    assert differing_rows(left[:0], right[:0]).tolist() == row_ulps(left[:0], right[:0]).tolist() == []
