"""Comparison by raw bits: never == (which calls NaN unequal and -0.0 equal), never a tolerance that nobody chose."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["differing_bits", "differing_rows", "row_ulps", "ulp_distance"]


def differing_bits(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where two arrays of one dtype and shape differ in any bit.

    Raises:
        ValueError: another dtype or shape.
    """
    if left.dtype != right.dtype or left.shape != right.shape:
        raise ValueError(f"cannot compare {left.dtype}{left.shape} with {right.dtype}{right.shape}")
    unsigned = np.dtype(f"u{left.dtype.itemsize}")
    differs: NDArray[np.bool_] = np.ascontiguousarray(left).view(unsigned) != np.ascontiguousarray(
        right
    ).view(unsigned)
    return differs


def ulp_distance(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return how many float64 lie between two values: 0 for equal bits (and for 0.0 and -0.0), the maximum if one is NaN.

    Args:
        left, right: float64 of one shape.
    """

    def ordinal(values: NDArray[np.float64]) -> NDArray[np.uint64]:
        bits = np.ascontiguousarray(values).view(np.uint64)
        sign = np.uint64(1) << np.uint64(63)
        return np.where(bits & sign, sign - (bits ^ sign), bits + sign)

    low, high = ordinal(left), ordinal(right)
    distance = np.where(low > high, low - high, high - low)
    one_nan = np.isnan(left) != np.isnan(right)
    both_nan = np.isnan(left) & np.isnan(right)
    return np.where(both_nan, np.uint64(0), np.where(one_nan, np.uint64(np.iinfo(np.uint64).max), distance))


def differing_rows(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows differ in any bit, shape (n,), of two arrays of shape (n,) or (n, values).

    Raises:
        ValueError: another dtype or shape.
    """
    differs = differing_bits(left, right)
    return differs if differs.ndim == 1 else np.asarray(differs.any(axis=1))


def row_ulps(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return the largest `ulp_distance` in each row, shape (n,), of two arrays of shape (n,) or (n, values)."""
    distance = ulp_distance(left, right)
    return distance if distance.ndim == 1 else distance.max(axis=1, initial=0)
