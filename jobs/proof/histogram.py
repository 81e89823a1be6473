"""Quantiles of differences that never hold more than a few hundred counts, however many rows there are, and that add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram"]

_SHIFT = np.uint64(
    48
)  # exponent and four bits of the significand of a float64: buckets of a factor of 1 + 1/16 at most
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass
class Histogram:
    """Counts of positive numbers by size: sixteen buckets for each power of two, and the largest number itself.

    >>> seen = Histogram()
    >>> seen.add(np.array([1.0, 1.0, 2.0, 1000.0]))
    >>> seen.quantiles()
    {'p50': 1.0, 'p90': 1000.0, 'p99': 1000.0, 'max': 1000.0}
    """

    counts: Counter[int] = field(default_factory=Counter)
    largest: float = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Count numbers of 0 or more."""
        if not len(values):
            return
        keys, counts = np.unique(np.ascontiguousarray(values).view(np.uint64) >> _SHIFT, return_counts=True)
        self.counts.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
        self.largest = max(self.largest, float(values.max()))

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self.counts.update(other.counts)
        self.largest = max(self.largest, other.largest)

    def quantiles(self) -> dict[str, float]:
        """Return "p50", "p90", "p99" and "max"; {} of no numbers.

        A quantile is the lower bound of its bucket: exact for integers below 32, at most 1/16 too small for all others.
        """
        total = self.counts.total()
        if not total:
            return {}
        keys = sorted(self.counts)
        seen = np.cumsum([self.counts[key] for key in keys])
        found = {}
        for name, share in _QUANTILES.items():
            at = keys[int(np.searchsorted(seen, share * total, side="left"))]
            # the last bucket's rank may be the largest number's
            lower = float((np.array([at], np.uint64) << _SHIFT).view(np.float64)[0])
            found[name] = self.largest if at == keys[-1] and self.counts[at] == 1 else lower
        return found | {"max": self.largest}

    def powers(self) -> list[dict[str, float]]:
        """Return the counts by powers of two, [at_least, below), ascending; what is below 1 is in one class."""
        by_exponent: Counter[int] = Counter()
        for key, count in self.counts.items():
            by_exponent[max((key >> 4) - 1023, -1)] += count
        return [
            {"at_least": float(2.0**e) if e >= 0 else 0.0, "below": float(2.0 ** (e + 1)), "rows": count}
            for e, count in sorted(by_exponent.items())
        ]

    def to_json(self) -> list[Any]:
        """Return JSON values."""
        return [sorted(self.counts.items()), self.largest]

    @classmethod
    def from_json(cls, value: list[Any]) -> Histogram:
        """Return what `to_json` wrote."""
        return cls(Counter({int(key): int(count) for key, count in value[0]}), value[1])
