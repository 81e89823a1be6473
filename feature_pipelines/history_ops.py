"""Aggregates of one column over many ranges of its rows at once, exact where the column is.

Integers, decimals and booleans are summed as integers, so a result has no order of additions to depend on, and each step after the sum
(one division, for std then one square root) is correctly rounded, the same on every machine. Floats are summed by `math.fsum`,
which rounds once whatever the order. This module knows rows and ranges, not keys, times or windows.

Rules for floats: NaN is null and left out. An infinity among the values makes sum, mean and std null, and so does a sum beyond
float64: never a wrong finite number. A sum of zero is +0.0. For min and max -0.0 is less than 0.0, and infinities are values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Nullable, Strings, freeze, values_and_valid
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Field

__all__ = ["Aggregates", "range_extreme"]

_INT64 = 2**63
_EXACT_FLOAT = 2**53

Ints = NDArray[np.int64]


class Aggregates:
    """The aggregates of one column.

    Args:
        declared: the column's declaration.
        column: n rows.
        ranges: by window, first row and row after the last of each range; no range is empty.
    """

    def __init__(self, declared: Field, column: Column, ranges: Mapping[str, tuple[Ints, Ints]]) -> None:
        self.declared = declared
        self.ranges = ranges
        self.values: Any
        self.values, valid = values_and_valid(column)
        n = len(self.values)
        if declared.dtype.is_float:
            self.values = self.values.astype(np.float64)
            valid = ~np.isnan(self.values)
        self.valid = np.ones(n, dtype=np.bool_) if valid is None else valid
        self._before = _prefix(self.valid.astype(np.int64))
        self._float_sums: dict[str, NDArray[np.float64]] = {}
        self._longest = max((int((hi - lo).max()) for lo, hi in ranges.values() if len(lo)), default=0)

    def compute(self, op: str, window: str, name: str) -> Column:
        """Return one aggregate of every range, read-only, in the form that `History.fields` declares.

        Args:
            op: an op of `History`.
            window: a key of `ranges`.
            name: what messages call the result.

        Raises:
            ContractError: a sum that its type cannot hold.
        """
        computed: Column = getattr(self, f"_{op}")(window, name)
        return freeze(computed)

    def _n(self, window: str) -> Ints:
        lo, hi = self.ranges[window]
        n: Ints = self._before[hi] - self._before[lo]
        return n

    def _count(self, window: str, name: str) -> Column:
        n = self._n(window)
        return Nullable(n, np.ones(len(n), dtype=np.bool_))

    def _sum(self, window: str, name: str) -> Column:
        if self.declared.dtype.is_float:
            return self._float_sum(window)
        n, total = self._n(window), self._sums(window, 1)
        digits = self.declared.dtype.precision
        most, least = (10**digits - 1, 1 - 10**digits) if digits else (_INT64 - 1, -_INT64)
        beyond = int(((total > most) | (total < least)).sum()) if self._bound(1) > most else 0
        if beyond:
            raise ContractError(
                f"{name}: {beyond} sum(s) of {self.declared.name!r} are beyond {self.declared.dtype}, so the view cannot hold "
                "them; declare the source field with more digits, or take the mean",
                field=name,
            )
        return Nullable(total.astype(np.int64), n > 0)

    def _mean(self, window: str, name: str) -> Column:
        n = self._n(window)
        if self.declared.dtype.is_float:
            with np.errstate(all="ignore"):
                return _canonical(self._float_sum(window) / n)
        return _quotient(self._sums(window, 1), _times(n, 10**self.declared.dtype.scale))

    def _share(self, window: str, name: str) -> Column:
        return _quotient(self._sums(window, 1), self._n(window))

    def _std(self, window: str, name: str) -> Column:
        if self.declared.dtype.is_float:
            return self._float_std(window)
        n, first, second = self._n(window), self._sums(window, 1), self._sums(window, 2)
        if self._longest * self._bound(2) >= _INT64:
            first, second, n = (part.astype(object) for part in (first, second, n))
        spread = n * second - first * first
        variance = _quotient(spread, _times(n * (n - 1), 10 ** (2 * self.declared.dtype.scale)))
        return np.sqrt(variance)

    def _min(self, window: str, name: str) -> Column:
        return self._extreme(window, least=True)

    def _max(self, window: str, name: str) -> Column:
        return self._extreme(window, least=False)

    def _last(self, window: str, name: str) -> Column:
        lo, hi = self.ranges[window]
        newest = np.maximum.accumulate(np.where(self.valid, np.arange(len(self.valid)), -1))
        row = newest[hi - 1] if len(hi) else hi
        found = row >= lo
        row = np.where(found, row, 0)
        if isinstance(self.values, Strings):
            codes = np.where(found, self.values.codes[row], np.int32(len(self.values.categories)))
            return Nullable(Strings(codes.astype(np.int32), (*self.values.categories, "")), found)
        return self._result(self.values[row], found)

    def _extreme(self, window: str, *, least: bool) -> Column:
        keys = _ordered_bits(self.values) if self.declared.dtype.is_float else self.values.astype(np.int64)
        never = np.iinfo(np.int64).max if least else np.iinfo(np.int64).min
        found = range_extreme(np.where(self.valid, keys, never), *self.ranges[window], least=least)
        values = _from_ordered_bits(found) if self.declared.dtype.is_float else found
        return self._result(values, self._n(window) > 0)

    def _result(self, values: NDArray[Any], found: NDArray[np.bool_]) -> Column:
        if self.declared.dtype.is_float:
            return np.where(found, values, np.nan)
        dtype = self.declared.dtype.numpy
        return Nullable(np.where(found, values, dtype.type(0)).astype(dtype), found)

    # --- sums

    def _bound(self, power: int) -> int:
        """Return what no sum of powers over a range exceeds."""
        if not len(self.values):
            return 0
        values = self.values[self.valid]
        biggest = (
            max((abs(int(bound)) for bound in (values.min(), values.max())), default=0) if len(values) else 0
        )
        bound: int = self._longest * biggest**power
        return bound

    def _sums(self, window: str, power: int) -> NDArray[Any]:
        """Return the exact sums of powers: int64 where they fit, else Python integers.

        Prefix sums may wrap around: their differences are right modulo 2^64, so it is enough that each range's sum fits.
        """
        lo, hi = self.ranges[window]
        fits = self._bound(power) < _INT64
        values = np.where(self.valid, self.values, self.values.dtype.type(0)).astype(np.int64)
        whole: NDArray[Any] = values if fits else values.astype(object)
        before = _prefix(whole**power)
        sums: NDArray[Any] = before[hi] - before[lo]
        return sums

    def _parts(self, window: str) -> list[list[float]]:
        """Return the values of each range; empty where there is none, or an infinity among them."""
        lo, hi = self.ranges[window]
        values = self.values[self.valid].tolist()
        infinite = _prefix(np.isinf(self.values).astype(np.int64))
        first, last = self._before[lo], self._before[hi]
        last = np.where(infinite[hi] > infinite[lo], first, last)
        return [values[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]

    def _float_sum(self, window: str) -> NDArray[np.float64]:
        if window not in self._float_sums:
            sums = [_exact_sum(part) if part else math.nan for part in self._parts(window)]
            self._float_sums[window] = np.array(sums, dtype=np.float64)
        return self._float_sums[window]

    def _float_std(self, window: str) -> NDArray[np.float64]:
        """Return sqrt(fsum((x - mean)^2) / (n - 1)), mean = fsum(x) / n: every step but fsum is one rounding of one value."""
        found = []
        for part, total in zip(self._parts(window), self._float_sum(window).tolist(), strict=True):
            mean = total / max(len(part), 1)
            squares = [(x - mean) * (x - mean) for x in part]
            usable = len(part) > 1 and all(map(math.isfinite, squares))
            found.append(_exact_sum(squares) / (len(part) - 1) if usable else math.nan)
        return np.sqrt(_canonical(np.array(found, dtype=np.float64)))


def range_extreme(keys: Ints, lo: Ints, hi: Ints, *, least: bool) -> Ints:
    """Return the least or greatest key of each range [lo, hi), none of them empty: n log n in all, whatever the lengths."""
    combine = np.minimum if least else np.maximum
    found = np.empty(len(lo), dtype=np.int64)
    if not len(lo):
        return found
    level_of = np.frexp((hi - lo).astype(np.float64))[1] - 1  # of length 2^k to 2^(k+1) - 1: k
    table = keys
    for level in range(int(level_of.max()) + 1):
        here = np.flatnonzero(level_of == level)
        found[here] = combine(table[lo[here]], table[hi[here] - (1 << level)])
        table = combine(table[: -(1 << level)], table[1 << level :])
    return found


def _exact_sum(values: list[float]) -> float:
    """Return the correctly rounded sum of finite floats; NaN where it is beyond float64."""
    try:
        return math.fsum(values) + 0.0
    except OverflowError:  # of an intermediate sum, which depends on the order
        pass
    try:
        return float(sum(map(Fraction, values), Fraction())) + 0.0
    except OverflowError:
        return math.nan


def _prefix(values: NDArray[Any]) -> NDArray[Any]:
    before = np.zeros(len(values) + 1, dtype=values.dtype)
    if len(values):
        np.cumsum(values, out=before[1:])
    return before


def _times(n: NDArray[Any], factor: int) -> NDArray[Any]:
    largest = int(n.max()) if len(n) else 0
    return n * factor if largest * factor < _INT64 and n.dtype != object else n.astype(object) * factor


def _quotient(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Return the correctly rounded quotients of integers; NaN where the denominator is 0."""
    small = (numerator <= _EXACT_FLOAT) & (numerator >= -_EXACT_FLOAT) & (denominator <= _EXACT_FLOAT)
    small = small.astype(np.bool_)
    found = np.full(len(numerator), np.nan)
    with np.errstate(all="ignore"):
        found[small] = numerator[small].astype(np.float64) / denominator[small].astype(np.float64)
    for i in np.flatnonzero(~small):
        found[i] = int(numerator[i]) / int(denominator[i])
    return _canonical(found)


def _canonical(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _ordered_bits(values: NDArray[np.float64]) -> Ints:
    """Return integers in the order of the floats, -0.0 before 0.0."""
    bits = values.view(np.int64)
    return bits ^ ((bits >> 63) & np.int64(2**63 - 1))


def _from_ordered_bits(bits: Ints) -> NDArray[np.float64]:
    return (bits ^ ((bits >> 63) & np.int64(2**63 - 1))).view(np.float64)
